"""Plots of studies: curves in panels, and heat maps; addresses as `plots` makes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nncift_core.report.plots import COLOURS, GREY, _image
from nncift_core.text import one_line

STYLES = ("-", "--", ":", "-.")
# Beyond this many lines colours and styles would repeat.
LINES = len(COLOURS) * len(STYLES)
TICKS = 6


@dataclass(frozen=True)
class Line:
    """One line of a panel: x, mean and half-width of its band at every point; spread None: no band there."""

    points: tuple[tuple[float, float, float | None], ...]


def curves(
    panels: Mapping[str, Mapping[str, Line]],
    labels: tuple[str, str],
    *,
    log_y: bool = False,
    limits: tuple[float, float] | None = None,
) -> str:
    """A panel per title over a logarithmic x, a line per series; the same colour and style in every panel.

    log_y: a logarithmic y too, and no bands; limits: of y; what lies outside is not drawn.
    """
    names = list(dict.fromkeys(name for series in panels.values() for name in series))[:LINES]
    xs = sorted({p[0] for series in panels.values() for line in series.values() for p in line.points})

    def draw(figure: Any) -> None:
        columns = min(len(panels), 2)
        grid = figure.subplots(-(-len(panels) // columns), columns, sharex=True, squeeze=False)
        for axes, (title, series) in zip(grid.flat, panels.items(), strict=False):
            for n, name in enumerate(names):
                if name in series:
                    colour, style = COLOURS[n % len(COLOURS)], STYLES[n // len(COLOURS)]
                    _line(axes, series[name], name, colour, style, banded=not log_y)
            _scales(axes, xs, log_y)
            if limits is not None:
                axes.set_ylim(max(limits[0], axes.get_ylim()[0]), min(limits[1], axes.get_ylim()[1]))
            axes.set_title(title, fontsize=10, loc="left")
        for axes in grid.flat[len(panels) :]:
            axes.set_visible(False)
        figure.supxlabel(labels[0], fontsize=10)
        figure.supylabel(labels[1], fontsize=10)
        shown = {n: h for a in grid.flat for h, n in zip(*a.get_legend_handles_labels(), strict=True)}
        figure.legend(shown.values(), shown.keys(), loc="outside upper center", ncols=3, fontsize=8)

    rows = -(-len(panels) // 2)
    return _image(1.2 + 1.9 * rows + 0.2 * -(-len(names) // 3), draw)


def _line(axes: Any, line: Line, name: str, colour: str, style: str, banded: bool) -> None:
    xs, means = [p[0] for p in line.points], [p[1] for p in line.points]
    axes.plot(xs, means, style, color=colour, label=one_line(name, 26), marker="o", markersize=3)
    band = [p for p in line.points if p[2] is not None] if banded else []
    low, high = [m - (s or 0) for _, m, s in band], [m + (s or 0) for _, m, s in band]
    axes.fill_between([p[0] for p in band], low, high, color=colour, alpha=0.12, linewidth=0)


def _scales(axes: Any, xs: list[float], log_y: bool) -> None:
    """Logarithmic scales with plain numbers, for matplotlib's own are formulas, which stay unset here."""
    from matplotlib.ticker import FixedLocator, LogLocator, NullLocator, StrMethodFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(xs) if len(xs) <= TICKS else LogLocator())
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    if log_y:
        axes.set_yscale("log")
        low, high = axes.get_ylim()
        axes.yaxis.set_major_locator(FixedLocator([low * (high / low) ** part for part in (0.1, 0.5, 0.9)]))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:.1e}"))


def heat(
    panels: Mapping[str, Sequence[Sequence[float | None]]],
    across: Sequence[str],
    down: Sequence[str],
    labels: tuple[str, str],
) -> str:
    """A map per title, its numbers [down, across] written in their squares; 0 is pale, 1 and more is full."""

    def draw(figure: Any) -> None:
        columns = min(len(panels), 2)
        grid = figure.subplots(-(-len(panels) // columns), columns, squeeze=False)
        for axes, (title, values) in zip(grid.flat, panels.items(), strict=False):
            shown = [[float("nan") if v is None else v for v in row] for row in values]
            axes.imshow(shown, cmap="Blues", vmin=0, vmax=1.2, aspect="auto")
            for y, row in enumerate(values):
                for x, v in enumerate(row):
                    colour = "white" if v is not None and v > 0.75 else GREY if v is None else "black"
                    text = "–" if v is None else f"{v:.2f}"
                    axes.text(x, y, text, ha="center", va="center", color=colour, fontsize=9)
            axes.set_xticks(range(len(across)), across)
            axes.set_yticks(range(len(down)), down)
            axes.grid(visible=False)
            axes.set_title(one_line(title, 26), fontsize=10, loc="left")
        for axes in grid.flat[len(panels) :]:
            axes.set_visible(False)
        figure.supxlabel(labels[0], fontsize=10)
        figure.supylabel(labels[1], fontsize=10)

    return _image(0.8 + (0.9 + 0.28 * len(down)) * -(-len(panels) // 2), draw)
