"""`nncift plan`: what a run would do and cost; reads and validates, starts and writes nothing."""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from nncift_core.builtin import lm_path
from nncift_core.config import Config, settled
from nncift_core.errors import HubUnreachable
from nncift_core.estimator.label_sizes import LabelCounts
from nncift_core.forward_features import Layout
from nncift_core.functions import CATALOGUE
from nncift_core.hashing import content_hash, content_id
from nncift_core.influence.contract import Rows, Side
from nncift_core.influence.registry import Featured, create, implementation
from nncift_core.language_models import is_local
from nncift_core.pipeline.downstream import check_student
from nncift_core.pipeline.embed import embedded_parts
from nncift_core.pipeline.estimator_features import estimator_features_needed
from nncift_core.pipeline.exact import audit_size
from nncift_core.pipeline.features import features_needed
from nncift_core.pipeline.inputs import Input, check_devices, check_teacher, read_inputs
from nncift_core.pipeline.labelling import Texts, label_costs, planned_labels
from nncift_core.pipeline.problem import POINTWISE, design_family, keys_of
from nncift_core.pipeline.state import expected_state, needs_state
from nncift_core.store.designs import StoredDesign, find
from nncift_core.store.runs import read_attempts, read_costs
from nncift_core.store.workspace import Workspace

# Stages whose unit cost is the influence function's own.
_OF_FUNCTION = ("prepare-function", "features", "exact-influence")

logger = logging.getLogger(__name__)
Int64 = npt.NDArray[np.int64]

# Forecasts err on the large side: benchmarks/storage.py prints 3.9 bytes per pair of a stored tile, and
# zstd brings text with its identifiers to less than this share of its size.
TILE_BYTES_PER_PAIR = 4.2
TEXT_BYTES_STORED = 0.8


def plan(config: Config, workspace: str | Path) -> dict[str, Any]:
    """Counts and forecasts of a run over `workspace`, which need not exist.

    Keys: pool_rows, target_rows, rows_dropped, duplicates, pairs (rows x rows; rows for a pointwise
    function), label_design, label_pairs (scattered ones of a hub model: at most, for its tokens are not
    known yet), exact_pairs (distinct contents that are labelled or audited), features (rows and target
    rows whose features they need, at most), forward_passes (of the language model, or as much work as
    that many, at most; None while a model cannot be looked at), test_rows, fine_tunes (models trained),
    forecast_seconds (from the costs recorded in this workspace; None while a needed stage has none),
    forecast_disk_mb.
    Raises UserError as `run`, but a hub that cannot be reached only warns: nothing is needed from it yet.
    """
    config = settled(config)
    inputs = read_inputs(config)
    check_devices(config)
    Workspace.check_usable(workspace)
    try:
        check_teacher(config, fetch=False)
        check_student(config, fetch=False)
    except HubUnreachable as e:
        logger.warning("%s", e)
    ws = Workspace(workspace)
    pool = [i for i in inputs if i.role == "pool"]
    targets = [i for i in inputs if i.role == "target"] or pool
    rows, columns = _contents([i for i in inputs if i.role in ("pool", "existing")]), _contents(targets)
    pool_rows, target_rows = (sum(len(i.examples) for i in side) for side in (pool, targets))
    contents = len(rows if config.pointwise else np.union1d(rows, columns))
    if config.pointwise:
        columns = np.array([POINTWISE])
    pairs = len(rows) * len(columns)
    labels = _labelled(config, ws, inputs, _contents(pool), rows, columns)
    everything = labels.pairs == pairs
    audit = 0 if everything else audit_size(config, len(rows), len(columns), labels.pairs)
    exact = labels.pairs + audit
    # Each audit pair may bring a row and a column of its own.
    touched = min(len(rows), labels.rows + audit), min(len(columns), labels.columns + audit)
    features = sum(touched) if features_needed(config) else 0
    # Only estimators read responses, and there is none where everything is exact.
    parts = [part for part in embedded_parts(config) if part == "example" or not everything]
    items = {
        "ingest": sum(len(i.examples) for i in inputs),
        "embed": contents * len(parts),
        "estimator-features": contents if not everything and estimator_features_needed(config) else 0,
        "prepare-function": int(needs_state(config)),
        "features": features,
        "exact-influence": exact,
        "estimate-influence": 0 if everything or config.shards.store_matrix != "all" else pairs,
        "select": pool_rows,
        **_downstream(config, [i for i in inputs if i.role == "test"], pool_rows),
    }
    stored = 0 if everything or config.shards.store_matrix != "all" else pairs
    return {
        "pool_rows": pool_rows,
        "target_rows": target_rows,
        "rows_dropped": sum(len(i.report.dropped) for i in inputs),
        "duplicates": sum(i.report.duplicates for i in inputs),
        "pairs": pool_rows * (1 if config.pointwise else target_rows),
        "label_design": labels.kind,
        "label_pairs": labels.pairs,
        "exact_pairs": exact,
        "features": features,
        "forward_passes": _forward_passes(config, exact, *touched),
        "test_rows": sum(len(i.examples) for i in inputs if i.role == "test"),
        "fine_tunes": _fine_tunes(config),
        "forecast_seconds": _seconds(config, items, ws),
        "forecast_disk_mb": _disk_mb(config, inputs, items, exact + stored),
    }


