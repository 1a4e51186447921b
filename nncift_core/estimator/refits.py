"""What more labels, and what each feature group buys: refits of one estimator, measured on audit pairs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from nncift_core.estimator.contract import (
    GROUPS,
    Features,
    checked_labels,
)
from nncift_core.estimator.evidence import (
    FAILURES,
    Audit,
    Int64,
    Maker,
    compact,
    difference_variance,
    is_block,
    message,
    predicted_pairs,
)
from nncift_core.estimator.metrics import r_squared, spearman
from nncift_core.hashing import hash_rank

_MORE = 2.0


def learning_curve(
    features: Features,
    i: Int64,
    j: Int64,
    values: npt.NDArray[Any],
    make: Maker,
    audit: Audit,
    shares: tuple[float, ...] = (0.25, 0.5, 1.0),
    *,
    seed: int,
    repeats: int = 3,
) -> list[dict[str, Any]]:
    """How well an estimator does on the `audit` pairs (i, j, values) when fitted on a part of the labels.

    One row per share: labels (mean number), repeats, spearman and r2 (means; an undefined Spearman is 0) and
    their standard deviations over repeats, extrapolated False, failed None or the message of a fit that
    failed. A share of a block is a smaller block, sqrt(share) of its rows and of its columns (of its rows
    alone if there is one column); of scattered labels, that share of the pairs. All by hash.
    A last row, share 2.0, extrapolated True: a - b / sqrt(n) at twice the labels, by least squares through
    the rows above; None with fewer than two of them. It says what more labels would buy if the curve went on.
    """
    labels = checked_labels(features, i, j, values)
    small, (si, sj), (ai, aj) = compact(features, (i, j), audit[:2])
    truth = np.asarray(audit[2], np.float64)
    rows: list[dict[str, Any]] = []
    for share in shares:
        found: list[tuple[int, float, float | None]] = []
        failed: str | None = None
        for repeat in range(repeats if share < 1 else 1):
            part = _part_of_labels(small, si, sj, share, seed + repeat)
            try:
                fitted = make().fit(small, si[part], sj[part], labels[part], seed=seed)
                predicted = predicted_pairs(fitted, small, ai, aj)
                found.append((len(part), spearman(truth, predicted) or 0.0, r_squared(truth, predicted)))
            except FAILURES as error:
                failed = message(error)
        rows.append(_curve_row(share, found, failed))
    return [*rows, _extrapolated(rows, len(labels))]


def group_gains(
    features: Features,
    i: Int64,
    j: Int64,
    values: npt.NDArray[Any],
    make: Maker,
    audit: Audit,
    *,
    seed: int,
) -> list[dict[str, Any]]:
    """What each feature group of `features` buys on the `audit` pairs (i, j, values): drop one, fit again.

    A group goes with the pair feature made of it (`GROUPS`). Rows, one per group present: group, spearman
    (with all groups), spearman_without, bought = the difference, standard_error of `bought` (as in `choose`;
    drop-one differences inside it are noise), failed: the message when the estimator cannot do without, and
    None elsewhere. Raises what `fit` raises with all groups.
    """
    labels = checked_labels(features, i, j, values)
    small, (si, sj), (ai, aj) = compact(features, (i, j), audit[:2])
    truth = np.asarray(audit[2], np.float64)
    present = {*small.rows, *small.pairs}
    complete = predicted_pairs(make().fit(small, si, sj, labels, seed=seed), small, ai, aj)
    rank = spearman(truth, complete) or 0.0
    rows: list[dict[str, Any]] = []
    for group, names in GROUPS.items():
        if not present & set(names):
            continue
        row: dict[str, Any] = {"group": group, "spearman": rank}
        row |= dict.fromkeys(("spearman_without", "bought", "standard_error", "failed"))
        without = small.only(present - set(names))
        try:
            predicted = predicted_pairs(make().fit(without, si, sj, labels, seed=seed), without, ai, aj)
            row["spearman_without"] = spearman(truth, predicted) or 0.0
            row["bought"] = rank - row["spearman_without"]
            row["standard_error"] = math.sqrt(difference_variance(complete, predicted))
        except FAILURES as error:
            row["failed"] = message(error)
        rows.append(row)
    return rows


def _part_of_labels(features: Features, i: Int64, j: Int64, share: float, seed: int) -> Int64:
    """Positions of `share` of the labels, as `learning_curve` says."""
    if share >= 1:
        return np.arange(len(i))
    if not is_block(i, j):
        order = np.argsort(hash_rank(features.row_ids[i], seed, "curve", features.column_ids[j]))
        return np.sort(order[: max(1, round(share * len(i)))])
    side = share if len(np.unique(j)) == 1 else math.sqrt(share)
    keep = np.ones(len(i), dtype=bool)
    for name, at, ids in (("row", i, features.row_ids), ("column", j, features.column_ids)):
        positions = np.unique(at)
        order = np.argsort(hash_rank(ids[positions], seed, f"curve-{name}"))
        keep &= np.isin(at, positions[order[: max(1, round(side * len(positions)))]])
    return np.flatnonzero(keep)


def _curve_row(
    share: float, found: list[tuple[int, float, float | None]], failed: str | None
) -> dict[str, Any]:
    ranks = [rank for _, rank, _ in found]
    r2 = [value for _, _, value in found if value is not None]
    return {
        "share": share,
        "labels": round(float(np.mean([n for n, _, _ in found]))) if found else None,
        "repeats": len(found),
        "spearman": float(np.mean(ranks)) if found else None,
        "spearman_sd": float(np.std(ranks, ddof=1)) if len(found) > 1 else None,
        "r2": float(np.mean(r2)) if r2 else None,
        "r2_sd": float(np.std(r2, ddof=1)) if len(r2) > 1 else None,
        "extrapolated": False,
        "failed": failed,
    }


def _extrapolated(rows: list[dict[str, Any]], labels: int) -> dict[str, Any]:
    out = _curve_row(_MORE, [], None) | {"labels": round(_MORE * labels), "extrapolated": True}
    for name in ("spearman", "r2"):
        points = [(row["labels"], row[name]) for row in rows if row[name] is not None]
        if len({n for n, _ in points}) > 1:
            n, y = np.array(points, dtype=np.float64).T
            slope, intercept = np.polyfit(n**-0.5, y, 1)
            out[name] = min(1.0, float(intercept + slope * (_MORE * labels) ** -0.5))
    return out
