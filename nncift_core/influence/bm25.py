"""BM25 as an influence function: the words of a target row that a pool row holds, weighed by rarity.

influence(i, j) = BM25 score of document i for the words of j (equation: `nncift_core.bm25`), a text being
prompt, newline, response on both sides. Rarity and mean length come from the pool rows that the state is
fitted on; a pool that grew since may hold words unknown to it, which count as the rarest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from nncift_core.bm25 import Okapi, WordStatistics
from nncift_core.config import BM25Config, Config
from nncift_core.encoders import example_text
from nncift_core.hashing import digest
from nncift_core.influence.contract import CostModel, Float32, Pairwise, Progress, Rows

_STATE = "words.json"
# Rows between two words of progress.
_STEP = 256


class BM25(Pairwise):
    """Lexical match of a pool row with a target row; 0 where no word is shared, never negative."""

    name = "bm25"
    version = 1
    cost = CostModel()
    needs = frozenset({"state"})
    state_is_costly = False

    def __init__(self, config: BM25Config | None = None) -> None:
        self.config = config or BM25Config()
        self.counters: Counter[str] = Counter()
        self._scores: Okapi | None = None

    @classmethod
    def from_config(cls, config: Config, device: str) -> BM25:
        """The function of `config`; it runs on the CPU whatever the device."""
        return cls(config.influence.bm25)

    @classmethod
    def key_of(cls, config: Config) -> str:
        """What `key()` of `from_config(config, ...)` gives."""
        return cls(config.influence.bm25).key()

    @classmethod
    def state_rows(cls, config: Config, n: int) -> int:
        """All `n` pool rows: counting words costs next to nothing."""
        return n

    def key(self) -> str:
        """Digest of name, version, k1 and b; the rows that the state is fitted on are not in it."""
        return digest({"name": self.name, "version": self.version, **self.config.model_dump()})

    def fit_state(self, pool: Rows, folder: Path, progress: Callable[[int, int], None] | None = None) -> None:
        """Count the words of `pool` into `folder`/words.json; raises ValueError for an empty pool."""
        counted = 0

        def count(rows: int) -> None:
            nonlocal counted
            counted += rows
            if progress is not None and (counted % _STEP == 0 or counted == len(pool)):
                progress(counted, len(pool))

        WordStatistics.of(_texts(pool), count).save(folder / _STATE)

    def load_state(self, folder: Path) -> None:
        """Take up the word counts; raises IntegrityError when `folder` holds none."""
        self._scores = Okapi(WordStatistics.load(folder / _STATE), self.config.k1, self.config.b)

    def tile(self, rows: Rows, columns: Rows, progress: Progress | None = None) -> Float32:
        """Scores [len(rows), len(columns)]; raises ValueError before `load_state`."""
        out = self._loaded().scores(_texts(rows), _texts(columns))
        if progress is not None:
            progress(out.size)
        return out

    def pairs(self, rows: Rows, columns: Rows, progress: Progress | None = None) -> Float32:
        """Score of rows[k] for columns[k], [len(rows)]; raises ValueError before `load_state` and for
        unequal lengths."""
        out = self._loaded().pair_scores(_texts(rows), _texts(columns))
        if progress is not None:
            progress(len(out))
        return out

    def _loaded(self) -> Okapi:
        if self._scores is None:
            raise ValueError('bm25 needs "state": load_state() comes first')
        return self._scores


def _texts(rows: Rows) -> list[str]:
    return [example_text(p, r) for p, r in zip(rows.prompts, rows.responses, strict=True)]
