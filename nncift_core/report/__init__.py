"""The report of a run, and the page of a sweep: one HTML file in which numbers carry their queries."""

from __future__ import annotations

from nncift_core.report.page import render
from nncift_core.report.prune import render_prune
from nncift_core.report.sweep import render_sweep

__all__ = ["render", "render_prune", "render_sweep"]
