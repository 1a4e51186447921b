"""The work of a run, stage by stage, counted before anything is started."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from nncift_core.config import Config
from nncift_core.errors import HubUnreachable
from nncift_core.estimator.evidence import LABEL_LIMIT
from nncift_core.estimator.label_sizes import LabelCounts
from nncift_core.forecast.rates import Work
from nncift_core.functions import CATALOGUE
from nncift_core.hashing import content_hash, content_id
from nncift_core.influence.contract import Rows, Side
from nncift_core.influence.registry import Stateful, implementation
from nncift_core.language_models import is_local
from nncift_core.pipeline.embed import embedded_parts
from nncift_core.pipeline.estimator_features import estimator_features_needed
from nncift_core.pipeline.exact import audit_size
from nncift_core.pipeline.features import PIECE as FEATURE_PIECE
from nncift_core.pipeline.features import features_needed
from nncift_core.pipeline.inputs import Input
from nncift_core.pipeline.labelling import Texts, label_costs, planned_labels
from nncift_core.pipeline.problem import POINTWISE, design_family, keys_of
from nncift_core.pipeline.state import expected_state, needs_state
from nncift_core.store.designs import StoredDesign, find
from nncift_core.store.workspace import Workspace

logger = logging.getLogger(__name__)
Int64 = npt.NDArray[np.int64]

# Of English text under the vocabularies of current models; used where a training is given in tokens.
LETTERS_PER_TOKEN = 4.0
# Fits of a candidate that is judged, as `estimator.choice` makes them: four on three quarters of the labels,
# one on all.
FITS = 4


@dataclass(frozen=True, eq=False)
class Counted:
    """What a run has to do on some inputs, if nothing were reused.

    rows, columns: distinct contents of the matrix; labels: of the design that a run would keep or draw;
    touched: rows and columns that exact pairs touch, at most; letters: `mean_letters`; work: by stage.
    """

    inputs: Sequence[Input]
    rows: Int64
    columns: Int64
    labels: LabelCounts
    audit: int
    touched: tuple[int, int]
    letters: dict[str, float]
    work: dict[str, Work]

    @property
    def pairs(self) -> int:
        """Pairs of distinct contents."""
        return len(self.rows) * len(self.columns)

    @property
    def exact(self) -> int:
        """Distinct pairs that are labelled or audited."""
        return self.labels.pairs + self.audit

    @property
    def stored(self) -> int:
        """Estimates that are stored."""
        return self.work["estimate-influence"].items


def counted(config: Config, ws: Workspace, inputs: Sequence[Input]) -> Counted:
    """The work of a run of `config` on `inputs` in `ws`, which need not exist. Reads only."""
    pool = [i for i in inputs if i.role == "pool"]
    targets = [i for i in inputs if i.role == "target"] or pool
    rows, columns = _contents([i for i in inputs if i.role in ("pool", "existing")]), _contents(targets)
    both = rows if config.pointwise else np.union1d(rows, columns)
    if config.pointwise:
        columns = np.array([POINTWISE])
    labels = _labelled(config, ws, inputs, _contents(pool), rows, columns)
    everything = labels.pairs == len(rows) * len(columns)
    audit = 0 if everything else audit_size(config, len(rows), len(columns), labels.pairs)
    # Each audit pair may bring a row and a column of its own.
    touched = min(len(rows), labels.rows + audit), min(len(columns), labels.columns + audit)
    sizes = Sizes(len(rows), len(columns), len(both), labels, audit, touched)
    letters = mean_letters(inputs)
    pool_rows = sum(len(i.examples) for i in pool)
    all_rows = sum(len(i.examples) for i in inputs)
    work = {
        "ingest": Work(all_rows, all_rows * letters["text"]),
        **matrix_work(config, letters, sizes, pool_rows),
        **_downstream(config, inputs),
        "report": Work(1, 1),
    }
    return Counted(inputs, rows, columns, labels, audit, touched, letters, work)


@dataclass(frozen=True)
class Sizes:
    """Distinct rows, columns and texts of a matrix, and how much of it is exact; touched: rows and columns of
    exact pairs, at most."""

    rows: int
    columns: int
    texts: int
    labels: LabelCounts
    audit: int
    touched: tuple[int, int]

    @property
    def all_exact(self) -> bool:
        """Whether nothing is estimated."""
        return self.labels.pairs == self.rows * self.columns


def matrix_work(config: Config, letters: dict[str, float], s: Sizes, pool_rows: int) -> dict[str, Work]:
    """Work of the stages between reading and training; items in the units of their costs.

    letters: as `mean_letters` gives them; pool_rows: candidates of the selection.
    """
    pairs, exact, fitted = s.rows * s.columns, s.labels.pairs + s.audit, not s.all_exact
    cost = implementation(config).cost
    # A column that a model reads by itself, before any pair.
    columns = s.touched[1] if cost.per_pair and cost.per_column and not config.pointwise else 0
    alone = s.labels.rows + s.audit
    # Only estimators read responses, and there is none where everything is exact.
    parts = [part for part in embedded_parts(config) if part == "example" or fitted]
    read = s.texts * sum(letters["text" if part == "example" else "response"] for part in parts)
    features = sum(s.touched) if features_needed(config) else 0
    pieces = sum(-(-n // FEATURE_PIECE) for n in s.touched)
    forward = s.texts if fitted and estimator_features_needed(config) else 0
    state = cast(Stateful, implementation(config)).state_rows(config, s.rows) if needs_state(config) else 0
    stored = pairs if fitted and config.shards.store_matrix == "all" else 0
    return {
        "embed": Work(s.texts * len(parts), read),
        "estimator-features": Work(forward, forward * letters["text"]),
        "prepare-function": Work(int(needs_state(config)), state * letters["row"]),
        "features": Work(features, features * letters["text"], pieces if features else 0),
        "exact-influence": Work(exact, exact_amount(config, letters, alone, exact), columns),
        "train-influence-network": Work(int(fitted), fit_amount(config, s.labels.pairs) if fitted else 0.0),
        "assess-estimator": Work(int(fitted), fit_amount(config, s.labels.pairs) if fitted else 0.0),
        "estimate-influence": Work(stored, stored),
        "select": Work(pool_rows, pairs),
    }


def fit_amount(config: Config, labels: int) -> float:
    """Labels that a fit reads, one fit on all of them being 1: a choice fits every candidate on a part of
    them at most, and the winner alone on all."""
    if config.estimator.architecture != "auto":
        return float(labels)
    judged = min(labels, LABEL_LIMIT)
    return judged + (labels - judged) / (FITS * len(config.estimator.candidates))


def exact_amount(config: Config, letters: dict[str, float], alone: int, pairs: int) -> float:
    """What exact values cost: characters that a model reads, or pairs where only arithmetic is left.

    alone: how often a row is read for pairs that share it: labelled rows, and audit pairs, which stand alone.
    """
    if config.pointwise:
        return pairs * letters["row"]
    if implementation(config).cost.per_pair == 0:
        return float(pairs)
    return alone * letters["row"] + pairs * letters["column"]


def mean_letters(inputs: Sequence[Input]) -> dict[str, float]:
    """Mean characters of a pool row, of a target row, of any text that is valued, and of its response."""

    def mean(roles: tuple[str, ...], of: Callable[[Any], int]) -> float:
        found = [of(e) for i in inputs if i.role in roles for e in i.examples]
        return float(np.mean(found)) if found else 0.0

    def whole(e: Any) -> int:
        return len(e.prompt) + len(e.response)

    row = mean(("pool", "existing"), whole)
    return {
        "row": row,
        "column": mean(("target",), whole) or row,
        "text": mean(("pool", "existing", "target"), whole),
        "response": mean(("pool", "existing", "target"), lambda e: len(e.response)),
    }


def fine_tunes(config: Config) -> int:
    """How many models a run trains: one per subset and seed; the subset's alone without held-out rows."""
    if config.finetune is None or not (config.evaluation.trains or not config.target.test):
        return 0
    rivals = len(set(config.evaluation.subsets) - {"base"}) if config.target.test else 0
    return (1 + rivals) * len(config.training_seeds())


