"""One fit, measured on the whole exact matrix: how well it predicts the pairs it was not given."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nncift_core.estimator.contract import Estimator, Features
from nncift_core.estimator.metrics import (
    MINIMUM_PER_TARGET,
    r_squared,
    recall_at_k,
    spearman,
    spearman_per_target,
)

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

SEEN, UNSEEN = "seen", "unseen"
TOP = 0.1


@dataclass(frozen=True)
class MetricRow:
    """One number of one fit. quadrant: "Q1".."Q4", "seen" or "unseen"; value: None where it is undefined."""

    quadrant: str
    metric: str
    value: float | None


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a fitted estimator says of every pair [M, N], which of them it was fitted on, and its time."""

    values: Float32
    labelled: Bool
    fit_seconds: float
    predict_seconds: float


def fit_and_predict(
    features: Features,
    exact: npt.NDArray[Any],
    labelled: tuple[Int64, Int64],
    estimator: Estimator,
    *,
    seed: int = 0,
) -> Prediction:
    """Fit on the pairs `labelled` (i [k], j [k]) of `exact` [M, N] and predict every pair.

    Raises ValueError as the fit does, for another shape than the features', and for predictions that
    are not finite.
    """
    if exact.shape != features.shape:
        raise ValueError(f"exact is {list(exact.shape)}, the features are of {list(features.shape)}")
    i, j = labelled
    start = time.perf_counter()
    estimator.fit(features, i, j, exact[i, j], seed=seed)
    fitted = time.perf_counter()
    values = estimator.predict(features)
    done = time.perf_counter()
    bad = int((~np.isfinite(values)).sum())
    if bad:
        raise ValueError(f"{bad} of {values.size} predictions are not finite")
    mask = np.zeros(exact.shape, bool)
    mask[i, j] = True
    return Prediction(values, mask, fitted - start, done - fitted)


def evaluate_fit(
    features: Features,
    exact: npt.NDArray[Any],
    labelled: tuple[Int64, Int64],
    estimator: Estimator,
    *,
    seed: int = 0,
    top: float = TOP,
) -> list[MetricRow]:
    """Fit `estimator` on the labelled pairs (i [k], j [k]) and measure it on all of `exact` [M, N].

    Rows as `measured` gives them; raises ValueError as `fit_and_predict` does.
    """
    found = fit_and_predict(features, exact, labelled, estimator, seed=seed)
    return measured(exact, found.values, found.labelled, top)


def measured(
    exact: npt.NDArray[Any], predicted: npt.NDArray[Any], labelled: Bool, top: float = TOP
) -> list[MetricRow]:
    """Metrics of `predicted` against `exact` (both [M, N]) in every group of `groups`.

    mse; r2; spearman; spearman_per_target (mean within columns); recall: share of the true top pairs among
    the predicted top pairs; recall_per_target: the same within columns, their mean; recall_by_score: the
    same of rows by their mean over the group. `top` is the size of a top; ties count in expectation.
    """
    z, p = np.asarray(exact, np.float64), np.asarray(predicted, np.float64)
    out = []
    for name, mask in groups(labelled):
        rows, columns = np.nonzero(mask)
        values = _metrics(z[mask], p[mask], rows, columns, top)
        out += [MetricRow(name, metric, value) for metric, value in values.items()]
    return out


def groups(labelled: Bool) -> Iterator[tuple[str, Bool]]:
    """(name, mask [M, N]) of the pairs that are measured together, none of them empty.

    "Q1".."Q4" by labelled row and labelled column where the labels are all pairs of some rows and columns
    (block, all-targets), else "seen" for the labels; and "unseen", every pair without a label.
    """
    row, column = (np.asarray(labelled.any(axis=axis)) for axis in (1, 0))
    if int(row.sum()) * int(column.sum()) == int(labelled.sum()):
        sides = {"Q1": (row, column), "Q2": (row, ~column), "Q3": (~row, column), "Q4": (~row, ~column)}
        found = {name: r[:, None] & c[None, :] for name, (r, c) in sides.items()}
    else:
        found = {SEEN: labelled}
    found[UNSEEN] = ~labelled
    for name, mask in found.items():
        if mask.any():
            yield name, mask


def _metrics(
    truth: Float64, predicted: Float64, rows: Int64, columns: Int64, top: float
) -> dict[str, float | None]:
    return {
        "mse": float(np.square(predicted - truth).mean()),
        "r2": r_squared(truth, predicted),
        "spearman": spearman(truth, predicted),
        "spearman_per_target": spearman_per_target(truth, predicted, columns),
        "recall": recall_at_k(truth, predicted, top),
        "recall_per_target": _recall_per_target(truth, predicted, columns, top),
        "recall_by_score": recall_at_k(_means(truth, rows), _means(predicted, rows), top),
    }


def _recall_per_target(truth: Float64, predicted: Float64, columns: Int64, top: float) -> float | None:
    """Mean over columns with at least 5 pairs and exact values that vary."""
    order = np.argsort(columns, kind="stable")
    starts = np.flatnonzero(np.diff(columns[order])) + 1
    parts = [g for g in np.split(order, starts) if len(g) >= MINIMUM_PER_TARGET]
    found = [recall_at_k(truth[g], predicted[g], top) for g in parts]
    known = [f for f in found if f is not None]
    return float(np.mean(known)) if known else None


def _means(x: Float64, group: Int64) -> Float64:
    """Mean of x [k] per group that occurs, in order of the groups' numbers."""
    counts = np.bincount(group)
    out: Float64 = np.bincount(group, x)[counts > 0] / counts[counts > 0]
    return out


def parameter_count(estimator: Estimator) -> int:
    """How many numbers a fitted estimator keeps."""
    said = estimator.describe().get("parameters")
    return int(said) if isinstance(said, int) else sum(int(a.size) for a in estimator.state()[0].values())
