"""The matrix of a job: its rows, columns, tasks and the keys under which values are stored."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from nncift_core.config import Config
from nncift_core.encoders import encoder_key
from nncift_core.finetune import student_key
from nncift_core.hashing import digest
from nncift_core.influence.contract import Rows
from nncift_core.influence.registry import function_key
from nncift_core.store.datasets import Dataset
from nncift_core.store.references import DatasetRef
from nncift_core.store.segments import SegmentStore
from nncift_core.store.vectors import VectorStore
from nncift_core.store.workspace import Workspace

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Keys:
    """Identities of what the job computes with; found without loading a model."""

    encoder: str
    function: str
    student: str | None = None

    def models(self) -> dict[str, str]:
        """By role, for `run_key`; the student only where one is trained."""
        found = {"encoder": self.encoder, "function": self.function}
        return found | ({"student": self.student} if self.student else {})


def keys_of(config: Config) -> Keys:
    """Keys of encoder, function and student; raises UserError when a model cannot be found."""
    trained = student_key(config) if config.finetune is not None else None
    return Keys(encoder_key(config.encoder, config.base_dir), function_key(config), trained)


def design_family(config: Config, keys: Keys) -> str:
    """What label designs share: function, encoder, kind of labels, fraction, seed. Not the data: which
    design fits which rows is decided by their contents."""
    labels = [config.labels(), config.influence.label_fraction, config.seed]
    return digest([keys.function, keys.encoder, *labels])


@dataclass(frozen=True, eq=False)
class Problem:
    """Pool rows x target rows (or pool x pool) over stored data sets.

    Rows of the matrix are distinct contents of the pool, then those of `selection.existing` that the
    pool lacks; columns are distinct contents of the targets. Views and selection expand to rows.
    """

    ws: Workspace
    config: Config
    keys: Keys
    datasets: tuple[Dataset, ...]

    @classmethod
    def load(cls, ws: Workspace, config: Config, keys: Keys, refs: list[DatasetRef]) -> Problem:
        """From references; raises IntegrityError when a stored file is damaged."""
        return cls(ws, config, keys, tuple(Dataset(ws, r) for r in refs))

    def of_role(self, role: str) -> list[Dataset]:
        """The data sets of one role."""
        return [d for d in self.datasets if d.ref.role == role]

    @property
    def valued(self) -> tuple[str, ...]:
        """Paths of the data sets that decide values: all but the held-out rows."""
        return tuple(d.ref.path for d in self.datasets if d.ref.role != "test")

    @property
    def pool(self) -> Dataset:
        """The pool D_F."""
        return self.of_role("pool")[0]

    @property
    def targets(self) -> list[Dataset]:
        """The target sets D_T: the pool itself for `target.source = "self"`."""
        return self.of_role("target") or [self.pool]

    @cached_property
    def row_shards(self) -> list[Int64]:
        """Row contents, block by block."""
        return _distinct([self.pool, *self.of_role("existing")])

    @cached_property
    def column_shards(self) -> list[Int64]:
        """Column contents, block by block."""
        return _distinct(self.targets)

    @cached_property
    def rows(self) -> Int64:
        """Row contents [M] in order of arrival."""
        return np.concatenate(self.row_shards)

    @cached_property
    def columns(self) -> Int64:
        """Column contents [N] in order of arrival."""
        return np.concatenate(self.column_shards)

    @cached_property
    def target_contents(self) -> Int64:
        """Content of every target row, in order."""
        return np.concatenate([t.content_ids for t in self.targets])

    @cached_property
    def column_of_target(self) -> Int64:
        """Index into `columns` of every target row."""
        place = {c: j for j, c in enumerate(self.columns.tolist())}
        return np.array([place[c] for c in self.target_contents.tolist()], dtype=np.int64)

    @cached_property
    def task_names(self) -> list[str]:
        """Target tasks, sorted."""
        return sorted(set(self._tasks))

    @cached_property
    def task_of_target(self) -> Int64:
        """Index into `task_names` of every target row."""
        place = {t: k for k, t in enumerate(self.task_names)}
        return np.array([place[t] for t in self._tasks], dtype=np.int64)

    @cached_property
    def _tasks(self) -> list[str]:
        return [t for d in self.targets for t in d.tasks()]

    @property
    def all_exact(self) -> bool:
        """Whether every pair is labelled, so that nothing is fitted."""
        return self.config.influence.label_fraction >= 1

    @cached_property
    def vectors(self) -> VectorStore:
        """Embeddings under the job's encoder."""
        return VectorStore(self.ws, self.keys.encoder)

    @cached_property
    def exact_store(self) -> SegmentStore:
        """Exact values under the job's function."""
        return SegmentStore(self.ws, "exact", self.keys.function)

    def estimate_store(self, estimator_key: str) -> SegmentStore:
        """Estimates of one estimator."""
        if estimator_key not in self._estimate_stores:
            self._estimate_stores[estimator_key] = SegmentStore(self.ws, "estimate", estimator_key)
        return self._estimate_stores[estimator_key]

    @cached_property
    def _estimate_stores(self) -> dict[str, SegmentStore]:
        return {}

    def texts(self, content_ids: Int64, *, embeddings: bool = False) -> Rows:
        """Texts of `content_ids` [n] wherever they are stored, with embeddings when asked for."""
        found: dict[int, tuple[str, str]] = {}
        for dataset in self.datasets:
            here = np.array([c for c in content_ids.tolist() if c not in found], dtype=np.int64)
            here = here[np.isin(here, dataset.contents)]
            if len(here):
                t = dataset.texts(here)
                found.update(zip(here.tolist(), zip(t.prompts, t.responses, strict=True), strict=True))
        pairs = [found[c] for c in content_ids.tolist()]
        vectors = self.vectors.load(content_ids) if embeddings else None
        return Rows(content_ids, tuple(p for p, _ in pairs), tuple(r for _, r in pairs), vectors)

    def family(self) -> str:
        """Under which key label designs of this job are kept."""
        return design_family(self.config, self.keys)


def _distinct(datasets: list[Dataset]) -> list[Int64]:
    """Blocks of all `datasets`; a content that several hold stays in the first."""
    seen: set[int] = set()
    shards = []
    for shard in (s for d in datasets for s in d.shards()):
        fresh = np.array([c for c in shard.tolist() if c not in seen], dtype=np.int64)
        seen.update(fresh.tolist())
        if len(fresh):
            shards.append(fresh)
    return shards
