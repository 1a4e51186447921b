"""A run in small: every stage's own code on a part of the job's rows, in a workspace that is thrown away.

What takes long by the item (embeddings, features, exact values) is computed for parts spread evenly over the
job's texts and made up for the rest, like in size and kind, so that fit, estimates and selection meet what
they would meet in a run. Where the whole matrix would take too long even so, a part of its rows and columns
stands for it.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from nncift_core.config import Config, settled
from nncift_core.devices import resolve_devices
from nncift_core.errors import UserError
from nncift_core.forecast.calibration import keep_rates
from nncift_core.forecast.measuring import bytes_below, evenly
from nncift_core.forecast.rates import Rate, Rates
from nncift_core.forecast.rehearsed_exact import ExactRehearsal
from nncift_core.forecast.rehearsed_fit import FitRehearsal
from nncift_core.forecast.rehearsed_training import TrainingRehearsal
from nncift_core.forecast.scratch import scratch
from nncift_core.forecast.setting import FIXED, Setting, start_seconds
from nncift_core.forecast.work import counted
from nncift_core.influence.registry import Featured, implementation
from nncift_core.pipeline.downstream import check_student
from nncift_core.pipeline.features import features_needed
from nncift_core.pipeline.inputs import Input, check_devices, check_teacher, read_inputs
from nncift_core.pipeline.labelling import label_fraction
from nncift_core.pipeline.problem import keys_of
from nncift_core.placement import slot_groups
from nncift_core.store.files import now
from nncift_core.store.forecasts import this_machine
from nncift_core.store.workspace import Workspace

# Most pairs, rows and bytes of features that a rehearsal holds, and labels that it fits on.
_PAIRS, _ROWS, _FEATURE_BYTES, _LABELS = 1_000_000, 4_000, 100e6, 2_500
BUDGET = 45.0

Say = Callable[[str], None]


def calibrate(
    config: Config, workspace: str | Path, say: Say = lambda text: None, budget: float = BUDGET
) -> Rates:
    """Measure the stages of a job on this machine with its models and data, and keep what was found in the
    workspace, which is made if it is not there; nothing else is written there.

    budget: seconds that measuring should take, about; a stage that cannot be told from less takes longer.
    Raises UserError as a run does before it starts, models included.
    """
    config = settled(config)
    if budget <= 0:
        raise UserError("must be above 0", field="--budget", mend="Give seconds, 45 say.")
    inputs = read_inputs(config)
    keys = keys_of(config)
    check_devices(config)
    Workspace.check_usable(workspace)
    check_teacher(config, fetch=True)
    check_student(config, fetch=True)
    began = time.perf_counter()
    part = reduced(config, inputs)
    with scratch(config, part) as stored:
        slots, _ = slot_groups(resolve_devices(config.execution.devices), config.language_model.devices)
        setting = Setting(config, keys, stored, part, slots[0], budget, say)
        rates = _measured(setting, time.perf_counter() - began)
    rates = replace(rates, spent=round(time.perf_counter() - began, 1))
    keep_rates(Workspace.create(workspace), config, keys, rates)
    say(f"calibrated in {rates.spent:.0f} s")
    return rates


def _measured(setting: Setting, storing: float) -> Rates:
    """Rates of all stages; storing: seconds that the data sets took."""
    work = counted(setting.config, setting.stored.ws, setting.inputs).work
    setting.work = work
    stored = bytes_below(setting.stored.ws.root)
    ingest = work["ingest"]
    setting.rates["ingest"] = Rate(
        per=storing / max(1.0, ingest.amount), size=stored / max(1, ingest.items), peak_mb=setting.peak()
    )
    start = start_seconds(setting)
    plan = ExactRehearsal(setting).run()
    fixed = dict(FIXED)
    fixed["run"] = fixed["run"] * start.speed + FitRehearsal(setting).run(plan)
    fixed["compare"] *= start.speed
    if setting.config.finetune is not None:
        TrainingRehearsal(setting).run()
    setting.rates["report"] = Rate(per=fixed.pop("report") * start.speed, size=400e3, peak_mb=setting.peak())
    gc.collect()
    return Rates(now(), dict(setting.rates), start.first, start.again, fixed, this_machine())


@dataclass(frozen=True)
class _Share:
    """Rows and columns that stand for the matrix, as shares of them."""

    rows: float
    columns: float


def reduced(config: Config, inputs: Sequence[Input]) -> list[Input]:
    """`inputs` with as many pool and target rows as a rehearsal holds, spread evenly over theirs."""
    share = _share(config, inputs)
    found = []
    for i in inputs:
        part = {"pool": share.rows, "existing": share.rows, "target": share.columns}.get(i.role, 1.0)
        kept = evenly(len(i.examples), max(min(8, len(i.examples)), round(part * len(i.examples))))
        found.append(replace(i, examples=tuple(i.examples[k] for k in kept)) if part < 1 else i)
    return found


def _share(config: Config, inputs: Sequence[Input]) -> _Share:
    rows = sum(len(i.examples) for i in inputs if i.role in ("pool", "existing"))
    itself = config.target.source == "self" and not config.pointwise
    targets = sum(len(i.examples) for i in inputs if i.role == "target")
    columns = 1 if config.pointwise else rows if itself else targets
    most = float(_ROWS)
    if features_needed(config):
        width = cast(Featured, implementation(config)).feature_width(config)
        most = min(most, _FEATURE_BYTES / (4 * max(1, width)))
    shares = [1.0, most / rows, most / max(1, columns)]
    shares.append((_PAIRS / (rows * columns)) ** 0.5)
    u = label_fraction(config)
    if u < 1:
        shares.append((_LABELS / (u * u * rows * columns)) ** (1.0 if config.pointwise else 0.5))
    both = min(shares)
    return _Share(both, 1.0 if config.pointwise else both)
