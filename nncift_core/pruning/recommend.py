"""Which share to prune by which score, or the refusal to say so: from measured subsets only."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from nncift_core.evaluation.intervals import BETTER, LEVEL, t_quantile
from nncift_core.pruning.summary import ALL, RANDOM
from nncift_core.scores.catalogue import CATALOGUE
from nncift_core.text import one_line

Row = Mapping[str, Any]
STRATIFIED = "stratified"
# Degrees of freedom of what is known well enough to be called normal.
_MANY = 1000.0
# Characters of a class or group that are shown.
_NAME = 60


@dataclass(frozen=True)
class Recommendation:
    """What to keep, and why. verdict: "prune" names the subset in the other fields; otherwise they are empty
    (pruned 0), and nothing should be pruned by a score."""

    verdict: Literal["prune", "keep all", "no score beats random"]
    score: str
    variant: str
    sampling: str
    pruned_end: str
    pruned: float
    text: str


@dataclass(frozen=True)
class _Tried:
    """A subset by a score; lower, upper: interval of its gain over random that holds for all tried together;
    tolerance: half-width of the 90 % interval of its change against all data, over seeds."""

    row: Row
    lower: float
    upper: float
    tolerance: float

    @property
    def better(self) -> bool:
        return self.row["verdict"] == BETTER and self.lower > 0

    @property
    def harmless(self) -> bool:
        return bool(self.row["change"] + self.tolerance >= 0)


def recommend(summary: Sequence[Row], rows: int) -> Recommendation:
    """The recommendation from rows of `summarise`; rows: of the training set.

    Rows of study "curve" under the given labels alone are looked at; where it was not made, none is given.

    1. A score beats random if its gain is "better" by its own interval, and also by an interval that holds
       for all m subsets looked at, since the best of many lucky draws looks good: 90 % for all together
       (Bonferroni, each side 0.05 / m). Three seeds of one subset are too few for such a level, so that this
       interval pools the spread over seeds of all subsets of the same pruned share: s, the root of the mean
       of their variances. It is `gain -+ hypot(t s sqrt(1 / S + 1 / S_random), z gain_rows)`. It takes the
       spread as the same for these subsets; the subset's own interval does not.
    2. Among those, the ones whose change against all data is within the tolerance: change + t s
       sqrt(1 / S + 1 / S_all) >= 0 with t at 95 %: the 90 % interval over seeds includes 0 or lies above
       it. The doubt of the evaluated rows is left out on purpose: few rows would excuse any harm.
    3. Of those the largest pruned share, then the best change. Where 2 leaves none: "keep all". Where 1
       leaves none: "no score beats random", with the best try and random's own figure.

    "stratified" is no score. Subsets of one seed are never recommended, nor any without random subsets or
    all data to compare with: "keep all" and why. The chosen change is the best of several and so on the
    bright side; measure it anew before trusting its last digit.
    """
    summary = [r for r in summary if r["study"] == "curve" and not r["noise"]]
    if not summary:
        return _keep('nothing is recommended: the study "curve" was not made')
    full = next((r for r in summary if r["score"] == ALL), None)
    tries = [r for r in summary if r["score"] not in (ALL, RANDOM, STRATIFIED)]
    seeded = [r for r in tries if r["n_seeds"] > 1 and r["gain_lower"] is not None]
    if full is None or not seeded or full["n_seeds"] < 2:
        return _keep(_why_nothing(full, tries))
    tried = [_tried(r, summary, full, len(seeded)) for r in seeded if r["change"] is not None]
    winners = [t for t in tried if t.better]
    if not winners:
        return _no_score(tried, summary, len(seeded))
    harmless = [t for t in winners if t.harmless]
    if not harmless:
        best = max(winners, key=lambda t: t.row["change"])
        return _keep(
            f"keep all rows: of {len(tried)} subsets {len(winners)} beat random rows, but all cost accuracy "
            f"against all data; the least costly is {_named(best)}: {_figures(best)}"
        )
    best = max(harmless, key=lambda t: (t.row["pruned"], t.row["change"]))
    r = best.row
    return Recommendation(
        "prune",
        r["score"],
        r["variant"],
        r["sampling"],
        r["pruned_end"],
        r["pruned"],
        f"prune {_named(best)} (keep {r['n_train']:,} of {rows:,} rows): {_figures(best)}",
    )


def title_of(shown: str) -> str:
    """The title of a score by its shown name: "VoG", "VoG (embedding)" where the encoder is frozen."""
    if shown in CATALOGUE:
        return CATALOGUE[shown].title
    for entry in CATALOGUE.values():
        if entry.frozen == shown:
            return f"{entry.title} ({shown.rsplit('-', 1)[-1]})"
    return shown


def _tried(row: Row, summary: Sequence[Row], full: Row, m: int) -> _Tried:
    spread, dof = _pooled(summary, row["pruned"])
    random = next(r for r in summary if r["score"] == RANDOM and r["pruned"] == row["pruned"])
    level = 1 - (1 - LEVEL) / 2 / m
    seeds = _quantile(level, dof) * spread * math.sqrt(1 / row["n_seeds"] + 1 / random["n_seeds"])
    half = math.hypot(seeds, _quantile(level, _MANY) * row["gain_rows"])
    tolerance = (
        t_quantile((1 + LEVEL) / 2, dof) * spread * math.sqrt(1 / row["n_seeds"] + 1 / full["n_seeds"])
    )
    return _Tried(row, row["gain"] - half, row["gain"] + half, tolerance)


def _pooled(summary: Sequence[Row], pruned: float) -> tuple[float, float]:
    """Standard deviation over seeds of the subsets of that share, pooled, and its degrees of freedom."""
    of = [(r["spread"], r["n_seeds"] - 1) for r in summary if r["pruned"] == pruned and r["n_seeds"] > 1]
    dof = float(sum(n for _, n in of))
    return math.sqrt(sum(n * s**2 for s, n in of) / dof), dof


def _quantile(probability: float, dof: float) -> float:
    """Student's t, also far out, where `t_quantile` refuses."""
    from scipy.special import stdtrit

    return float(stdtrit(dof, probability))


