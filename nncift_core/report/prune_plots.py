"""Plots of a prune run: curves over the share dropped, tail overlaps, the data map; as `plots` makes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from nncift_core.report.plots import BLUE, COLOURS, GREY, ORANGE, RED, SKY, _image, _names, _outline
from nncift_core.text import one_line

# Beyond the six of all plots, so that nine scores stay apart without repeating.
PALETTE = (*COLOURS, "#8c510a", "#3b3b8f", "#6b6b00")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
DASHES: dict[str, Any] = {"cut": "-", "": "-", "softmax": "--", "linear": ":"}
UNSCORED = {"random rows": (GREY, "o"), "stratified rows": ("#3f444b", "s")}
NAME = 24


@dataclass(frozen=True)
class Curve:
    """One line: the subset's name, its sampling, and share dropped, mean and half-width of the band (None:
    no band there) at every point."""

    name: str
    sampling: str
    points: tuple[tuple[float, float, float | None], ...]


def dropped(
    rows: Sequence[tuple[str, Mapping[str, Sequence[Curve]]]], level: tuple[str, float] | None, same_y: bool
) -> str:
    """Panels over the share of rows dropped, a line per subset, in rows of a measure's name and its panels by
    title; a name has one colour and mark in all of them, dashes tell samplings apart.

    level: a value to compare with, as a dashed line of that name; same_y: one scale for all rows.
    """
    curves = [c for _, panels in rows for own in panels.values() for c in own]
    looks, columns = _looks([c.name for c in curves]), max(len(panels) for _, panels in rows)

    def draw(figure: Any) -> None:
        grid = figure.subplots(
            len(rows), columns, sharex=True, sharey=True if same_y else "row", squeeze=False
        )
        for line, (label, panels) in zip(grid, rows, strict=True):
            for axes, (title, own) in zip(line, panels.items(), strict=False):
                for curve in own:
                    _curve(axes, curve, *looks[curve.name])
                if level is not None:
                    axes.axhline(level[1], color="black", linestyle=(0, (6, 3)), linewidth=1)
                axes.locator_params(axis="both", nbins=5)
                axes.set_title(title, fontsize=10, loc="left")
                axes.tick_params(labelbottom=True)
            line[0].set_ylabel(label)
            for axes in line[len(panels) :]:
                axes.set_visible(False)
        figure.supxlabel("rows dropped (%)", fontsize=10)
        shown = _legend(looks, curves, level)
        labels = [one_line(name, NAME) for name in shown]
        figure.legend(shown.values(), labels, loc="outside upper center", ncols=3, fontsize=8)

    return _image(0.6 + 2.0 * len(rows) + 0.2 * -(-(len(looks) + 3) // 3), draw)


def _legend(
    looks: Mapping[str, tuple[str, str]], curves: Sequence[Curve], level: tuple[str, float] | None
) -> dict[str, Any]:
    """A solid line per name; dashes of samplings, where there are others than cut-offs; the level."""
    from matplotlib.lines import Line2D

    drawn = {c.name for c in curves}
    shown = {
        name: Line2D([], [], color=colour, marker=mark, markersize=4, linewidth=1.3)
        for name, (colour, mark) in looks.items()
        if name in drawn
    }
    samplings = [s for s in ("softmax", "linear") if s in {c.sampling for c in curves}]
    shown |= {s: Line2D([], [], color="black", linestyle=DASHES[s], linewidth=1.3) for s in samplings}
    if level is not None:
        shown[level[0]] = Line2D([], [], color="black", linestyle=(0, (6, 3)), linewidth=1)
    return shown


def _looks(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Colour and mark of every name, in order of first appearance."""
    scored = [n for n in dict.fromkeys(names) if n not in UNSCORED]
    turns = {n: (k, k // len(PALETTE)) for k, n in enumerate(scored)}
    own = {
        n: (PALETTE[k % len(PALETTE)], MARKERS[(k + round_) % len(MARKERS)])
        for n, (k, round_) in turns.items()
    }
    return own | UNSCORED


def _curve(axes: Any, curve: Curve, colour: str, mark: str) -> None:
    xs, means = [100 * p[0] for p in curve.points], [p[1] for p in curve.points]
    dashes = DASHES.get(curve.sampling, "-.")
    axes.plot(
        xs, means, color=colour, linestyle=dashes, marker=mark, markersize=3.5, linewidth=1.3
    )  # fmt: skip
    band = [p for p in curve.points if p[2] is not None]
    low, high = ([m + sign * (s or 0) for _, m, s in band] for sign in (-1, 1))
    axes.fill_between([100 * p[0] for p in band], low, high, color=colour, alpha=0.1, linewidth=0)


def ranges(
    names: Sequence[str], means: Sequence[float], spreads: Sequence[float | None], label: str, level: float
) -> str:
    """A dot per name with its spread to both sides, the first on top; level: what chance gives, dashed."""

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for place, (mean, spread) in enumerate(zip(means, spreads, strict=True)):
            axes.plot([mean - (spread or 0), mean + (spread or 0)], [place, place], color=BLUE, linewidth=2)
            axes.plot([mean], [place], "o", color=BLUE)
        axes.axvline(level, color=RED, linestyle="--", linewidth=1.2, label="by chance")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), fontsize=9, handlelength=1.4)
        _names(axes, names)
        axes.set_xlim(0, 1.02)
        axes.set_xlabel(label)

    return _image(1.1 + 0.27 * len(names), draw)


