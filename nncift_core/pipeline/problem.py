"""The matrix of a job: its rows, columns, tasks and the keys under which values are stored."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from nncift_core.config import TEMPLATE_WITHOUT, Config
from nncift_core.encoders import encoder_key
from nncift_core.finetune import student_key
from nncift_core.forward_features import forward_key
from nncift_core.hashing import digest
from nncift_core.ids import Sorted
from nncift_core.influence.contract import Rows, Side
from nncift_core.influence.registry import function_key
from nncift_core.language_models import language_model_key
from nncift_core.pipeline.labelling import label_fraction, label_rule, planned_labels
from nncift_core.store.datasets import Dataset, version_contents
from nncift_core.store.references import DatasetRef, Refresh
from nncift_core.store.segments import SegmentStore
from nncift_core.store.vectors import VectorStore
from nncift_core.store.workspace import Workspace

Int64 = npt.NDArray[np.int64]

SIDES: tuple[Side, Side] = ("row", "column")
POINTWISE = 0
ALL_TASKS = "all"


@dataclass(frozen=True)
class Keys:
    """Identities of what the job computes with; found without loading a model.

    column_encoder: of target rows, where they are embedded otherwise than pool rows; state: of a function
    that is fitted to a sample of the pool first (`pipeline.state`), once the data is known.
    """

    encoder: str
    function: str
    student: str | None = None
    column_encoder: str | None = None
    state: str | None = None

    def models(self) -> dict[str, str]:
        """By role, for `run_key`: what the config alone decides."""
        found = {"encoder": self.encoder, "column_encoder": self.column_encoder}
        found |= {"function": self.function, "student": self.student}
        return {role: key for role, key in found.items() if key is not None}

    def with_state(self, state: str | None) -> Keys:
        """These keys, for values computed with `state`."""
        return replace(self, state=state)

    @property
    def values(self) -> str:
        """Under which key influence values are stored."""
        return digest([self.function, self.state]) if self.state else self.function

    @property
    def encoders(self) -> list[str]:
        """Keys of the encoders of rows and columns; one where they are the same."""
        return [self.encoder, *([self.column_encoder] if self.column_encoder else [])]


def keys_of(config: Config) -> Keys:
    """Keys of encoder, function and student; raises UserError when a model cannot be found."""
    trained = student_key(config) if config.finetune is not None else None
    row, column = (encoder_key(config.encoder, config.base_dir, side) for side in SIDES)
    return Keys(row, function_key(config), trained, column if column != row else None)


def design_family(config: Config, keys: Keys) -> str:
    """What label designs share: function, encoder, rule of the labels, fraction, seed. Not the data: which
    design fits which rows is decided by their contents."""
    ratio = config.influence.block_ratio
    labels = [label_rule(config), label_fraction(config), config.seed, *([ratio] if ratio else [])]
    return digest([keys.values, *keys.encoders, *labels])


def prompt_template(config: Config) -> tuple[str, str]:
    """The text before a response where the job's function reads an example by itself, and its setting."""
    i = config.influence
    own = {
        "delift": (i.delift.template_without, "influence.delift.template_without"),
        "less": (i.less.template, "influence.less.template"),
    }
    return own.get(i.function, (TEMPLATE_WITHOUT, "language_model.template"))


