"""Points of the pruning studies as rows: every measurement (view `pruning`), and means over seeds beside all
data and random rows (view `pruning_summary`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nncift_core.pruning.paired import Key, Paired, Point, by_seed, gain_of, paired

ALL, RANDOM = "all", "random"
# Accuracy of fewer rows than this says nothing of a class.
FEWEST_ROWS = 5

_SETTINGS = ("study", "noise", "noise_rate", "score", "variant", "sampling", "pruned_end", "pruned")
_OF_POINT = (*_SETTINGS, "seed", "n_train", "mislabelled")


def key_of(point: Point) -> Key:
    """The settings of a point without its seed; equal shares compare equal."""
    values = {name: point[name] for name in _SETTINGS}
    values["noise_rate"] = round(float(values["noise_rate"] or 0.0), 9)
    values["pruned"] = round(float(values["pruned"] or 0.0), 9)
    return tuple(values.values())


def grouped(points: Sequence[Point]) -> dict[Key, dict[int, Point]]:
    """Settings -> seed -> point, in the order of `points`. Raises ValueError for a point given twice."""
    found: dict[Key, list[Point]] = {}
    for p in points:
        found.setdefault(key_of(p), []).append(p)
    return {key: by_seed(group) for key, group in found.items()}


def long_rows(points: Sequence[Point]) -> list[dict[str, Any]]:
    """Rows of the view `pruning` without run_id: of every point accuracy, macro_accuracy and log_loss of all
    evaluated rows, and accuracy of every class, group and of the tail. Sets without rows have no row."""
    rows: list[dict[str, Any]] = []
    for p in points:
        head = {name: p[name] for name in _OF_POINT}
        n = sum(count for _, count in p["per_class"].values())
        for metric in ("accuracy", "macro_accuracy", "log_loss"):
            measured = {"metric": metric, "value": float(p[metric]), "n_rows": n}
            rows.append({**head, "scope": "all", "name": "", **measured})
        parts = [("class", name, c) for name, c in p["per_class"].items()]
        parts += [("group", name, c) for name, c in p["per_group"].items()]
        for scope, name, (correct, count) in [*parts, ("tail", "", p["tail"])]:
            if count:
                measured = {"metric": "accuracy", "value": correct / count, "n_rows": count}
                rows.append({**head, "scope": scope, "name": name, **measured})
    return rows


def summarise(points: Sequence[Point]) -> list[dict[str, Any]]:
    """Rows of the view `pruning_summary` without run_id: one per setting, in the order of `points`.

    change is against all data, gain against random rows at the same pruned share, both of the same study and
    noise and paired by seed: only seeds of both sides count. spread, change_spread: standard deviations over
    seeds. gain_lower, gain_upper: 90 % interval, Student's t over seeds and the doubt of the evaluated rows
    (`paired.row_doubt`) in quadrature; one seed has neither interval nor verdict. tail_accuracy, tail_change:
    of the rows of the rarest classes. worst_class, worst_group: where accuracy fell most against all
    data (mean over seeds), of those with at least 5 evaluated rows; the first by name of equal ones.
    relative_error = dER / ER_full with ER = 1 - accuracy, efficiency = relative_error / pruned
    (methods.md 2): None where ER_full or pruned is 0. All of these are None where nothing is there to
    compare with.

    gain_rows: standard error of the gain that is due to the evaluated rows. Raises ValueError for a setting
    with two points of one seed.
    """
    groups = grouped(points)
    return [_summary(key, seeds, groups) for key, seeds in groups.items()]


def _summary(
    key: Key, seeds: Mapping[int, Point], groups: Mapping[Key, Mapping[int, Point]]
) -> dict[str, Any]:
    points = list(seeds.values())
    at = dict(zip(_SETTINGS, key, strict=True))
    same = [(dict(zip(_SETTINGS, k, strict=True)), s) for k, s in groups.items() if k[:3] == key[:3]]
    full = next((s for a, s in same if a["score"] == ALL), {})
    random = next((s for a, s in same if a["score"] == RANDOM and a["pruned"] == at["pruned"]), {})
    both = [] if at["score"] == ALL else [(seeds[s], full[s]) for s in seeds if s in full]
    change = paired([p["accuracy"] - q["accuracy"] for p, q in both])
    compared = at["score"] not in (ALL, RANDOM)
    gain, row_error = gain_of(seeds, random) if compared else (None, 0.0)
    accuracy = [float(p["accuracy"]) for p in points]
    worst_class, worst_group = _worst(both, "per_class"), _worst(both, "per_group")
    planted = [p["mislabelled"] for p in points if p["mislabelled"] is not None]
    tails = [(_share(p["tail"]), _share(q["tail"])) for p, q in both]
    return {
        **{name: points[0][name] for name in _SETTINGS},
        "pruned": at["pruned"],
        "n_seeds": len(points),
        "n_train": round(float(np.mean([p["n_train"] for p in points]))),
        "accuracy": float(np.mean(accuracy)),
        "spread": float(np.std(accuracy, ddof=1)) if len(accuracy) > 1 else None,
        "change": change.mean if change else None,
        "change_spread": change.spread if change else None,
        **_gain(gain, row_error),
        "macro_accuracy": float(np.mean([p["macro_accuracy"] for p in points])),
        "tail_accuracy": _mean([_share(p["tail"]) for p in points]),
        "tail_change": _mean([a - b for a, b in tails if a is not None and b is not None]),
        "worst_class": worst_class[0],
        "worst_class_change": worst_class[1],
        "worst_group": worst_group[0],
        "worst_group_change": worst_group[1],
        **_efficiency(change, both, float(at["pruned"])),
        "mislabelled": _mean(planted),
    }


def _gain(gain: Paired | None, row_error: float) -> dict[str, Any]:
    return {
        "gain": gain.mean if gain else None,
        "gain_lower": gain.lower if gain else None,
        "gain_upper": gain.upper if gain else None,
        "verdict": gain.verdict if gain else None,
        "gain_rows": row_error if gain else None,
    }


def _efficiency(change: Paired | None, both: Sequence[tuple[Point, Point]], pruned: float) -> dict[str, Any]:
    error = 1 - float(np.mean([q["accuracy"] for _, q in both])) if both else 0.0
    relative = -change.mean / error if change and error > 0 else None
    efficiency = relative / pruned if relative is not None and pruned > 0 else None
    return {"relative_error": relative, "efficiency": efficiency}


def _worst(both: Sequence[tuple[Point, Point]], part: str) -> tuple[str | None, float | None]:
    """Where accuracy fell most: name and mean change; (None, None) where no part has rows enough."""
    found: dict[str, list[float]] = {}
    for ours, theirs in both:
        for name, (correct, n) in ours[part].items():
            before, n_before = theirs[part].get(name, (0, 0))
            if min(n, n_before) >= FEWEST_ROWS:
                found.setdefault(name, []).append(correct / n - before / n_before)
    means = {name: float(np.mean(found[name])) for name in sorted(found)}
    if not means:
        return None, None
    worst = min(means, key=lambda name: means[name])
    return worst, means[worst]


def _share(counts: Sequence[int]) -> float | None:
    correct, n = counts
    return correct / n if n else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [float(v) for v in values if v is not None]
    return float(np.mean(known)) if known else None
