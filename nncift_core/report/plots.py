"""The report's plots: SVG as `data:` addresses, the same bytes for the same numbers."""

from __future__ import annotations

import base64
import io
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

from nncift_core.text import one_line

# Okabe and Ito: told apart by colour-blind readers too.
BLUE, ORANGE, GREEN, RED, PURPLE, SKY, GREY = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#7a7f87",
)  # fmt: skip
COLOURS = (BLUE, ORANGE, GREEN, PURPLE, RED, SKY)
# Small in inches, so that its letters stay readable on a phone.
WIDTH = 5.0
_SETTINGS: dict[str, Any] = {
    "svg.hashsalt": "nncift", "svg.fonttype": "none", "text.parse_math": False, "text.usetex": False,
    "font.family": ["sans-serif"], "font.sans-serif": ["DejaVu Sans"], "font.size": 10,
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": "#888888",
    "axes.grid": True, "axes.axisbelow": True, "grid.color": "#e4e4e4", "legend.frameon": False,
    "axes.formatter.use_mathtext": False, "axes.unicode_minus": False, "axes.labelcolor": "#333333",
}  # fmt: skip
# Matplotlib's settings belong to the process: two reports must not draw at the same time.
_ONE_AT_A_TIME = threading.Lock()


@contextmanager
def _settings() -> Iterator[None]:
    import matplotlib

    with _ONE_AT_A_TIME, matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(cast(Any, _SETTINGS))
        # The browser draws the letters; what the measuring font lacks is no fault.
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        yield


def _image(height: float, draw: Callable[[Any], None]) -> str:
    """`draw` on a fresh figure of `height` inches, as an address for an <img>."""
    with _settings():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        draw(figure)
        out = io.BytesIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return "data:image/svg+xml;base64," + base64.b64encode(out.getvalue()).decode("ascii")


def _names(axes: Any, names: Sequence[str]) -> None:
    """Names beside the rows of a horizontal plot, the first on top."""
    axes.set_yticks(range(len(names)), [one_line(n, 26) for n in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)


def _legend(axes: Any, columns: int) -> None:
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=columns, fontsize=9, handlelength=1.4)


def dots(groups: dict[str, list[float]], label: str, line: tuple[str, float] | None) -> str:
    """One row per group with a dot per seed and a tick at their mean; line: a value to compare with."""

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for place, (name, values) in enumerate(groups.items()):
            colour = BLUE if name.startswith("selected") else GREY
            axes.plot(values, [place] * len(values), "o", color=colour, alpha=0.75, markersize=7)
            mean = sum(values) / len(values)
            axes.plot([mean], [place], "|", color=colour, markersize=20, markeredgewidth=2)
        if line is not None:
            axes.axvline(line[1], color=RED, linestyle="--", label=line[0])
            _legend(axes, 1)
        _names(axes, list(groups))
        axes.set_xlabel(label)

    return _image(1.2 + 0.42 * len(groups), draw)


def bars(
    names: Sequence[str], series: Mapping[str, Sequence[float]], label: str, percent: bool = False
) -> str:
    """Horizontal bars, one row per name and one bar per series."""
    thick = 0.8 / len(series)

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for n, (title, values) in enumerate(series.items()):
            places = [k - 0.4 + thick * (n + 0.5) for k in range(len(names))]
            colour = (GREY, BLUE)[n] if len(series) == 2 else BLUE
            axes.barh(
                places, [100 * v if percent else v for v in values], thick * 0.92, color=colour, label=title
            )
        if len(series) > 1:
            _legend(axes, len(series))
        _names(axes, names)
        axes.set_xlabel(label)

    return _image(1.1 + max(0.3, 0.18 + 0.14 * len(series)) * len(names), draw)


def steps(first: Sequence[float], last: Sequence[float], high: Sequence[float], low: Sequence[float]) -> str:
    """Gain by rank: the band between the highest and lowest gain of ranks `first` to `last`."""

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        middle = [(a + b) / 2 for a, b in zip(first, last, strict=True)]
        axes.fill_between(middle, low, high, color=BLUE, alpha=0.25, linewidth=0)
        axes.plot(middle, high, color=BLUE)
        if min(low) <= 0:
            axes.axhline(0, color=GREY, linewidth=0.8)
        axes.set_xlabel("rank")
        axes.set_ylabel("gain")

    return _image(2.6, draw)


