"""The forward passes of DELIFT: distances of many sequences, what they begin with computed once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from nncift_core.batching import TokenBudget, is_out_of_memory, slack_of
from nncift_core.errors import RunError
from nncift_core.forward import (
    Batch,
    batch_log_probs,
    can_share,
    encode_together,
    one_at_a_time,
    response_batch,
)
from nncift_core.influence.contract import Float32, Int64, Progress
from nncift_core.language_models import LanguageModel
from nncift_core.prefixes import Prefixes
from nncift_core.sequences import fit

Float64 = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ids = list[int]

# Sequences without a shared prefix that are kept before they are measured: many batches, so sorting pays.
_WINDOW = 4096
# More tokens at once than this leave a CPU's caches and are no faster.
_CPU_TOKENS = 1024


@dataclass(frozen=True)
class Grid:
    """Sequences prefixes[r] ++ tails[k] ++ responses[k] for every r < g and k < n, BOS included.

    where [g, n]: their places in the result; sizes [n, 2]: lengths of tails and responses.
    """

    prefixes: list[Ids]
    tails: list[Ids]
    responses: list[Ids]
    where: Int64
    sizes: Int64 = field(init=False)

    def __post_init__(self) -> None:
        pairs = zip(self.tails, self.responses, strict=True)
        object.__setattr__(self, "sizes", np.array([(len(t), len(r)) for t, r in pairs], np.int64))

    def tokens(self, shared: bool) -> int:
        """Tokens read when the prefixes are `shared`, or not; the last token of a response is not read."""
        g, n = len(self.prefixes), len(self.tails)
        return g * (int(self.sizes.sum()) - n) + sum(map(len, self.prefixes)) * (1 if shared else n)


class Passes:
    """Distances d of sequences under one model; remembers what its memory holds.

    counters["cut"]: sequences that were longer than the context.
    """

    def __init__(self, model: LanguageModel, batch_tokens: int) -> None:
        slack = slack_of(model.device)
        tokens = min(batch_tokens, _CPU_TOKENS) if model.device == "cpu" else batch_tokens
        self.model = model
        self.counters: Counter[str] = Counter()
        self.budget = TokenBudget(tokens, slack, device=model.device, single=one_at_a_time(model))
        # Limits of their own: keys and values of prefixes stay in memory while what follows them is computed.
        self.prefix_budget = TokenBudget(tokens, slack, device=model.device)
        self.shared_budget = TokenBudget(tokens, slack, device=model.device)

    def worthwhile(self, grid: Grid) -> bool:
        """Whether sharing its prefixes saves more than the passes it costs."""
        saved = grid.tokens(False) - grid.tokens(True)
        return saved > 2 * self.budget.slack and can_share(self.model)

    def measure(self, grids: Iterable[Grid], count: int, progress: Progress | None = None) -> Float64:
        """d [count] of all sequences of `grids`; progress(k): k more are known.

        Raises RunError for a probability that is no number, and where one sequence does not fit into memory.
        """
        work = _Work(self, np.empty(count, np.float64), progress)
        for grid in grids:
            if self.worthwhile(grid):
                work.share(grid)
            else:
                everything = np.ones(grid.where.shape, np.bool_)
                work.put_aside(grid, np.arange(len(grid.prefixes)), everything)
        work.measure_aside()
        return work.distances


@dataclass
class _Work:
    """One call of `Passes.measure`: results so far, and the sequences to measure without a shared prefix."""

    passes: Passes
    distances: Float64
    progress: Progress | None
    aside: list[tuple[Ids, Ids, int]] = field(default_factory=list)

    def share(self, grid: Grid) -> None:
        """Measure a grid, every prefix computed once; put aside what context or memory does not hold so.

        Memory that runs out after several prefixes halves their number; what is measured stays measured.
        """
        model, lengths = self.passes.model, np.array([len(ids) for ids in grid.prefixes], np.int64)
        most = np.iinfo(np.int64).max if model.context_length is None else model.context_length
        fits = lengths[:, None] + grid.sizes.sum(axis=1) <= most
        self.put_aside(grid, np.arange(len(lengths)), ~fits)
        left, ready = fits.copy(), dict[bytes, Batch]()
        some = np.flatnonzero(fits.any(axis=1))

        def measure(batch: Int64) -> None:
            rows = some[batch]
            if self._share_rows(grid, rows, left, ready):
                return
            if len(rows) > 1:
                raise MemoryError("out of memory after several prefixes")
            rest = left[rows]
            left[rows] = False
            self.put_aside(grid, rows, rest)

        self.passes.prefix_budget.run(lengths[some], measure)

    def _share_rows(self, grid: Grid, rows: Int64, left: Bools, ready: dict[bytes, Batch]) -> bool:
        """Measure the cells of `rows` that are `left` [g, n], and take them off; False when memory ran out.

        Nothing is kept in memory once this returns.
        """
        budget = self.passes.shared_budget
        tokens = budget.tokens
        try:
            prefix = encode_together(self.passes.model, [grid.prefixes[r] for r in rows.tolist()])
            for part in _alike(left[rows]):
                columns = np.flatnonzero(left[rows[part.start]])
                if len(columns):
                    self._share_columns(grid, rows[part], columns, prefix, part, left, ready)
            return True
        except _CrowdedError:
            pass
        except (RuntimeError, MemoryError) as e:
            if not is_out_of_memory(e):
                raise
        # With fewer prefixes, more tokens may follow them again.
        budget.tokens = tokens
        return False

    def _share_columns(
        self,
        grid: Grid,
        rows: Int64,
        columns: Int64,
        prefixes: Prefixes,
        which: slice,
        left: Bools,
        ready: dict[bytes, Batch],
    ) -> None:
        """Measure the cells rows x columns of a grid; `rows` are those of prefixes[which].

        Raises _CrowdedError when memory runs out and the prefixes fill more of it than what follows them, or
        when it does not hold one cell.
        """
        prefix, kept = prefixes.rows(which), len(prefixes) * max(prefixes.lengths)
        # The last response token is not read.
        lengths = grid.sizes[columns].sum(axis=1) - 1

        def measure(part: slice, chosen: Int64) -> None:
            index, height = columns[chosen], part.stop - part.start
            cells = np.ix_(rows[part], index)
            try:
                batch = self._batch(grid, index, ready)
                log_probs = batch_log_probs(self.passes.model, batch, prefix.rows(part))
            except (RuntimeError, MemoryError) as e:
                if not is_out_of_memory(e):
                    raise
                size = height * len(index)
                if size == 1 or (len(prefixes) > 1 and kept >= size * int(lengths[chosen].max())):
                    raise _CrowdedError from None
                raise
            self.distances[grid.where[cells]] = _distances(log_probs, batch.starts)
            left[cells] = False
            self._report(height * len(index))

        self.passes.shared_budget.run_blocks(len(rows), lengths, measure)

    def _batch(self, grid: Grid, index: Int64, ready: dict[bytes, Batch]) -> Batch:
        """The columns `index` of a grid as a batch; the same ones are asked for again and again."""
        key = index.tobytes()
        if key not in ready:
            if sum(len(batch.starts) for batch in ready.values()) > 4 * len(grid.tails):
                ready.clear()
            chosen = index.tolist()
            tails, responses = [grid.tails[k] for k in chosen], [grid.responses[k] for k in chosen]
            ready[key] = response_batch(self.passes.model, tails, responses)
        return ready[key]

    def put_aside(self, grid: Grid, rows: Int64, which: Bools) -> None:
        """Have the cells `which` [len(rows), n] of a grid's rows measured without sharing, later."""
        bos = len(self.passes.model.bos_ids)
        for r, k in zip(*np.nonzero(which), strict=True):
            row = int(rows[r])
            prompt = grid.prefixes[row][bos:] + grid.tails[k]
            self.aside.append((prompt, grid.responses[k], int(grid.where[row, k])))
            if len(self.aside) == _WINDOW:
                self.measure_aside()

    def measure_aside(self) -> None:
        """Measure what was put aside, cut to the context where need be."""
        model = self.passes.model
        fitted = [fit(model, prompt, response, "influence.delift") for prompt, response, _ in self.aside]
        where = np.array([at for _, _, at in self.aside], np.int64)

        def measure(batch: Int64) -> None:
            chosen = [fitted[k] for k in batch.tolist()]
            values = model.response_log_probs([c[0] for c in chosen], [c[1] for c in chosen])
            starts = np.cumsum([0, *map(len, values[:-1])])
            self.distances[where[batch]] = _distances(np.concatenate(values)[None], starts)[0]
            self._report(len(batch))

        lengths = np.array([len(prompt) + len(response) - 1 for prompt, response, _ in fitted], np.int64)
        self.passes.budget.run(lengths, measure)
        self.passes.counters["cut"] += sum(cut for _, _, cut in fitted)
        self.aside.clear()

    def _report(self, count: int) -> None:
        if self.progress is not None:
            self.progress(count)


class _CrowdedError(Exception):
    """Memory ran out, and fewer prefixes in it would help."""


def _alike(cells: Bools) -> Iterator[slice]:
    """Runs of rows of `cells` [g, n] that are equal to one another."""
    changes = np.flatnonzero((cells[1:] != cells[:-1]).any(axis=1)) + 1
    edges = [0, *changes.tolist(), len(cells)]
    for start, stop in pairwise(edges):
        yield slice(start, stop)


def _distances(log_probs: Float32, starts: Int64) -> Float64:
    """|| p - 1 ||_2 / sqrt(T) [g, n] from log p [g, K] of n responses, one after the other.

    Raises RunError for a probability that is no number.
    """
    miss = np.expm1(log_probs.astype(np.float64))
    squares = np.add.reduceat(miss * miss, starts, axis=1)
    distances: Float64 = np.sqrt(squares / np.diff(starts, append=miss.shape[1]))
    if np.isnan(distances).any():
        raise RunError(
            'the language model gave a probability that is not a number: use dtype = "float32" or "bfloat16"'
        )
    return distances