def _fine_tunes(config: Config) -> int:
    """How many models a run trains: one per subset and seed; the subset's alone without held-out rows."""
    if config.finetune is None:
        return 0
    rivals = len(set(config.evaluation.subsets) - {"base"}) if config.target.test else 0
    return (1 + rivals) * len(config.training_seeds())


def _downstream(config: Config, tests: list[Input], pool_rows: int) -> dict[str, int]:
    """Items of the stages after selection, in the units of their costs."""
    if config.finetune is None:
        return {"fine-tune": 0, "evaluate": 0}
    models = _fine_tunes(config)
    evaluated = models + ("base" in config.evaluation.subsets)
    texts = len(_contents(tests)) * len(config.evaluation.metrics)
    return {
        "fine-tune": models * config.selection.budget(pool_rows) * config.finetune.epochs,
        "evaluate": evaluated * texts,
    }


def _contents(inputs: list[Input]) -> Int64:
    """Distinct content ids, in order of arrival."""
    ids = dict.fromkeys(content_id(content_hash(e.prompt, e.response)) for i in inputs for e in i.examples)
    return np.fromiter(ids, np.int64, len(ids))


def _labelled(
    config: Config, ws: Workspace, inputs: list[Input], pool: Int64, rows: Int64, columns: Int64
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


def _texts(inputs: list[Input]) -> Texts:
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


def _seconds(config: Config, items: dict[str, int], ws: Workspace) -> float | None:
    """Unit costs of this workspace times the items of a run that computes everything anew."""
    if not ws.exists():
        return None
    seconds: dict[str, float] = defaultdict(float)
    computed: dict[str, int] = defaultdict(int)
    alike = {a["run_id"] for a in read_attempts(ws) if _same_work(a["config"], config)}
    for cost in read_costs(ws):
        if cost["computed"] and (cost["stage"] not in _OF_FUNCTION or cost["run_id"] in alike):
            seconds[cost["stage"]] += cost["seconds"]
            computed[cost["stage"]] += cost["computed"]
    needed = [stage for stage, n in items.items() if n]
    if any(not computed[stage] for stage in needed):
        return None
    fit = [c["seconds"] for c in read_costs(ws) if c["stage"] == "train-influence-network" and c["computed"]]
    total = sum(seconds[s] / computed[s] * items[s] for s in needed) + (max(fit, default=0.0))
    return round(total, 1)


def _same_work(recorded: dict[str, Any], config: Config) -> bool:
    """Whether a recorded run's exact values cost what those of `config` will: function, settings, model."""
    name, now = config.influence.function, config.model_dump(mode="json")
    if recorded["influence"]["function"] != name:
        return False
    settings = [c["influence"].get(name.replace("-", "_")) for c in (recorded, now)]
    models = [{k: c["language_model"][k] for k in ("model", "dtype")} for c in (recorded, now)]
    return settings[0] == settings[1] and models[0] == models[1]


def _disk_mb(config: Config, inputs: list[Input], items: dict[str, int], values: int) -> float:
    """Of texts, vectors and `values` values; items: as the stages count them, one vector each where they
    make some."""
    text = sum(
        len(e.prompt) + len(e.response) + len(json.dumps(e.record, default=str))
        for i in inputs
        for e in i.examples
    )
    numbers = items["embed"] * _encoder_width(config) + items["features"] * _feature_width(config)
    if items["estimator-features"]:
        numbers += items["estimator-features"] * Layout(_teacher_width(config)).size
    return round((text * TEXT_BYTES_STORED + 4 * numbers + values * TILE_BYTES_PER_PAIR) / 1e6, 1)


def _forward_passes(config: Config, exact: int, rows: int, columns: int) -> int | None:
    """Work of the exact values over sequences, by the function's cost model."""
    try:
        cost = create(config, "cpu").cost
    except HubUnreachable:
        return None
    return round(cost.per_pair * exact + cost.per_row * rows + cost.per_column * columns)


def _feature_width(config: Config) -> int:
    """Numbers that the features of one row are, at most."""
    if not features_needed(config):
        return 0
    return cast(Featured, implementation(config)).feature_width(config)


def _encoder_width(config: Config) -> int:
    """Width of an embedding; that of bge-large and its kind where the model is not here."""
    if config.encoder.model == "builtin":
        return 384
    return _hidden_size(config, config.encoder.model) or 1024


def _teacher_width(config: Config) -> int:
    """h of the language model; that of models of 8 billion parameters where it is not here."""
    model = config.language_model.model
    return _hidden_size(config, str(lm_path()) if model == "builtin" else model) or 4096


def _hidden_size(config: Config, model: str) -> int | None:
    """`hidden_size` in the config.json of a model's folder; None where it cannot be read there."""
    folder = Path(config.base_dir) / Path(model).expanduser()
    try:
        return int(json.loads((folder / "config.json").read_text(encoding="utf-8"))["hidden_size"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
