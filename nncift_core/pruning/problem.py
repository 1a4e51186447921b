"""The data of a prune job: rows, labels, groups, and the cached embeddings that frozen training reads."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from nncift_core.config_prune import PruneConfig
from nncift_core.encoders import encoder_key
from nncift_core.errors import RunError
from nncift_core.hashing import digest, int63
from nncift_core.pipeline.inputs import LabelledRole
from nncift_core.pipeline.problem import Keys
from nncift_core.pruning.keys import array_digest
from nncift_core.pruning.noise import nearest_classes, plant
from nncift_core.store.datasets import Dataset
from nncift_core.store.references import DatasetRef
from nncift_core.store.vectors import VectorStore
from nncift_core.store.workspace import Workspace

Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]

# Under which id the empty text is embedded: no row's content, and one that `nncift gc` always keeps.
EMPTY = 0


@dataclass(frozen=True)
class LabelSet:
    """The labels that a model is trained on: as given (noise ""), or with a share changed on purpose; seed:
    number of the draw."""

    noise: str = ""
    rate: float = 0.0
    seed: int = 0

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.noise} noise {self.rate:g}, draw {self.seed}" if self.noise else "labels as given"


GIVEN = LabelSet()


@dataclass(frozen=True)
class Texts:
    """Texts of n rows; pairs: the second text of each, None for single texts."""

    texts: tuple[str, ...]
    pairs: tuple[str, ...] | None

    def __len__(self) -> int:
        return len(self.texts)


class PruneProblem:
    """What every shard of a prune job reads; N rows to prune, K classes."""

    def __init__(self, ws: Workspace, config: PruneConfig, keys: Keys, refs: tuple[DatasetRef, ...]) -> None:
        self.ws, self.config, self.keys, self.refs = ws, config, keys, refs
        self.vectors = VectorStore(ws, digest(["labelled-text", 1, keys.encoder]))
        self._features: dict[str, Float32] = {}
        self._labels: dict[LabelSet, Int64] = {}
        self._digests: dict[LabelSet, list[str]] = {}

    def look_again(self) -> None:
        """See the vectors that others have stored meanwhile."""
        self.vectors.refresh()

    @cached_property
    def _datasets(self) -> dict[str, Dataset]:
        return {ref.role: Dataset(self.ws, ref) for ref in self.refs}

    @property
    def datasets(self) -> list[Dataset]:
        """The stored rows of every role."""
        return list(self._datasets.values())

    def has(self, role: LabelledRole) -> bool:
        """Whether the job has rows in this role."""
        return any(ref.role == role for ref in self.refs)

    def dataset(self, role: LabelledRole) -> Dataset:
        """The stored rows of a role."""
        return self._datasets[role]

    @property
    def train(self) -> Dataset:
        """The rows to prune."""
        return self.dataset("train")

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """The K labels of the rows to prune, sorted."""
        return tuple(sorted(set(self.train.rows["label"].to_pylist())))

    def given_labels(self, role: LabelledRole) -> Int64:
        """Class of every row of a role, [n]."""
        number = {name: k for k, name in enumerate(self.classes)}
        return np.array([number[name] for name in self.dataset(role).rows["label"].to_pylist()], np.int64)

    @cached_property
    def labels(self) -> Int64:
        """Given class of every row to prune, [N]."""
        return self.given_labels("train")

    def labels_of(self, labels: LabelSet) -> Int64:
        """Classes [N] under a label set, made once."""
        if labels not in self._labels:
            self._labels[labels] = self._planted(labels) if labels.noise else self.labels
        return self._labels[labels]

    def rows_digests(self, labels: LabelSet, rows: Int64 | None = None) -> list[str]:
        """Identity of the contents and classes under a label set of the rows at positions `rows`; None: of
        all rows, found once."""
        ids, classes = self.train.content_ids, self.labels_of(labels)
        if rows is not None and len(rows) < len(ids):
            return [array_digest(ids[rows]), array_digest(classes[rows])]
        if labels not in self._digests:
            self._digests[labels] = [array_digest(ids), array_digest(classes)]
        return self._digests[labels]

    @cached_property
    def model_key(self) -> str:
        """Identity of the encoder as trainings read it: where it is trained itself, texts have no prefix."""
        config = self.config
        if config.training.mode == "frozen" or not config.encoder.pool_prefix:
            return self.keys.encoder
        return encoder_key(config.encoder.model_copy(update={"pool_prefix": ""}), config.base_dir)

    def _planted(self, labels: LabelSet) -> Int64:
        nearest = self._nearest if labels.noise == "confusable" else None
        seed = self.seed_of("noise", labels.seed)
        return plant(self.labels, len(self.classes), labels.noise, labels.rate, seed, nearest)  # type: ignore[arg-type]

    @cached_property
    def _nearest(self) -> Int64:
        """Nearest other class of every class by mean embedding, [K]."""
        return nearest_classes(self.raw_features("train"), self.labels, len(self.classes))

    def seed_of(self, purpose: str, number: int) -> int:
        """The seed of draw `number` for a purpose: no other purpose, number or job's seed has the same."""
        return int63(f"prune\x1f{purpose}\x1f{self.config.seed}\x1f{number}") >> 31

    def groups(self, role: LabelledRole) -> list[str | None]:
        """The user's group of every row, None where there is none."""
        found: list[str | None] = self.dataset(role).rows["task"].to_pylist()
        return found

    def texts(self, role: LabelledRole) -> Texts:
        """Texts of every row of a role, in file order."""
        dataset = self.dataset(role)
        found = dataset.texts(dataset.content_ids)
        return Texts(found.prompts, found.responses if self.paired else None)

    @cached_property
    def paired(self) -> bool:
        """Whether rows are pairs of texts."""
        found = self.train.texts(self.train.content_ids[:1])
        return bool(found.responses[0])

    def contents(self) -> list[tuple[LabelledRole, Int64]]:
        """Distinct contents of every role; those that are embedded."""
        roles: tuple[LabelledRole, ...] = ("train", "test", "new")
        return [(role, self.dataset(role).contents) for role in roles if self.has(role)]

    def raw_features(self, role: LabelledRole) -> Float32:
        """What was stored of every row: the embedding [n, d], or of a pair both in a row, [n, 2 d]."""
        return self.vectors.load(self.dataset(role).content_ids)

    def features(self, role: LabelledRole) -> Float32:
        """What a head on the frozen encoder reads, [n, D], made once: see `widened`."""
        if role not in self._features:
            self._features[role] = widened(self.raw_features(role), paired=self.paired)
        return self._features[role]

    def empty_features(self) -> Float32:
        """The features [1, D] of the empty text, which the null model of PVI is trained on."""
        return widened(self.vectors.load(np.array([EMPTY], np.int64)), paired=self.paired)

    @property
    def parents(self) -> tuple[str, ...]:
        """The stored data that everything here is made of."""
        return tuple(ref.path for ref in self.refs)

    @cached_property
    def tail(self) -> Int64:
        """The rarest tenth of the classes by given labels, at least one; the lower number among equals."""
        counts = np.bincount(self.labels, minlength=len(self.classes))
        return np.sort(np.argsort(counts, kind="stable")[: max(1, len(counts) // 10)])

    def check_embedded(self) -> None:
        """Raise RunError where a vector that frozen training reads is missing."""
        for role, contents in self.contents():
            missing = len(self.vectors.missing(contents))
            if missing:
                raise RunError(f"{missing:,} {role} rows have no embedding; run again to compute them")


def widened(stored: Float32, *, paired: bool) -> Float32:
    """Unit embeddings times sqrt(d), so that coordinates are near 1.

    Of a pair u, v (both unit vectors): u, v, |u - v| and u * v side by side, after that scaling
    (sentence-BERT's features, arXiv 1908.10084).
    """
    if not paired:
        return np.ascontiguousarray(stored * np.float32(np.sqrt(stored.shape[1])))
    d = stored.shape[1] // 2
    u, v = (stored[:, at : at + d] * np.float32(np.sqrt(d)) for at in (0, d))
    return np.ascontiguousarray(np.concatenate([u, v, np.abs(u - v), u * v], axis=1))
