"""How good the estimator is on exact values it never saw, beside baselines that cost next to nothing.

A small mean squared error can be reached by predicting a constant (the warning in methods.md 1), and on
some influence functions nothing can be learned from few labels (estimator-facts.md). So each row carries
rank and variance measures, and each estimator row a verdict that says so when a baseline does as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from nncift_core.estimator.metrics import (
    pearson,
    r_squared,
    recall_at_k,
    spearman,
    spearman_centred,
    spearman_interval,
    spearman_per_target,
)

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Strings = npt.NDArray[np.str_]

MINIMUM_FOR_VERDICT = 30
ALL_TASKS = "all"
POOLED = "all"
LABELLED = ("Q1", "labels")


@dataclass(frozen=True)
class QualityRow:
    """One line of `estimator_quality`: one predictor on the pairs of one quadrant and target task.

    None: not defined (correlations of a constant, fewer than 3 pairs). lower, upper: 90 % interval of
    `spearman`. verdict: "" for all but the estimator. role: "estimator" is what the run predicts with, be it
    learned or itself a baseline.
    """

    function: str
    quadrant: str
    target_task: str
    role: Literal["estimator", "baseline"]
    predictor: str
    n_pairs: int
    mse: float
    r2: float | None
    pearson: float | None
    spearman: float | None
    spearman_per_target: float | None
    recall_at_k: float | None
    lower: float | None
    upper: float | None
    verdict: str
    spearman_centred: float | None = None


def assess(
    truth: npt.NDArray[Any],
    predictions: dict[str, npt.NDArray[Any]],
    *,
    estimator: str,
    columns: Int64,
    quadrants: Strings,
    function: str,
    target_tasks: Strings | None = None,
    seed: int,
    top: float = 0.1,
    n_boot: int = 500,
    overall: str | None = None,
    learned: bool = True,
) -> list[QualityRow]:
    """Measure every predictor in every quadrant: `truth` [k] exact, `predictions` name -> [k], raw scale.

    columns [k]: target ids; quadrants [k]: "Q1" (block) or "labels" (scattered) hold labels, all others
    pairs that no fit has seen: Q2, Q3, Q4, or "unseen"; target_tasks [k]: task of each pair's target, or
    None. For each quadrant there are rows for target task "all", and one set per task when the pairs of
    the call have more than one. Measures: `metrics`.

    overall: the gate's sentence. With it come, last, rows of quadrant "all": every unseen pair together;
    the sentence is the estimator's verdict there for target task "all".

    Any other verdict of the estimator, first match:
    1. labels: "fit on labels" (what was fitted says nothing about unseen pairs);
    2. fewer than 30 pairs: "too few pairs (n)";
    3. exact values all equal: "exact values do not vary";
    4. R2 <= 0: "below a constant (R2 <= 0)";
    5. a baseline is beaten only when both R2 and Spearman are higher (an undefined Spearman counts as 0)
       and the estimator's 90 % interval of Spearman lies above 0. If some are not beaten:
       "no better than <name>", of those the one with the highest Spearman, then R2;
    6. "beats every baseline" (with no baseline given: "no baseline to compare with"), or, of an estimator
       that is a baseline itself (`learned` False), "the best baseline: nothing was learned".

    Raises ValueError for lengths that differ, non-finite numbers (with their count), an unknown
    `estimator`, a quadrant named "all" or `top` outside (0, 1].
    """
    z, predicted = _checked(truth, predictions, columns, quadrants, target_tasks, estimator, top)
    rows: list[QualityRow] = []
    for quadrant, task, index in _groups(np.asarray(quadrants), target_tasks, overall is not None):
        group = [
            _measure(z[index], p[index], columns[index], top, n_boot, seed)
            | {
                "function": function,
                "quadrant": quadrant,
                "target_task": task,
                "role": "estimator" if name == estimator else "baseline",
                "predictor": name,
                "verdict": "",
            }
            for name, p in predicted.items()
        ]
        for values in group:
            if values["role"] == "estimator":
                others = [other for other in group if other["role"] == "baseline"]
                told = overall if (quadrant, task) == (POOLED, ALL_TASKS) else None
                values["verdict"] = _verdict(values, others, learned) if told is None else told
        rows.extend(QualityRow(**values) for values in group)
    return rows


def _checked(
    truth: npt.NDArray[Any],
    predictions: dict[str, npt.NDArray[Any]],
    columns: Int64,
    quadrants: Strings,
    target_tasks: Strings | None,
    estimator: str,
    top: float,
) -> tuple[Float64, dict[str, Float64]]:
    if estimator not in predictions:
        raise ValueError(f"no predictions of the estimator {estimator!r}, only of {sorted(predictions)}")
    if not 0 < top <= 1:
        raise ValueError(f"top must be in (0, 1], got {top}")
    z = np.asarray(truth, dtype=np.float64)
    predicted = {name: np.asarray(p, dtype=np.float64) for name, p in predictions.items()}
    given: dict[str, npt.NDArray[Any]] = {**predicted, "columns": columns, "quadrants": np.asarray(quadrants)}
    if target_tasks is not None:
        given["target_tasks"] = np.asarray(target_tasks)
    for name, x in given.items():
        if z.ndim != 1 or x.shape != z.shape:
            raise ValueError(f"{name} is {list(x.shape)}, the exact values are {list(z.shape)}")
    if POOLED in np.asarray(quadrants):
        raise ValueError(f"no quadrant may be named {POOLED!r}: that is all unseen pairs together")
    for name, x in {"exact values": z, **predicted}.items():
        bad = int((~np.isfinite(x)).sum())
        if bad:
            raise ValueError(f"{bad} of {len(x)} numbers of {name} are not finite")
    return z, predicted


def _groups(
    quadrants: npt.NDArray[Any], target_tasks: npt.NDArray[Any] | None, pooled: bool
) -> Iterator[tuple[str, str, Int64]]:
    """(quadrant, target task, positions): single quadrants, then "all"; in each, "all" before the tasks."""
    tasks = np.unique(target_tasks) if target_tasks is not None else np.empty(0, dtype=str)
    sets = [(str(name), quadrants == name) for name in np.unique(quadrants)]
    unseen = ~np.isin(quadrants, LABELLED)
    if pooled and unseen.any():
        sets.append((POOLED, unseen))
    for quadrant, inside in sets:
        yield quadrant, ALL_TASKS, np.flatnonzero(inside)
        if len(tasks) < 2:
            continue
        for task in tasks:
            index = np.flatnonzero(inside & (np.asarray(target_tasks) == task))
            if len(index):
                yield quadrant, str(task), index


def _measure(
    truth: Float64, predicted: Float64, columns: Int64, top: float, n_boot: int, seed: int
) -> dict[str, Any]:
    lower, upper = spearman_interval(truth, predicted, n_boot, seed)
    return {
        "n_pairs": len(truth),
        "mse": float(np.square(predicted - truth).mean()),
        "r2": r_squared(truth, predicted),
        "pearson": pearson(truth, predicted),
        "spearman": spearman(truth, predicted),
        "spearman_per_target": spearman_per_target(truth, predicted, columns),
        "recall_at_k": recall_at_k(truth, predicted, top),
        "lower": lower,
        "upper": upper,
        "spearman_centred": spearman_centred(truth, predicted, columns),
    }


def _verdict(row: dict[str, Any], baselines: list[dict[str, Any]], learned: bool) -> str:
    """The rules in the docstring of `assess`."""
    if row["quadrant"] in LABELLED:
        return "fit on labels"
    if row["n_pairs"] < MINIMUM_FOR_VERDICT:
        return f"too few pairs ({row['n_pairs']})"
    if row["r2"] is None:
        return "exact values do not vary"
    if row["r2"] <= 0:
        return "below a constant (R2 <= 0)"
    if not baselines:
        return "no baseline to compare with"
    rank_strength = row["spearman"] or 0.0
    ranks = row["lower"] is not None and row["lower"] > 0
    unbeaten = [
        b for b in baselines if not (ranks and row["r2"] > b["r2"] and rank_strength > (b["spearman"] or 0.0))
    ]
    if not unbeaten:
        return "beats every baseline" if learned else "the best baseline: nothing was learned"
    best = max(unbeaten, key=lambda b: (b["spearman"] or 0.0, b["r2"]))
    return f"no better than {best['predictor']}"
