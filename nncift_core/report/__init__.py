"""Pages of runs, comparisons, prune runs and sweeps: one HTML file in which numbers carry their queries."""

from __future__ import annotations

from nncift_core.report.attribution import render_audit
from nncift_core.report.compare import render_compare
from nncift_core.report.page import render
from nncift_core.report.prune import render_prune
from nncift_core.report.sweep import render_sweep

__all__ = ["render", "render_audit", "render_compare", "render_prune", "render_sweep"]