def trials_in(config: Config) -> dict[str, int]:
    """How many models, or sets of prompts, are asked the held-out rows, by mode."""
    if config.finetune is None or not config.target.test:
        return {}
    e, seeds = config.evaluation, len(config.training_seeds())
    # In context nothing is trained: subsets that are the same under every seed are asked once.
    drawn = sum(seeds if name.startswith("random") else 1 for name in set(e.subsets) - {"base"})
    found = {"base": int("base" in e.subsets), "finetune": fine_tunes(config)}
    return {**found, "icl": 1 + drawn if "icl" in e.modes else 0}


def _downstream(config: Config, inputs: Sequence[Input]) -> dict[str, Work]:
    """Work of the stages after selection, in the units of their costs."""
    if config.finetune is None:
        return {"fine-tune": Work(0, 0.0), "evaluate": Work(0, 0.0)}
    models, passes = fine_tunes(config), config.finetune.passes
    pool = sorted(len(e.prompt) + len(e.response) for i in inputs if i.role == "pool" for e in i.examples)
    budget, mean = config.selection.budget(len(pool)), float(np.mean(pool))
    letters = models * budget * mean * passes
    if config.finetune.tokens is not None:
        letters = models * config.finetune.tokens * LETTERS_PER_TOKEN
    elif models and config.target.test and "longest" in config.evaluation.subsets:
        letters += len(config.training_seeds()) * passes * (sum(pool[-budget:]) - budget * mean)
    asked = sum(trials_in(config).values())
    tests = [i for i in inputs if i.role == "test"]
    texts = len(_contents(tests))
    length = float(np.mean([len(e.prompt) + len(e.response) for i in tests for e in i.examples] or [0]))
    return {
        "fine-tune": Work(models * budget * passes, letters, models),
        "evaluate": Work(asked * texts * len(config.evaluation.metrics), asked * texts * length, asked),
    }


