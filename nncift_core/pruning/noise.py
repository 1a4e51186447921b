"""Labels made wrong on purpose, and how well a score finds them."""

from __future__ import annotations

from typing import Literal

import numpy as np

from nncift_core.classification.contract import Bool, Float32, Float64, Int64
from nncift_core.errors import UserError
from nncift_core.estimator.metrics import average_ranks
from nncift_core.pruning.class_sums import class_sums

Kind = Literal["shuffle", "uniform", "confusable"]

# Apart from the numbers that other uses of the same seed draw.
_ROWS, _SHUFFLE = 11, 12


def plant(
    labels: Int64, n_classes: int, kind: Kind, rate: float, seed: int, nearest: Int64 | None = None
) -> Int64:
    """labels [N] of classes 0..K-1 with noise on round(rate * N) rows, [N]; the given ones are left alone.

    "shuffle" permutes the labels of those rows among themselves, so that some stay right (isotropic noise of
    arXiv 2311.16298: of three even classes, two thirds get wrong); "uniform" gives each row one of the other
    classes, all equally likely; "confusable" gives it nearest[label], [K], see `nearest_classes`. The rows
    depend on seed, rate and N alone: all kinds hit the same ones, and those of a lower rate are among those
    of a higher one, with the same new labels but for "shuffle". Raises ValueError for a rate outside 0..1, an
    unknown kind, or a nearest class that is missing, unknown or the label itself; UserError for fewer than
    two classes.
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"noise on a share of {rate} of the rows")
    if n_classes < 2:
        raise _one_class()
    rng = np.random.default_rng([seed, _ROWS])
    rows = rng.permutation(len(labels))[: round(rate * len(labels))]
    out = labels.copy()
    if kind == "shuffle":
        out[rows] = labels[np.random.default_rng([seed, _SHUFFLE]).permutation(rows)]
    elif kind == "uniform":
        # A draw for every row, so that a row's new label does not depend on the rate.
        out[rows] = (labels + rng.integers(1, n_classes, len(labels)))[rows] % n_classes
    elif kind == "confusable":
        out[rows] = _replaced(labels[rows], n_classes, nearest)
    else:
        raise ValueError(f"no noise {kind!r}")
    return out


def nearest_classes(x: Float32 | Float64, labels: Int64, n_classes: int) -> Int64:
    """For each of K classes the other one whose mean of x [N, d] is the nearest by cosine, [K].

    A class without rows is never chosen, and has -1 itself; of equals the lowest is chosen. A mean of length
    0 has cosine 0 with all. Raises UserError where fewer than two classes have rows.
    """
    sizes = np.bincount(labels, minlength=n_classes)
    filled = sizes > 0
    if filled.sum() < 2:
        raise _one_class()
    # Sums point where means do.
    means = class_sums(x, labels, n_classes)
    lengths = np.linalg.norm(means, axis=1, keepdims=True)
    directions = np.divide(means, lengths, out=np.zeros_like(means), where=lengths > 0)
    cosine = directions @ directions.T
    cosine[:, ~filled] = -np.inf
    np.fill_diagonal(cosine, -np.inf)
    return np.where(filled, cosine.argmax(axis=1), -1)


def detection(difficulty: Float64, planted: Bool) -> dict[str, float]:
    """How well difficulty [N] ranks the P planted rows of planted [N] first, by three measures.

    auc: share of the pairs of a planted and another row with the planted one harder; a tie is half.
    average_precision: sum over distinct difficulties, hardest first, of (rise in recall) * (precision of all
    rows at least as hard), so that ties are taken as one block: P / N where all are ties. found: share of the
    planted among the P hardest rows; of a block of ties that does not fit, the expected number of a random
    choice counts. NaN where nothing is planted, auc also where everything is. Raises ValueError for shapes
    that differ or difficulties that are not numbers.
    """
    if difficulty.shape != planted.shape or np.isnan(difficulty).any():
        raise ValueError(f"no difficulty {difficulty.shape} for each of planted {planted.shape}")
    p, others = int(planted.sum()), int((~planted).sum())
    nan = float("nan")
    if not p:
        return {"auc": nan, "average_precision": nan, "found": nan}
    ranks = float(average_ranks(difficulty)[planted].sum())
    auc = (ranks - p * (p + 1) / 2) / (p * others) if others else nan
    hits, rows = _blocks(difficulty, planted)
    precision = np.cumsum(hits) / np.cumsum(rows)
    before = np.cumsum(rows) - rows
    taken = np.clip(p - before, 0, rows)
    return {
        "auc": auc,
        "average_precision": float((hits / p * precision).sum()),
        "found": float((hits * taken / rows).sum() / p),
    }


def _blocks(difficulty: Float64, planted: Bool) -> tuple[Int64, Int64]:
    """Planted rows and all rows of each distinct difficulty, the hardest first."""
    _, block, rows = np.unique(-difficulty, return_inverse=True, return_counts=True)
    return np.bincount(block[planted], minlength=len(rows)), rows


def _replaced(labels: Int64, n_classes: int, nearest: Int64 | None) -> Int64:
    if nearest is None or nearest.shape != (n_classes,):
        raise ValueError(f"confusable noise wants the nearest class of each of {n_classes} classes")
    new: Int64 = nearest[labels]
    if (new < 0).any() or (new >= n_classes).any() or (new == labels).any():
        raise ValueError("a nearest class is the label itself or no class at all")
    return new


def _one_class() -> UserError:
    return UserError(
        "wrong labels cannot be planted: there is only one class",
        field="data",
        mend="Give rows of two classes or more.",
    )
