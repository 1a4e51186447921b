"""`nncift plan`: what a run would do and cost; reads and validates, starts and writes nothing."""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from nncift_core.builtin import lm_path
from nncift_core.config import Config, settled
from nncift_core.errors import HubUnreachable
from nncift_core.forecast.calibration import kept_rates
from nncift_core.forecast.rates import Rates, Work
from nncift_core.forecast.told import priced, told
from nncift_core.forecast.work import counted, fine_tunes
from nncift_core.forward_features import Layout
from nncift_core.influence.registry import Featured, create, implementation
from nncift_core.pipeline.downstream import check_student
from nncift_core.pipeline.features import features_needed
from nncift_core.pipeline.inputs import Input, check_devices, check_teacher, read_inputs
from nncift_core.pipeline.problem import keys_of
from nncift_core.store.forecasts import write_forecast
from nncift_core.store.runs import read_attempts, read_costs
from nncift_core.store.workspace import Workspace

# Stages whose unit cost is the influence function's own.
_OF_FUNCTION = ("prepare-function", "features", "exact-influence")
# Stages of one item, of which a workspace may have no cost: they are short, or hang on the labels.
_FIT = "train-influence-network"
_ONCE = (_FIT, "assess-estimator", "report")

logger = logging.getLogger(__name__)

# Forecasts err on the large side: benchmarks/storage.py prints 3.9 bytes per pair of a stored tile, and
# zstd brings text with its identifiers to less than this share of its size.
TILE_BYTES_PER_PAIR = 4.2
TEXT_BYTES_STORED = 0.8


def plan(
    config: Config,
    workspace: str | Path,
    rates: Rates | None = None,
    *,
    price_per_hour: float | None = None,
    warn_hours: float | None = None,
) -> dict[str, Any]:
    """Counts and forecasts of a run over `workspace`, which need not exist.

    Keys: pool_rows, target_rows, rows_dropped, duplicates, pairs (rows x rows; rows for a pointwise
    function), label_design, label_pairs (scattered ones of a hub model: at most, for its tokens are not
    known yet), exact_pairs (distinct contents that are labelled or audited), features (rows and target
    rows whose features they need, at most), forward_passes (of the language model, or as much work as
    that many, at most; None while a model cannot be looked at), test_rows, fine_tunes (models trained),
    forecast_seconds (if nothing were reused; None while nothing tells it), forecast_disk_mb, and forecast:
    `nncift_core.forecast.told.told`, stage by stage, from `rates` where they are given, else from costs
    recorded in this workspace, else from a calibration of this machine that it keeps; cost and warn_hours: as
    `told.priced`. With `rates` the forecast is kept for the view `forecast`; nothing else is written.
    Raises UserError as `run`, but a hub that cannot be reached only warns: nothing is needed from it yet.
    """
    config = settled(config)
    inputs = read_checked(config, workspace)
    ws = Workspace(workspace)
    c = counted(config, ws, inputs)
    pool_rows = sum(len(i.examples) for i in inputs if i.role == "pool")
    target_rows = sum(len(i.examples) for i in inputs if i.role == "target") or pool_rows
    calibrated = rates is not None
    recorded = None if calibrated else recorded_seconds(config, c.work, ws)
    rates = rates or _kept_rates(config, ws)
    disk = _disk_mb(config, inputs, {k: w.items for k, w in c.work.items()}, c.exact + c.stored)
    forecast = told(config, ws, c, recorded, rates, disk)
    forecast = priced(forecast, price_per_hour, warn_hours)
    if calibrated and forecast["run_id"]:
        write_forecast(ws, forecast["run_id"], forecast)
    return {
        "pool_rows": pool_rows,
        "target_rows": target_rows,
        "rows_dropped": sum(len(i.report.dropped) for i in inputs),
        "duplicates": sum(i.report.duplicates for i in inputs),
        "pairs": pool_rows * (1 if config.pointwise else target_rows),
        "label_design": c.labels.kind,
        "label_pairs": c.labels.pairs,
        "exact_pairs": c.exact,
        "features": c.work["features"].items,
        "forward_passes": _forward_passes(config, c.exact, *c.touched),
        "test_rows": sum(len(i.examples) for i in inputs if i.role == "test"),
        "fine_tunes": fine_tunes(config),
        "forecast_seconds": forecast["seconds"],
        "forecast_disk_mb": forecast["disk_mb"],
        "forecast": forecast,
    }


def read_checked(config: Config, workspace: str | Path) -> list[Input]:
    """The data sets of a job, read and checked with its devices, models and workspace; raises UserError."""
    inputs = read_inputs(config)
    check_devices(config)
    Workspace.check_usable(workspace)
    try:
        check_teacher(config, fetch=False)
        check_student(config, fetch=False)
    except HubUnreachable as e:
        logger.warning("%s", e)
    return inputs


def _kept_rates(config: Config, ws: Workspace) -> Rates | None:
    """The calibration that the workspace keeps of these models on this machine."""
    if not ws.exists():
        return None
    try:
        return kept_rates(ws, config, keys_of(config))
    except HubUnreachable:
        return None


def recorded_seconds(config: Config, work: Mapping[str, Work], ws: Workspace) -> dict[str, float] | None:
    """Seconds by stage: unit costs of this workspace times the items of `work`; None where it knows none of
    a stage that is needed."""
    if not ws.exists():
        return None
    seconds: dict[str, float] = defaultdict(float)
    computed: dict[str, int] = defaultdict(int)
    alike = {a["run_id"] for a in read_attempts(ws) if _same_work(a["config"], config)}
    for cost in read_costs(ws):
        if cost["computed"] and (cost["stage"] not in _OF_FUNCTION or cost["run_id"] in alike):
            seconds[cost["stage"]] += cost["seconds"]
            computed[cost["stage"]] += cost["computed"]
    needed = {stage: w.items for stage, w in work.items() if w.items}
    if any(not computed[stage] for stage in needed if stage not in _ONCE):
        return None
    found = {s: seconds[s] / computed[s] * n for s, n in needed.items() if computed[s]}
    fits = [c["seconds"] for c in read_costs(ws) if c["stage"] == _FIT and c["computed"]]
    return found | ({_FIT: max(fits)} if fits and _FIT in needed else {})


def _same_work(recorded: dict[str, Any], config: Config) -> bool:
    """Whether a recorded run's exact values cost what those of `config` will: function, settings, model."""
    name, now = config.influence.function, config.model_dump(mode="json")
    if recorded["influence"]["function"] != name:
        return False
    settings = [c["influence"].get(name.replace("-", "_")) for c in (recorded, now)]
    models = [{k: c["language_model"][k] for k in ("model", "dtype")} for c in (recorded, now)]
    return settings[0] == settings[1] and models[0] == models[1]


def _disk_mb(config: Config, inputs: Sequence[Input], items: dict[str, int], values: int) -> float:
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