def histograms(
    edges: Sequence[tuple[float, float]], panels: dict[str, dict[str, list[int]]], label: str
) -> str:
    """Per panel, each series' shares per bin as outlines; `edges` leaves out bins that nothing is in."""
    names = list(dict.fromkeys(name for series in panels.values() for name in series))

    def draw(figure: Any) -> None:
        columns = min(len(panels), 2)
        grid = figure.subplots(-(-len(panels) // columns), columns, sharex=True, squeeze=False)
        for axes, (title, series) in zip(grid.flat, panels.items(), strict=False):
            for name, counts in series.items():
                first = name == names[0]
                colour, style = (BLUE, "-") if first else (ORANGE, "--")
                xs, ys = _outline(edges, counts)
                axes.plot(xs, ys, style, color=colour, label=name, linewidth=1.5)
                if first:
                    axes.fill_between(xs, ys, color=colour, alpha=0.18, linewidth=0)
            axes.set_title(title, fontsize=10, loc="left", y=0.82, x=0.03)
            axes.set_ylim(bottom=0)
        for axes in grid.flat[len(panels) :]:
            axes.set_visible(False)
        figure.supxlabel(label, fontsize=10)
        figure.supylabel("share (%)", fontsize=10)
        shown = {n: h for a in grid.flat for h, n in zip(*a.get_legend_handles_labels(), strict=True)}
        figure.legend(shown.values(), shown.keys(), loc="outside upper center", ncols=2, fontsize=9)

    return _image(2.0 + 0.75 * len(panels) if len(panels) > 1 else 2.9, draw)


def _outline(edges: Sequence[tuple[float, float]], counts: list[int]) -> tuple[list[float], list[float]]:
    """Corners of a histogram in per cent, back to zero over bins that are missing."""
    width, total = max(b - a for a, b in edges), sum(counts)
    xs, ys = [edges[0][0]], [0.0]
    for (a, b), count in zip(edges, counts, strict=True):
        if a - xs[-1] > width / 2:
            xs, ys = [*xs, xs[-1], a], [*ys, 0.0, 0.0]
        xs, ys = [*xs, a, b], [*ys, *([100 * count / total] * 2)]
    return [*xs, xs[-1]], [*ys, 0.0]


def intervals(blocks: Sequence[Sequence[dict[str, Any]]], label: str) -> str:
    """Spearman with its interval, a line each, in blocks that stand apart.

    A line: name, spearman, lower, upper (or None), own: whether it is the estimator's, whose dot is filled.
    """
    placed, place = [], 0.0
    for block in blocks:
        for row in block:
            placed.append((place, row))
            place += 1
        place += 0.6

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for y, row in placed:
            colour = BLUE if row["own"] else GREY
            if row["lower"] is not None:
                axes.plot([row["lower"], row["upper"]], [y, y], color=colour, linewidth=2)
            fill = colour if row["own"] else "white"
            axes.plot([row["spearman"]], [y], "o", color=colour, markerfacecolor=fill)
        axes.axvline(0, color=GREY, linewidth=0.8)
        axes.set_yticks([y for y, _ in placed], [one_line(row["name"], 26) for _, row in placed])
        axes.set_ylim(placed[-1][0] + 0.6, -0.6)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(label)

    return _image(0.9 + 0.26 * place, draw)


def scatter(x: Sequence[float], y: Sequence[float], counts: Sequence[int], labels: tuple[str, str]) -> str:
    """A dot per cell of pairs, its area by how many they are, and the diagonal where x is y."""

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        axes.axline(
            (0, 0), slope=1, color=RED, linewidth=1.2, linestyle="--", zorder=3, label="predicted = exact"
        )
        # Single pairs stay visible beside cells of hundreds.
        areas = [min(14 * n**0.6, 240.0) for n in counts]
        axes.scatter(x, y, s=areas, color=BLUE, alpha=0.4, linewidths=0)
        # The line alone must not widen the view.
        for ends, given in ((axes.set_xlim, x), (axes.set_ylim, y)):
            low, high = min(given), max(given)
            edge = 0.06 * (high - low) or 0.1 * abs(low) or 1.0
            ends(low - edge, high + edge)
        axes.locator_params(nbins=5)
        axes.set_xlabel(labels[0])
        axes.set_ylabel(labels[1])
        _legend(axes, 1)

    return _image(3.6, draw)


def curve(
    measured: Sequence[tuple[float, float]], expected: Sequence[tuple[float, float]], labels: tuple[str, str]
) -> str:
    """Points joined by a line, and dashed beyond their last one to points that are only `expected`."""

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        axes.plot(*zip(*measured, strict=True), "o-", color=BLUE, label="measured")
        if expected:
            xs, ys = zip(*measured[-1:], *expected, strict=True)
            axes.plot(xs, ys, "--", color=ORANGE)
            axes.plot(xs[1:], ys[1:], "o", color=ORANGE, markerfacecolor="white", label="extrapolated")
        axes.set_xlabel(labels[0])
        axes.set_ylabel(labels[1])
        axes.set_xlim(left=0)
        _legend(axes, 2)

    return _image(2.9, draw)


def gains(rows: Mapping[str, tuple[float, float | None, float | None]], label: str) -> str:
    """One row per name: a value and the interval around it, with a line at 0; None: no end is known."""

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        axes.axvline(0, color=GREY, linewidth=0.8)
        for place, (value, low, high) in enumerate(rows.values()):
            sure = low is not None and high is not None and (low > 0 or high < 0)
            colour = GREY if not sure else BLUE if value > 0 else RED
            if low is not None and high is not None:
                axes.plot([low, high], [place, place], color=colour, linewidth=2)
            axes.plot([value], [place], "o", color=colour, markersize=6)
        _names(axes, list(rows))
        axes.set_xlabel(label)

    return _image(1.0 + 0.34 * len(rows), draw)
