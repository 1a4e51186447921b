"""What `nncift plan --calibrate` keeps: unit costs measured on this machine, and forecasts of single runs.

A forecast is kept under the id of the run that it speaks of, so that the view `forecast` can put it beside
what the run then cost.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections import defaultdict
from datetime import datetime
from pathlib import Path
from typing import Any

from nncift_core.devices import usable_cores
from nncift_core.errors import IntegrityError
from nncift_core.hashing import digest
from nncift_core.store.files import MANIFEST_SUFFIX, write_json
from nncift_core.store.runs import read_attempts, read_costs
from nncift_core.store.workspace import Workspace

# The row of the view that speaks of the whole run.
TOTAL = "all"


def this_machine() -> dict[str, Any]:
    """What decides how fast it is: the processor's model, cores open to this process, threads it was told to
    use, and its first GPU ("" without one, or while nothing has loaded torch)."""
    torch = sys.modules.get("torch")
    gpu = torch.cuda.get_device_name(0) if torch is not None and torch.cuda.is_available() else ""
    threads = os.environ.get("OMP_NUM_THREADS", "")
    return {"cpu": _processor(), "cores": usable_cores(), "threads": threads, "gpu": gpu}


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def write_calibration(ws: Workspace, key: str, record: dict[str, Any]) -> None:
    """Keep unit costs (JSON-ready) under `key`, in the place of earlier ones."""
    write_json(_calibrations(ws) / f"{key[:16]}.json", {**record, "key": key})


def read_calibration(ws: Workspace, key: str) -> dict[str, Any] | None:
    """The unit costs kept under `key`, or None. Raises IntegrityError for a damaged record."""
    path = _calibrations(ws) / f"{key[:16]}.json"
    if not path.is_file():
        return None
    found = _read(path)
    return found if found["key"] == key else None


def write_forecast(ws: Workspace, run_id: str, forecast: dict[str, Any]) -> None:
    """Keep a forecast (`made_at`, `stages`, totals) of the run `run_id`, in the place of an earlier one that
    no attempt has followed; one that was followed stays beside it."""
    write_json(_forecasts(ws, run_id) / f"{digest(forecast['made_at'])[:12]}.json", forecast)


def read_forecasts(ws: Workspace, run_id: str) -> list[dict[str, Any]]:
    """Forecasts of a run, oldest first. Raises IntegrityError for a damaged record."""
    files = sorted(_forecasts(ws, run_id).glob("*.json"))
    return sorted((_read(p) for p in files), key=lambda f: str(f["made_at"]))


def forecast_rows(ws: Workspace, run_ids: list[str]) -> list[dict[str, Any]]:
    """Rows of the view `forecast`: every stage of a forecast beside what the first attempt that began after
    it was made did, and a row "all" for the whole attempt.

    Forecasts that no finished attempt has followed are left out; where two were made before one attempt, the
    later one counts.
    """
    rows: list[dict[str, Any]] = []
    attempts = read_attempts(ws)
    for run_id in run_ids:
        own = [a for a in attempts if a["run_id"] == run_id and a["status"] == "completed"]
        followed: dict[int, tuple[dict[str, Any], dict[str, Any]]] = {}
        for forecast in read_forecasts(ws, run_id):
            after = [a for a in own if str(a["started_at"]) > str(forecast["made_at"])]
            if after:
                followed[int(after[0]["attempt"])] = forecast, after[0]
        for forecast, attempt in followed.values():
            rows += _beside(ws, run_id, forecast, attempt)
    return rows


def _beside(
    ws: Workspace, run_id: str, forecast: dict[str, Any], attempt: dict[str, Any]
) -> list[dict[str, Any]]:
    number = int(attempt["attempt"])
    costs = {c["stage"]: c for c in read_costs(ws, run_id, number)}
    disk: dict[str, float | None] = dict(_made(ws, f"{run_id}/{number:04d}"))
    written = sum(mb for mb in disk.values() if mb is not None)
    if "estimator-features" in costs:
        # Both kinds of features are written by one producer.
        both = "features" in costs
        disk["estimator-features"] = None if both else disk.pop("features", 0.0)
        disk |= {"features": None} if both else {}
    told = {s["stage"]: s for s in forecast["stages"]}
    common = {"run_id": run_id, "attempt": number, "made_at": forecast["made_at"]}
    rows = []
    for stage in [*told, *(s for s in costs if s not in told)]:
        f, c = told.get(stage, {}), costs.get(stage, {})
        rows.append(
            {
                **common,
                "stage": stage,
                "forecast_items": f.get("left"),
                "computed": c.get("computed"),
                "forecast_seconds": f.get("seconds_left"),
                "seconds": c.get("seconds", 0.0 if stage in told else None),
                "forecast_disk_mb": f.get("disk_left_mb"),
                "disk_mb": disk.get(stage, 0.0),
                "forecast_peak_mb": f.get("peak_mb"),
                "peak_rss_mb": c.get("peak_rss_mb"),
            }
        )
    work = sum(float(c["seconds"]) for c in costs.values())
    wall = _seconds(attempt) + float(costs.get("ingest", {}).get("seconds", 0.0))
    for row in rows:
        if row["stage"] == "orchestration":
            # What the attempt took beside its stages; before it, the flow and its server began.
            row["seconds"] = max(0.0, wall - work)
    total = {
        **common,
        "stage": TOTAL,
        "forecast_items": None,
        "computed": None,
        "forecast_seconds": forecast["seconds_left"],
        "seconds": wall,
        "forecast_disk_mb": forecast["disk_left_mb"],
        "disk_mb": written,
        "forecast_peak_mb": forecast["peak_mb"],
        "peak_rss_mb": max((float(c["peak_rss_mb"]) for c in costs.values()), default=None),
    }
    return [*rows, total]


def _made(ws: Workspace, made_in: str) -> dict[str, float]:
    """MB that an attempt wrote, manifests included, by producer; of stored rows, which come before any
    attempt, what this workspace holds."""
    found: dict[str, float] = defaultdict(float)
    for path in ws.root.rglob(f"*{MANIFEST_SUFFIX}"):
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if manifest.get("made_in") == made_in or manifest["producer"] == "ingest":
            found[manifest["producer"]] += (manifest["size"] + path.stat().st_size) / 1e6
    return dict(found)


def _seconds(attempt: dict[str, Any]) -> float:
    began, ended = (datetime.fromisoformat(str(attempt[k])) for k in ("started_at", "finished_at"))
    return (ended - began).total_seconds()


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as e:
        raise IntegrityError(f"{path}: not JSON ({e}). Delete the file") from e
    return found


def _calibrations(ws: Workspace) -> Path:
    return ws.root / "forecasts" / "calibrations"


def _forecasts(ws: Workspace, run_id: str) -> Path:
    return ws.root / "forecasts" / run_id
