"""Which labelled rows are kept: by score, at random, or the same share of every class.

All keep n - round(pruned * n) of n rows, and of every class at least min(floor, its size) rows. A floor
pushes out the rows that are wanted least, so that the size holds as long as the floors of all classes fit in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from nncift_core.classification.contract import Float64, Int64
from nncift_core.errors import UserError
from nncift_core.scores.normalise import over_rows

End = Literal["easy", "hard"]
Sampling = Literal["cut", "softmax", "linear"]

# Draws of one seed for different ends must not be the same numbers.
_TIES, _SCORE, _RANDOM, _STRATIFIED = 1, 2, 3, 4


@dataclass(frozen=True, eq=False)
class Kept:
    """index: kept rows, ascending; floored: how many of them are there only because of the floor."""

    index: Int64
    floored: int

    def __len__(self) -> int:
        return len(self.index)


def keep_by_score(
    difficulty: Float64,
    labels: Int64,
    *,
    pruned: float,
    end: End,
    sampling: Sampling,
    floor: int,
    eps: float,
    seed: int,
) -> Kept:
    """Prune the share `pruned` of the rows from the easy or the hard end of difficulty [N], labels [N].

    "cut": the rows at that end go; ties are broken at random. The others draw rows to keep one after another
    without replacement, each time in proportion to the weights of those left. With v the difficulty, turned
    round where the hard end is pruned: "softmax" has weights exp(z), z the z-scores of v over all rows;
    "linear" maps v linearly to [eps, 1]. Rows that do not differ have equal weights. With the same seed a
    larger share keeps a subset, floors apart. Raises ValueError for difficulties that are not finite or of
    another shape than labels, eps outside (0, 1), and unknown names; UserError where no row would be left.
    """
    if difficulty.shape != labels.shape or not np.isfinite(difficulty).all():
        raise ValueError(f"no finite difficulty {difficulty.shape} for each of labels {labels.shape}")
    if end not in ("easy", "hard"):
        raise ValueError(f"no end {end!r}")
    wanted = difficulty.astype(np.float64) if end == "easy" else -difficulty.astype(np.float64)
    if sampling == "cut":
        order = np.lexsort((_generator(seed, _TIES).random(len(labels)), -wanted))
    else:
        order = np.argsort(-_keys(_log_weights(wanted, sampling, eps), seed), kind="stable")
    return _first(order, labels, _size(len(labels), pruned), floor)


def keep_random(labels: Int64, *, pruned: float, floor: int, seed: int) -> Kept:
    """Prune the share `pruned` of rows with labels [N], all equally likely. Raises UserError where no row
    would be left."""
    order = _generator(seed, _RANDOM).permutation(len(labels))
    return _first(order, labels, _size(len(labels), pruned), floor)


def keep_stratified(labels: Int64, *, pruned: float, floor: int, seed: int) -> Kept:
    """Prune the same share of every class of labels [N], at random within it.

    Class k of n_k rows keeps n_k * size / n, rounded so that they add up to `size`: the largest remainders
    are rounded up, ties at random. Classes below the floor are raised to it, and the others share what is
    left in the same way. Raises UserError where no row would be left.
    """
    rng = _generator(seed, _STRATIFIED)
    order = rng.permutation(len(labels))
    classes, sizes = np.unique(labels, return_counts=True)
    lottery = rng.random(len(classes))
    size = _size(len(labels), pruned)
    plain = _quotas(sizes, size, lottery)
    quotas = _floored_quotas(sizes, size, np.minimum(sizes, floor), lottery)
    kept = [order[labels[order] == k][:quota] for k, quota in zip(classes, quotas, strict=True)]
    return Kept(np.sort(np.concatenate(kept)), int(np.maximum(quotas - plain, 0).sum()))


def _log_weights(wanted: Float64, sampling: str, eps: float) -> Float64:
    """ln of the weights [N] with which rows are drawn, up to a constant."""
    if sampling == "softmax":
        return over_rows(wanted)
    if sampling != "linear":
        raise ValueError(f"no sampling {sampling!r}")
    if not 0 < eps < 1:
        raise ValueError(f"eps is {eps}, not between 0 and 1")
    low, high = wanted.min(), wanted.max()
    if low == high:
        return np.zeros(len(wanted))
    weights: Float64 = np.log(eps + (1 - eps) * ((wanted - low) / (high - low)))
    return weights


def _keys(log_weights: Float64, seed: int) -> Float64:
    """Keys [N] whose k largest are k rows drawn without replacement, in the order of the draws.

    ln w + Gumbel noise: -ln of an exponential race with rates w, so that the first k to arrive are exactly
    k draws, each in proportion to the weights left (Efraimidis and Spirakis 2006; Kool et al.,
    arXiv 1903.06059).
    """
    return log_weights + _generator(seed, _SCORE).gumbel(size=len(log_weights))


def _first(order: Int64, labels: Int64, size: int, floor: int) -> Kept:
    """The first `size` rows of `order` [N], after the first min(floor, class size) rows of every class."""
    must = order[_place_in_class(labels[order]) < floor]
    others = order[_place_in_class(labels[order]) >= floor]
    index = np.concatenate([must, others[: max(0, size - len(must))]])
    floored = len(np.setdiff1d(index, order[:size], assume_unique=True))
    return Kept(np.sort(index), floored)


def _place_in_class(labels: Int64) -> Int64:
    """For each of labels [N], how many rows before it have the same one."""
    by_class = np.argsort(labels, kind="stable")
    _, starts, sizes = np.unique(labels[by_class], return_index=True, return_counts=True)
    out = np.empty(len(labels), np.int64)
    out[by_class] = np.arange(len(labels)) - np.repeat(starts, sizes)
    return out


def _quotas(sizes: Int64, size: int, lottery: Float64) -> Int64:
    """`size` split over classes in proportion to sizes [K] by largest remainder; lottery [K] breaks ties."""
    total = int(sizes.sum())
    if not total:
        return np.zeros_like(sizes)
    quotas, remainders = sizes * size // total, sizes * size % total
    up = np.lexsort((lottery, -remainders))[: size - int(quotas.sum())]
    quotas[up] += 1
    return quotas


def _floored_quotas(sizes: Int64, size: int, floors: Int64, lottery: Float64) -> Int64:
    """`_quotas`, none below floors [K]: as many as the floors together where those exceed `size`."""
    held = np.zeros(len(sizes), bool)
    while True:
        quotas = floors.copy()
        left = max(0, size - int(floors[held].sum()))
        quotas[~held] = _quotas(sizes[~held], left, lottery[~held])
        below = ~held & (quotas < floors)
        if not below.any():
            return quotas
        held |= below


def _size(n: int, pruned: float) -> int:
    if not 0 <= pruned < 1:
        raise ValueError(f"a share of {pruned} cannot be pruned")
    size = n - round(pruned * n)
    if size < 1:
        raise UserError(
            f"dropping {pruned:g} of {n} rows leaves none",
            field="study.prune",
            mend="Prune less, or give more rows.",
        )
    return size


def _generator(seed: int, purpose: int) -> np.random.Generator:
    return np.random.default_rng([seed, purpose])