@dataclass(frozen=True, eq=False)
class Problem:
    """Pool rows x target rows (or pool x pool) over stored data sets.

    Rows of the matrix are distinct contents of the pool, then those of `selection.existing` that the
    pool lacks; columns are distinct contents of the targets. Views and selection expand to rows.
    A pointwise function has one column, `POINTWISE`, which is no content; its target rows are not valued.
    refresh: the earlier run that a recurring one goes on from, whose label design it keeps.
    own_values: of the exact values that are stored, the completed matrix takes only the job's own labels and
    audit pairs, as if no other job had left any here.
    """

    ws: Workspace
    config: Config
    keys: Keys
    datasets: tuple[Dataset, ...]
    refresh: Refresh | None = None
    own_values: bool = False

    @classmethod
    def load(
        cls,
        ws: Workspace,
        config: Config,
        keys: Keys,
        refs: list[DatasetRef],
        refresh: Refresh | None = None,
        *,
        own_values: bool = False,
    ) -> Problem:
        """From references; raises IntegrityError when a stored file is damaged."""
        return cls(ws, config, keys, tuple(Dataset(ws, r) for r in refs), refresh, own_values)

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
        return [np.array([POINTWISE])] if self.config.pointwise else _distinct(self.targets)

    @cached_property
    def rows(self) -> Int64:
        """Row contents [M] in order of arrival."""
        return np.concatenate(self.row_shards)

    @cached_property
    def columns(self) -> Int64:
        """Column contents [N] in order of arrival."""
        return np.concatenate(self.column_shards)

    @cached_property
    def known(self) -> tuple[Int64, Int64]:
        """Contents of the rows [M'] and columns [N'] that the earlier run of a refresh had, or all."""
        if self.refresh is None:
            return self.rows, self.columns
        found: dict[str, list[Int64]] = {role: [] for role in ("pool", "existing", "target", "test")}
        for ref in self.refresh.datasets:
            found[ref.role].append(version_contents(self.ws, ref))
        rows = np.unique(np.concatenate([*found["pool"], *found["existing"]]))
        if self.config.pointwise:
            return rows, self.columns
        return rows, np.unique(np.concatenate(found["target"] or found["pool"]))

    @cached_property
    def target_contents(self) -> Int64:
        """Content of every target row, in order."""
        return np.concatenate([t.content_ids for t in self.targets])

    @cached_property
    def column_of_target(self) -> Int64:
        """Index into `columns` of every target row ([1] for a pointwise function)."""
        if self.config.pointwise:
            return np.zeros(1, np.int64)
        return Sorted(self.columns).find(self.target_contents)

    @cached_property
    def task_names(self) -> list[str]:
        """Target tasks, sorted."""
        return sorted(set(self._tasks))

    @cached_property
    def task_of_target(self) -> Int64:
        """Index into `task_names` of every target row ([1] for a pointwise function)."""
        place = {t: k for k, t in enumerate(self.task_names)}
        return np.array([place[t] for t in self._tasks], dtype=np.int64)

    @cached_property
    def _tasks(self) -> list[str]:
        return [ALL_TASKS] if self.config.pointwise else [t for d in self.targets for t in d.tasks()]

    @property
    def all_exact(self) -> bool:
        """Whether every pair is labelled, so that nothing is fitted."""
        shape = len(self.rows), len(self.columns)
        return planned_labels(self.config, *shape).pairs == shape[0] * shape[1]

    @cached_property
    def _vectors(self) -> dict[str, VectorStore]:
        return {key: VectorStore(self.ws, key) for key in self.keys.encoders}

    def vectors(self, side: Side) -> VectorStore:
        """Embeddings of rows or of columns; one store where both are embedded alike."""
        return self._vectors[self.keys.encoders[0 if side == "row" else -1]]

    @cached_property
    def _response_vectors(self) -> dict[str, VectorStore]:
        return {key: VectorStore(self.ws, digest([key, "response"])) for key in self.keys.encoders}

    def response_vectors(self, side: Side) -> VectorStore:
        """Embeddings of the responses alone, of rows or of columns; one store as for `vectors`."""
        return self._response_vectors[self.keys.encoders[0 if side == "row" else -1]]

    @cached_property
    def forward_store(self) -> VectorStore:
        """Forward-pass features of the language model (`nncift_core.forward_features`), by content."""
        model = language_model_key(self.config.language_model, self.config.base_dir)
        return VectorStore(self.ws, forward_key(model, prompt_template(self.config)[0]), "features")

    @cached_property
    def _features(self) -> dict[Side, VectorStore]:
        return {side: VectorStore(self.ws, digest([self.keys.values, side]), "features") for side in SIDES}

    def features(self, side: Side) -> VectorStore:
        """Features of the influence function, of rows or of columns."""
        return self._features[side]

    @cached_property
    def exact_store(self) -> SegmentStore:
        """Exact values under the job's function."""
        return SegmentStore(self.ws, "exact", self.keys.values)

    def embeddings(self, content_ids: Int64, side: Side) -> npt.NDArray[np.float32]:
        """Embeddings [n, d] of rows or columns; [n, 0] for the column of a pointwise function."""
        if side == "column" and self.config.pointwise:
            return np.empty((len(content_ids), 0), np.float32)
        return self.vectors(side).load(content_ids)

    def estimate_store(self, estimator_key: str) -> SegmentStore:
        """Estimates of one estimator."""
        if estimator_key not in self._estimate_stores:
            self._estimate_stores[estimator_key] = SegmentStore(self.ws, "estimate", estimator_key)
        return self._estimate_stores[estimator_key]

    @cached_property
    def _estimate_stores(self) -> dict[str, SegmentStore]:
        return {}

    def texts(self, content_ids: Int64, needs: frozenset[str] = frozenset(), side: Side = "row") -> Rows:
        """Texts of `content_ids` [n] wherever they are stored, with what `needs` names of "embedding" and
        "features", as rows or as columns of the matrix."""
        found: dict[int, tuple[str, str]] = {}
        for dataset in self.datasets:
            here = np.array([c for c in content_ids.tolist() if c not in found], dtype=np.int64)
            here = here[dataset.where(here) >= 0]
            if len(here):
                t = dataset.texts(here)
                found.update(zip(here.tolist(), zip(t.prompts, t.responses, strict=True), strict=True))
        pairs = [found[c] for c in content_ids.tolist()]
        vectors = self.embeddings(content_ids, side) if "embedding" in needs else None
        features = self.features(side).load(content_ids) if "features" in needs else None
        return Rows(content_ids, tuple(p for p, _ in pairs), tuple(r for _, r in pairs), vectors, features)

    def look_again(self) -> None:
        """Let the stores that are open see what other processes have written since."""
        for name in ("_vectors", "_response_vectors", "_features"):
            for store in self.__dict__.get(name, {}).values():
                store.refresh()
        for name in ("forward_store", "exact_store"):
            if name in self.__dict__:
                self.__dict__[name].refresh()

    def family(self) -> str:
        """Under which key label designs of this job are kept."""
        return design_family(self.config, self.keys)


def _distinct(datasets: list[Dataset]) -> list[Int64]:
    """Blocks of all `datasets`; a content that several hold stays in the first."""
    shards = list(datasets[0].shards())
    seen = datasets[0].contents
    for dataset in datasets[1:]:
        fresh = (shard[~np.isin(shard, seen)] for shard in dataset.shards())
        shards += [shard for shard in fresh if len(shard)]
        seen = np.concatenate([seen, dataset.contents])
    return shards