def _contents(inputs: Sequence[Input]) -> Int64:
    """Distinct content ids, in order of arrival."""
    ids = dict.fromkeys(content_id(content_hash(e.prompt, e.response)) for i in inputs for e in i.examples)
    return np.fromiter(ids, np.int64, len(ids))


def _labelled(
    config: Config, ws: Workspace, inputs: Sequence[Input], pool: Int64, rows: Int64, columns: Int64
) -> LabelCounts:
    """The labels of the design that a run would keep, else of a fresh draw."""
    fresh = planned_labels(config, len(rows), len(columns))
    try:
        keys = keys_of(config)
    except HubUnreachable as e:
        logger.warning("%s", e)
        return fresh
    keys = keys.with_state(expected_state(ws, config, keys, pool))
    everything = fresh.pairs == len(rows) * len(columns)
    growth = 0.0 if everything else config.estimator.refit_growth
    kept = find(ws, design_family(config, keys), rows, columns, growth)
    if kept is not None:
        return _kept(kept, rows, columns)
    # Only their tokens say how many pairs that share nothing a block is worth.
    asks_texts = fresh.kind != "block" and fresh.unit == "pairs"
    teacher = CATALOGUE[config.influence.function].teacher
    if asks_texts and (not teacher or is_local(config.language_model, config.base_dir)):
        costs = label_costs(config, rows, columns, _texts(inputs))
        return planned_labels(config, len(rows), len(columns), costs)
    return fresh


def _kept(design: StoredDesign, rows: Int64, columns: Int64) -> LabelCounts:
    """What of a stored design lies among `rows` and `columns`; its price is no matter here."""
    labelled = [np.intersect1d(rows, design.label_rows), np.intersect1d(columns, design.label_columns)]
    pairs = len(labelled[0]) * len(labelled[1])
    if design.kind == "scattered":
        r, k = design.pairs_among(rows, columns)
        labelled, pairs = [np.unique(r), np.unique(k)], len(r)
    return LabelCounts(design.kind, len(labelled[0]), len(labelled[1]), pairs, 0, 0, "")


def _texts(inputs: Sequence[Input]) -> Texts:
    """Texts of content ids, from the rows as read."""
    found = {
        content_id(content_hash(e.prompt, e.response)): (e.prompt, e.response)
        for i in inputs
        if i.role != "test"
        for e in i.examples
    }

    def texts(ids: Int64, side: Side) -> Rows:
        pairs = [found[c] for c in ids.tolist()]
        return Rows(ids, tuple(p for p, _ in pairs), tuple(r for _, r in pairs))

    return texts
