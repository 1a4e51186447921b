"""Writing the page of a sweep into its workspace."""

from __future__ import annotations

from pathlib import Path

from nncift_core.hashing import digest
from nncift_core.report.sweep import render_sweep
from nncift_core.store.files import publish, void
from nncift_core.store.workspace import Workspace


def write_page(ws: Workspace, run_id: str) -> str:
    """Render the page of a sweep from its view and publish it; returns its relative path."""
    page = render_sweep(ws, run_id)
    path = ws.report_file(run_id)

    def write(part: Path) -> None:
        void(part.write_text(page, encoding="utf-8"))

    publish(
        ws.root, path, write, kind="sweep-page", key=digest(page), rows=1, producer="sweep",
        parents=(ws.relative(ws.sweep_file(run_id)),),
    )  # fmt: skip
    return ws.relative(path)
