"""What a person reads of a plan: counts, the forecast stage by stage, what to think of before starting."""

from __future__ import annotations

from typing import Any

from rich.table import Table
from rich.text import Text

from flows import terminal
from flows.terminal import heading


def show_plan(found: dict[str, Any]) -> None:
    """Counts, forecast, break-even and warnings."""
    for name, key, note in (
        ("pool rows", "pool_rows", ""),
        ("target rows", "target_rows", ""),
        ("rows dropped", "rows_dropped", ""),
        ("duplicates", "duplicates", ""),
        ("pairs", "pairs", ""),
        ("exact pairs", "exact_pairs", ""),
        ("features", "features", " (rows and target rows, at most)"),
        ("forward passes", "forward_passes", " (of the language model, at most)"),
        ("held-out rows", "test_rows", ""),
        ("fine-tunes", "fine_tunes", ""),
    ):
        if found[key] or not note:
            print(f"{name:15} {found[key]:>14,}{note}")
    forecast = found["forecast"]
    seconds = found["forecast_seconds"]
    shown = "unknown: add --calibrate to measure it" if seconds is None else duration(seconds)
    print(f"forecast time   {shown:>14} (if nothing were reused)")
    if forecast["seconds_left"] is not None and forecast["seconds_left"] != seconds:
        print(f"                {duration(forecast['seconds_left']):>14} (without what the workspace holds)")
    print(f"forecast disk   {found['forecast_disk_mb']:>14,} MB")
    if forecast["peak_mb"] is not None:
        print(f"forecast memory {forecast['peak_mb']:>14,.0f} MB (largest process)")
    if forecast["cost"] is not None:
        print(f"forecast cost   {forecast['cost']:>14,.2f} (without what the workspace holds)")
    console = terminal.console()
    if forecast["stages"]:
        heading(console, f"Forecast by {forecast['source']}")
        console.print(_stages(forecast["stages"]))
    for line in _even(forecast["break_even"]):
        console.print(Text(line), soft_wrap=True)
    for warning in forecast["warnings"]:
        console.print(Text(f"warning: {warning}", style="yellow"), soft_wrap=True)


def duration(seconds: float) -> str:
    """Seconds below two hours, then hours."""
    return f"{seconds:,.0f} s" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def _stages(stages: list[dict[str, Any]]) -> Table:
    table = terminal.columns(("stage", "items", "to do", "seconds", "left", "MB"), left=("stage",))
    for s in stages:
        disk = "" if s["disk_mb"] is None else f"{s['disk_mb']:,.1f}"
        counts = [f"{s[k]:,}" for k in ("items", "left")]
        table.add_row(s["stage"], *counts, f"{s['seconds']:,.1f}", f"{s['seconds_left']:,.1f}", disk)
    return table


def _even(even: dict[str, Any] | None) -> list[str]:
    """Whether to estimate, and from which size on."""
    if even is None:
        return []
    lines = [
        f"every pair exact: {duration(even['exact_seconds'])}; labels, features, fit and estimates: "
        f"{duration(even['estimated_seconds'])}"
    ]
    pool, fraction = even["pool"], even["label_fraction"]
    lines.append(
        "estimating never pays at this target"
        if pool is None
        else f"estimating pays from a pool of about {pool:,} rows on, at this target"
    )
    if fraction is not None:
        lines.append(f"at this pool it pays up to a label_fraction of {fraction:.2f}")
    return lines
