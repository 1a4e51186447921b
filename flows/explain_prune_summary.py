"""What `nncift explain` prints of a row of a prune run."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text

from flows.explain_summary import number, say
from flows.terminal import columns, heading


def show_pruned(out: Console, told: dict[str, Any]) -> None:
    """Scores with their ends, kept or dropped, and whether the label looks wrong."""
    heading(out, "Scores")
    table = columns(("score", "value", "percentile", "hard end", "difficulty"), left=("score",))
    for s in told["scores"]:
        places = ("-" if v is None else f"{v:.1f}" for v in (s["percentile"], s["difficulty"]))
        percentile, difficulty = places
        name = f"{s['score']} ({s['variant']}{', learned' if s['origin'] != 'exact' else ''})"
        table.add_row(Text(name), number(s["value"]), percentile, s["hard_end"], difficulty)
    out.print(table)
    say(out, "difficulty: percentile among the rows, from the easiest (0) to the hardest (100)")
    _subset(out, told)
    heading(out, "Label")
    suspect, left_out = told["suspect"], told["suspects_left_out"]
    if suspect is None:
        more = f" ({left_out:,} further suspects are not listed)" if left_out else ""
        say(out, f"Not among the listed rows whose label looks wrong{more}.")
        return
    say(
        out,
        f"Suspect {suspect['rank']:,} of {number(told['suspects'])}: given {suspect['given']}, predicted "
        f"{suspect['predicted']}; probability of the given label {number(suspect['probability'])}. "
        f"{suspect['agreement']:.0%} of the scores have it among their hardest 5 %.",
    )


def _subset(out: Console, told: dict[str, Any]) -> None:
    subset, role = told["subset"], told["row"]["role"]
    if subset is None:
        heading(out, "Neither kept nor dropped")
        say(out, "A new row: it has learned scores alone." if role == "new" else "The run wrote no subset.")
        return
    kept = f"Kept: rank {subset['rank'] or 0:,} of {subset['of']:,}" if subset["kept"] else "Dropped"
    heading(out, f"{kept} (subset of the {subset['by']})")
    if subset["score"] is not None:
        say(
            out,
            f"By {subset['score']} ({subset['variant']}): {number(subset['value'])}; the last row that was "
            f"kept has {number(subset['edge'])}.",
        )
