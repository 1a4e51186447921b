"""The report of a run: one HTML file in which every number carries the query that it came from."""

from __future__ import annotations

from nncift_core.report.page import render

__all__ = ["render"]
