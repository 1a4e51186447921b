"""What sweeps keep: measured fits that later sweeps reuse, and the results behind the view `sweep`.

A sweep is a run with attempts and costs like a valuation; its result stands in a file of its own, so that
queries without `--run` go on speaking of the latest valuation.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nncift_core.store.files import is_intact, now, publish, void, write_json
from nncift_core.store.runs import Attempt, read_attempts
from nncift_core.store.workspace import Workspace


def read_fit(ws: Workspace, key: str) -> dict[str, Any] | None:
    """What was measured of the fit `key`; None where nothing (intact) is stored."""
    path = ws.study_file(key)
    if not is_intact(path):
        return None
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def write_fit(ws: Workspace, key: str, found: dict[str, Any], parents: tuple[str, ...]) -> None:
    """Keep what was measured of the fit `key` (JSON-ready)."""
    text = json.dumps(found, sort_keys=True)

    def write(part: Path) -> None:
        void(part.write_text(text, encoding="utf-8"))

    publish(
        ws.root, ws.study_file(key), write, kind="study-fit", key=key, rows=len(found["measures"]),
        producer="study-fit", parents=parents,
    )  # fmt: skip


def publish_sweep(attempt: Attempt, result: dict[str, Any]) -> None:
    """Make a sweep's result visible to the view, in one step."""
    stamped = {**result, "attempt": attempt.number, "published_at": now()}
    write_json(attempt.ws.sweep_file(attempt.run_id), stamped)


def read_sweeps(ws: Workspace, run: str | None) -> list[dict[str, Any]]:
    """Results of sweeps for `--run`: None = the latest, "all", or an id (a prefix will do)."""
    ids = dict.fromkeys(a["run_id"] for a in read_attempts(ws))
    files = [ws.sweep_file(i) for i in ids if run in (None, "all") or i.startswith(str(run))]
    found = [json.loads(p.read_text(encoding="utf-8")) for p in files if p.is_file()]
    found.sort(key=lambda r: str(r["published_at"]))
    return found[-1:] if run is None else found