def score_histograms(
    panels: Mapping[str, tuple[Sequence[tuple[float, float]], Mapping[str, Sequence[int]]]],
) -> str:
    """Per score its own bins and shares: the first series filled in grey, the others as lines."""
    names = list(dict.fromkeys(n for _, series in panels.values() for n in series))
    looks = ((RED, "-"), (ORANGE, "--"), (SKY, "--"), (BLUE, "-"))

    def draw(figure: Any) -> None:
        columns = min(len(panels), 2)
        grid = figure.subplots(-(-len(panels) // columns), columns, squeeze=False)
        for axes, (title, (edges, series)) in zip(grid.flat, panels.items(), strict=False):
            for n, name in enumerate(names):
                counts = list(series.get(name, ()))
                if not any(counts):
                    continue
                xs, ys = _outline(edges, counts)
                if n == 0:
                    axes.fill_between(xs, ys, color=GREY, alpha=0.45, linewidth=0, label=name)
                else:
                    colour, style = looks[(n - 1) % len(looks)]
                    axes.plot(xs, ys, style, color=colour, linewidth=1.1, label=one_line(name, 34))
            axes.set_ylim(bottom=0)
            axes.locator_params(axis="both", nbins=4)
            axes.set_title(one_line(title, NAME), fontsize=10, loc="left")
        for axes in grid.flat[len(panels) :]:
            axes.set_visible(False)
        figure.supxlabel("score", fontsize=10)
        figure.supylabel("share (%)", fontsize=10)
        shown = {n: h for a in grid.flat for h, n in zip(*a.get_legend_handles_labels(), strict=True)}
        figure.legend(shown.values(), shown.keys(), loc="outside upper center", ncols=1, fontsize=8)

    return _image(0.6 + 0.17 * len(names) + 1.45 * -(-len(panels) // 2), draw)


def overlaps(
    panels: Mapping[str, Mapping[tuple[str, str], float]], names: Sequence[str], chance: float
) -> str:
    """A matrix per tail, its shares (%) in their squares; pale is what chance gives, full is all."""
    size = 9 if len(names) <= 10 else 7
    short = [one_line(n, NAME) for n in names]

    def draw(figure: Any) -> None:
        from matplotlib.patches import Rectangle

        grid = figure.subplots(len(panels), 1, squeeze=False)
        for axes, (title, found) in zip(grid.flat, panels.items(), strict=True):
            for y, a in enumerate(names):
                for x, b in enumerate(names):
                    share = None if a == b else found.get((a, b))
                    depth = 0.0 if share is None else max(0.0, (share - chance) / max(1 - chance, 1e-9))
                    face = "#eceef0" if share is None else (1 - depth, 1 - 0.55 * depth, 1 - 0.3 * depth)
                    axes.add_patch(Rectangle((x, y), 1, 1, facecolor=face, edgecolor="white"))
                    if share is not None:
                        ink = "white" if depth > 0.7 else "black"
                        axes.text(
                            x + 0.5, y + 0.5, f"{100 * share:.0f}", ha="center", va="center", color=ink,
                            fontsize=size,
                        )  # fmt: skip
            places = [k + 0.5 for k in range(len(names))]
            axes.set_xticks(places, short, rotation=45, ha="right", fontsize=size)
            axes.set_yticks(places, short, fontsize=size)
            axes.set_xlim(0, len(names))
            axes.set_ylim(len(names), 0)
            axes.grid(visible=False)
            axes.tick_params(length=0)
            axes.set_title(title, fontsize=10, loc="left")

    return _image((0.9 + 0.27 * len(names)) * len(panels) + 0.3, draw)


def data_map(cells: Sequence[Mapping[str, Any]]) -> str:
    """A dot per cell of rows, its area by how many: variability across, confidence up, colour by how many of
    its rows have a positive margin."""
    parts: dict[str, tuple[str, Callable[[float | None], bool]]] = {
        "label mostly ahead": (BLUE, lambda a: a is not None and a >= 2 / 3),
        "in between": (ORANGE, lambda a: a is not None and 1 / 3 <= a < 2 / 3),
        "label mostly behind": (RED, lambda a: a is not None and a < 1 / 3),
        "rows": (BLUE, lambda a: a is None),
    }

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for name, (colour, holds) in parts.items():
            own = [c for c in cells if holds(c["ahead"])]
            if own:
                # Single rows stay visible beside cells of thousands.
                areas = [min(5 + 3 * c["rows"] ** 0.55, 120.0) for c in own]
                xs, ys = [c["variability"] for c in own], [c["confidence"] for c in own]
                axes.scatter(xs, ys, s=areas, color=colour, alpha=0.55, linewidths=0, label=name)
        axes.locator_params(nbins=5)
        axes.set_xlabel("variability")
        axes.set_ylabel("confidence")
        legend = axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, fontsize=9)
        for handle in legend.legend_handles:
            cast(Any, handle).set_sizes([36])

    return _image(3.7, draw)