def _why_nothing(full: Row | None, tries: Sequence[Row]) -> str:
    if not tries:
        return "keep all rows: no subset by a score was trained on"
    if full is None:
        return "keep all rows: nothing was trained on all of them to compare with"
    if full["n_seeds"] < 2 or all(r["n_seeds"] < 2 for r in tries):
        return (
            "no recommendation: one training per subset says nothing of the spread; "
            "set study.seeds to 3 or more"
        )
    return "keep all rows: no random subsets of the same size were trained on to compare with"


def _keep(text: str) -> Recommendation:
    return Recommendation("keep all", "", "", "", "", 0.0, text)


def _no_score(tried: Sequence[_Tried], summary: Sequence[Row], m: int) -> Recommendation:
    """The refusal, with the subset that came nearest and what random rows do at that share."""
    best = max(tried, key=lambda t: (t.lower, t.row["gain"]))
    random = next(r for r in summary if r["score"] == RANDOM and r["pruned"] == best.row["pruned"])
    own = _points(random["change"]) if random["change"] is not None else "an unknown change of"
    text = (
        f"no score beats random rows beyond the spread ({m} subsets tried together): the best try is "
        f"{_named(best)}: {_figures(best)}. Random rows at that share: {own} points against all data"
    )
    return Recommendation("no score beats random", "", "", "", "", 0.0, text)


def _named(t: _Tried) -> str:
    r = t.row
    how = "" if r["sampling"] in ("", "cut") else f", {r['sampling']} sampling"
    return f"{100 * r['pruned']:.3g} % by {title_of(r['score'])} ({r['variant']}), {r['pruned_end']} end{how}"


def _figures(t: _Tried) -> str:
    r = t.row
    parts = [
        f"expected change {_points(r['change'])} +- {100 * t.tolerance:.1f} points",
        f"over random {_points(r['gain'])} ({_points(t.lower)}..{_points(t.upper)})",
    ]
    if r["worst_class"] is not None:
        parts.append(
            f"worst class {one_line(r['worst_class'], _NAME)} {_points(r['worst_class_change'])} points"
        )
    if r["worst_group"] is not None:
        parts.append(
            f"worst group {one_line(r['worst_group'], _NAME)} {_points(r['worst_group_change'])} points"
        )
    if r["tail_change"] is not None:
        parts.append(f"tail {_points(r['tail_change'])}")
    return "; ".join(parts)


def _points(share: float) -> str:
    """A difference of shares in percentage points with its sign; 0.0 has none."""
    text = f"{100 * share:+.1f}"
    return "0.0" if float(text) == 0 else text
