"""A forecast in numbers: stage by stage with and without what is reused, totals, break-even, warnings."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nncift_core.config import Config
from nncift_core.devices import resolve_devices
from nncift_core.forecast.break_even import break_even
from nncift_core.forecast.left import Left, left_of
from nncift_core.forecast.rates import Rates, Work, missing_rates, seconds_of
from nncift_core.forecast.work import Counted
from nncift_core.placement import slot_groups
from nncift_core.store.files import now
from nncift_core.store.workspace import Workspace

# Warn where less than this share of what is free would be left.
_MARGIN = 0.9


def told(
    config: Config,
    ws: Workspace,
    counted: Counted,
    recorded: Mapping[str, float] | None,
    rates: Rates | None,
    disk_mb: float,
) -> dict[str, Any]:
    """The forecast of a run, JSON-ready.

    recorded: seconds by stage by the workspace's own costs, which go first; rates: a calibration; disk_mb:
    what the sizes of texts, vectors and values say, where no calibration does.
    source: "recorded costs", "calibration" or None; run_id: of the run that it speaks of ("" in a workspace
    that is not there yet); stages: stage, items, left, seconds, seconds_left, disk_mb, disk_left_mb, peak_mb;
    seconds, disk_mb: if nothing were reused; seconds_left, disk_left_mb: without what the workspace holds;
    peak_mb: of the largest process; break_even: as `break_even` gives it, or None; warnings: texts.
    """
    work = counted.work
    known = rates if not missing_rates(rates, work) else None
    left = left_of(config, ws, counted.inputs, work)
    each = config.language_model.devices
    slots = config.execution.slots or len(slot_groups(resolve_devices(config.execution.devices), each)[0])
    if recorded is not None:
        stages = _by_costs(work, left, recorded)
    elif known is not None:
        stages = _by_rates(work, left, known, slots)
    else:
        stages = []
    found: dict[str, Any] = {
        "source": "recorded costs" if recorded is not None else "calibration" if known is not None else None,
        "made_at": now(),
        "calibrated_at": known.made_at if known is not None and recorded is None else None,
        "run_id": left.run_id,
        "stages": stages,
        "seconds": _sum(stages, "seconds"),
        "seconds_left": _sum(stages, "seconds_left"),
        "disk_mb": _sum(stages, "disk_mb") if known is not None and recorded is None else disk_mb,
        "disk_left_mb": _sum(stages, "disk_left_mb") if known is not None and recorded is None else None,
        "peak_mb": max((s["peak_mb"] for s in stages if s["peak_mb"] is not None), default=None),
        "break_even": None,
    }
    if known is not None:
        rows, columns = len(counted.rows), len(counted.columns)
        found["break_even"] = break_even(config, known, counted.letters, rows, columns, slots)
    return {**found, "warnings": [*warnings(found, ws), *_not_told(config)]}


def _not_told(config: Config) -> list[str]:
    """What no forecast speaks of."""
    if config.finetune is not None and config.target.test and "judge" in config.evaluation.metrics:
        return ["time and price of the judge are not in the forecast: its endpoint is another machine's"]
    return []


def priced(
    forecast: dict[str, Any], price_per_hour: float | None, warn_hours: float | None
) -> dict[str, Any]:
    """`forecast` with `cost`, what its remaining seconds cost at `price_per_hour` (None without one), and a
    warning where they are more than `warn_hours`."""
    seconds = forecast["seconds_left"]
    known = seconds is not None and price_per_hour is not None
    cost = round(seconds / 3600 * price_per_hour, 4) if known else None
    more = []
    if warn_hours is not None and seconds is not None and seconds > 3600 * warn_hours:
        more = [f"the run would take {seconds / 3600:,.2f} h, more than {warn_hours:g} (--warn-hours)"]
    return {**forecast, "cost": cost, "warnings": [*forecast["warnings"], *more]}


def _by_rates(work: Mapping[str, Work], left: Left, rates: Rates, slots: int) -> list[dict[str, Any]]:
    """Stages by a calibration."""
    rest = {name: w.share(left.items[name]) for name, w in work.items()}
    whole, partly = seconds_of(rates, work, slots), seconds_of(rates, rest, slots)
    stages = []
    for name, seconds in whole.items():
        rate, w = rates.stages.get(name), work.get(name, Work(1, 1))
        part = rest.get(name, w)
        stages.append(
            {
                "stage": name,
                "items": w.items,
                "left": part.items,
                "seconds": round(seconds, 2),
                "seconds_left": round(partly.get(name, 0.0), 2),
                "disk_mb": round(rate.disk(w) / 1e6, 3) if rate else 0.0,
                "disk_left_mb": round(rate.disk(part) / 1e6, 3) if rate else 0.0,
                "peak_mb": rate.peak_mb if rate else None,
            }
        )
    return stages


def _by_costs(work: Mapping[str, Work], left: Left, recorded: Mapping[str, float]) -> list[dict[str, Any]]:
    """Stages by what earlier runs of the workspace took."""
    return [
        {
            "stage": name,
            "items": work[name].items,
            "left": left.items[name],
            "seconds": round(seconds, 2),
            "seconds_left": round(seconds * left.items[name] / work[name].items, 2),
            "disk_mb": None,
            "disk_left_mb": None,
            "peak_mb": None,
        }
        for name, seconds in recorded.items()
    ]


def _sum(stages: list[dict[str, Any]], key: str) -> float | None:
    return round(sum(s[key] for s in stages), 1) if stages else None


def warnings(forecast: Mapping[str, Any], ws: Workspace) -> list[str]:
    """What to hear before money is spent: too little disk or memory, exact values that are cheaper."""
    found = []
    free = _free_mb(ws.root)
    disk = forecast["disk_left_mb"] if forecast["disk_left_mb"] is not None else forecast["disk_mb"]
    if disk is not None and disk > _MARGIN * free:
        found.append(f"the run would write {disk:,.0f} MB, and {free:,.0f} MB are free there")
    memory, peak = _memory_mb(), forecast["peak_mb"]
    if peak is not None and memory is not None and peak > _MARGIN * memory:
        found.append(f"one process would need {peak:,.0f} MB of memory, and {memory:,.0f} MB are available")
    even = forecast["break_even"]
    if even is not None and not even["pays"]:
        found.append(
            f"computing every pair takes {even['exact_seconds']:,.0f} s, estimating "
            f"{even['estimated_seconds']:,.0f} s: influence.label_fraction = 1 is exact and cheaper"
        )
    return found


def _free_mb(root: Path) -> float:
    there = next(p for p in (root, *root.parents) if p.exists())
    return shutil.disk_usage(there).free / 1e6


def _memory_mb() -> float | None:
    """Memory that a process could be given now; None where the system does not say."""
    info = Path("/proc/meminfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024 / 1e6
    names = os.sysconf_names
    if "SC_PHYS_PAGES" in names:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e6
    return None
