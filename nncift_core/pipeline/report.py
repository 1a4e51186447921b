"""Writing the report of a run, or the page of a sweep, into its workspace."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from nncift_core.errors import UserError
from nncift_core.hashing import digest
from nncift_core.report import render, render_audit, render_compare, render_prune, render_sweep
from nncift_core.store.files import publish, void, write_atomic
from nncift_core.store.runs import read_result, resolve_runs
from nncift_core.store.sweeps import read_sweeps
from nncift_core.store.workspace import Workspace

# Runs without a matrix of their own, by kind; all others are valuations.
_PAGES = {"prune": render_prune, "compare": render_compare, "audit": render_audit}


@dataclass(frozen=True)
class Report:
    """A written report: whose, and where."""

    run_id: str
    path: Path


def report_of(ws: Workspace, run: str | None) -> Report:
    """Write the report of a run or the page of a sweep anew (a unique prefix will do; None: the latest run
    with a result, and where there is none, the latest sweep).

    Raises UserError when there is no such run, or none with a result.
    """
    if run == "all":
        raise UserError("a report is about one run", field="--run", mend="Give a run id.")
    found = resolve_runs(ws, run) or [sweep["run_id"] for sweep in read_sweeps(ws, run)]
    if not found:
        raise UserError(
            "no finished run here",
            file=ws.address,
            mend="Run `nncift run CONFIG` first, or give another --run.",
        )
    return Report(found[0], ws.root / write_report(ws, found[0]))


def copy_report(report: Report, output: Path) -> None:
    """Write the report to a file of the user's; raises UserError when it cannot be written."""
    try:
        write_atomic(output, lambda part: void(shutil.copyfile(report.path, part)))
    except OSError as e:
        raise UserError(
            f"cannot be written ({e.strerror})", file=output, mend="Give another --output."
        ) from None


def write_report(ws: Workspace, run_id: str) -> str:
    """Render the page of a run or of a sweep from its views and publish it; returns its relative path."""
    swept = ws.sweep_file(run_id).is_file()
    kind = str((read_result(ws, run_id) or {}).get("kind", ""))
    page = (render_sweep if swept else _PAGES.get(kind, render))(ws, run_id)
    path = ws.report_file(run_id)

    def write(part: Path) -> None:
        void(part.write_text(page, encoding="utf-8"))

    publish(
        ws.root, path, write, kind="sweep-page" if swept else "report", key=digest(page), rows=1,
        producer="sweep" if swept else "report",
        parents=(ws.relative(ws.sweep_file(run_id) if swept else ws.result_file(run_id)),),
    )  # fmt: skip
    return ws.relative(path)
