"""Greedy that does not look at every candidate at every step: stochastic and partitioned.

Both draw by hashes of (seed, step or candidate), so equal input and seed give equal picks, whatever the
memory. The objective is the whole one, over all represented items.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from nncift_core.compiled import compiled
from nncift_core.hashing import hash_rank
from nncift_core.selection.block_greedy import block_rows, first_gains, run_block_greedy

# Compiled with the loops of gains.py 7cc42c8328af: tests/selection/test_compiled.py asks.
from nncift_core.selection.gains import row_gain
from nncift_core.selection.kernels import Float32, SimilarityRows, materialise
from nncift_core.selection.lazy_greedy import run_lazy_greedy
from nncift_core.selection.result import Float64, Int64

Bools = npt.NDArray[np.bool_]
Picks = tuple[Int64, Float64, int]
# Drawn beyond the sample, because a row drawn for a later step may be picked before it.
_SPARE = 4


def exact_greedy(rows: SimilarityRows, cover: Float32, modular: Float64, budget: int, memory: int) -> Picks:
    """Lazy greedy on the whole kernel: in memory where it fits into `memory` bytes, else by blocks."""
    candidates, represented = rows.shape
    if 4 * candidates * represented <= memory:
        return run_lazy_greedy(materialise(rows), cover, modular, budget, signed=False)
    return run_block_greedy(rows, cover, modular, budget, memory)


def stochastic_greedy(
    rows: SimilarityRows,
    cover: Float32,
    modular: Float64,
    budget: int,
    *,
    epsilon: float,
    seed: int,
    memory: int,
) -> Picks:
    """Stochastic greedy (Mirzasoleiman et al. 2015, "Lazier than lazy greedy"): at each step the best of
    s = ceil((n / k) ln(1 / epsilon)) candidates drawn from those not yet picked.

    For monotone submodular f the expected value is at least (1 - 1/e - epsilon) of the optimum, with
    n ln(1 / epsilon) gains in all, whatever the budget k. Rows of several steps are computed together, as
    many as fit into `memory` bytes.
    """
    candidates, represented = rows.shape
    sample = min(candidates, math.ceil(candidates / budget * math.log(1 / epsilon)))
    limit = block_rows(candidates, represented, memory)
    order, gains = np.empty(budget, np.int64), np.empty(budget, np.float64)
    picked = np.zeros(candidates, bool)
    cover = cover.copy()
    step, ties = 0, 0
    while step < budget and sample + _SPARE > limit:
        ids = np.sort(_draw(picked, sample, step, seed)[:sample])
        found = modular[ids] + first_gains(rows.part(ids), cover, memory)
        best = int(np.argmax(found))
        order[step], gains[step], picked[ids[best]] = ids[best], found[best], True
        ties += int(np.count_nonzero(found == found[best]) > 1)
        np.maximum(cover, rows.take(ids[best : best + 1])[0], out=cover)
        step += 1
    while step < budget:
        drawn: list[Int64] = []
        while step + len(drawn) < budget and (len(drawn) + 1) * (sample + _SPARE) <= limit:
            drawn.append(_draw(picked, sample, step + len(drawn), seed))
        ids, where = np.unique(np.concatenate(drawn), return_inverse=True)
        starts = np.concatenate([[0], np.cumsum([len(d) for d in drawn])]).astype(np.int64)
        step, tied = _best_of_samples(
            rows.take(ids), ids, where, starts, sample, picked, cover, modular, order, gains, step
        )
        ties += tied
    return order, gains, ties


def _draw(picked: Bools, sample: int, step: int, seed: int) -> Int64:
    """Distinct candidates not yet picked, in the order drawn: at most sample + _SPARE.

    Which come first depends on the seed and the step only; those picked meanwhile are left out.
    """
    count = 2 * (sample + _SPARE)
    if count < len(picked):
        numbers = hash_rank(np.full(count, step, np.int64), seed, "stochastic", np.arange(count))
        drawn = (numbers % np.uint64(len(picked))).astype(np.int64)
        _, first = np.unique(drawn, return_index=True)
        drawn = drawn[np.sort(first)]
        drawn = drawn[~picked[drawn]]
        if len(drawn) >= sample:
            return drawn[: sample + _SPARE]
    # Nearly all are wanted, or nearly all are picked: rank every candidate instead.
    everyone = np.arange(len(picked))
    ranked = np.argsort(hash_rank(everyone, seed, "stochastic-all", np.full(len(picked), step)))
    return ranked[~picked[ranked]][: sample + _SPARE]


@compiled
def _best_of_samples(
    block: Float32,
    ids: Int64,
    where: Int64,
    starts: Int64,
    sample: int,
    picked: Bools,
    cover: Float32,
    modular: Float64,
    order: Int64,
    gains: Float64,
    step: int,
) -> tuple[int, int]:
    """One pick per sample, until one has too few left; the next step, and tied steps.

    The sample of the j-th step: the first `sample` of where[starts[j] : starts[j + 1]] (places in `ids`,
    whose rows are `block`) that are not picked.
    """
    ties = 0
    open_ = len(picked) - picked.sum()
    for j in range(len(starts) - 1):
        used, best, best_gain, best_at, tied = 0, len(picked), -np.inf, 0, False
        for at in where[starts[j] : starts[j + 1]]:
            a = ids[at]
            if picked[a] or used == sample:
                continue
            used += 1
            gain = modular[a] + row_gain(block[at], cover)
            tied = gain == best_gain or (tied and gain < best_gain)
            if gain > best_gain or (gain == best_gain and a < best):
                best, best_gain, best_at = a, gain, at
        if used < min(sample, open_):
            break
        order[step], gains[step], picked[best] = best, best_gain, True
        for i in range(len(cover)):
            cover[i] = max(cover[i], block[best_at, i])
        ties += tied
        open_ -= 1
        step += 1
    return step, ties


def partitioned_greedy(
    rows: SimilarityRows,
    cover: Float32,
    modular: Float64,
    budget: int,
    *,
    parts: int,
    per_part: int,
    seed: int,
    memory: int,
) -> Picks:
    """Two-stage greedy (GreeDi, Mirzasoleiman et al. 2013): greedy in each of `parts` random parts of the
    candidates, `per_part` picks each, then greedy over the union of these picks.

    Every stage evaluates f over all represented items. For monotone submodular f, m parts, k picks and
    kappa = per_part, f(A) >= (1 - e^(-kappa/k)) (1 - 1/e) / min(m, k) of the optimum; kappa = k gives the
    published (1 - 1/e)^2 / min(m, k), and then, parts being random, (1 - 1/e) / 2 in expectation
    (Barbosa et al. 2015). In practice it comes within a fraction of a percent of greedy, unless per_part
    is smaller than the number of clusters: then every part may pass over the same small ones.
    """
    shuffled = np.argsort(hash_rank(np.arange(rows.shape[0]), seed, "partition"))
    found: list[Int64] = []
    best: tuple[Int64, Float64, int] | None = None
    for part in np.array_split(shuffled, parts):
        members = np.sort(part)
        k = min(per_part, budget, len(members))
        local = rows.part(members)
        order, gains, ties = exact_greedy(local, cover, modular[members], k, memory)
        found.append(members[order])
        if k == budget and (best is None or gains.sum() > best[1].sum()):
            best = members[order], gains, ties
    union = np.sort(np.concatenate(found))
    order, gains, ties = exact_greedy(rows.part(union), cover, modular[union], budget, memory)
    if best is not None and best[1].sum() > gains.sum():
        return best
    return union[order], gains, ties


def replay(rows: SimilarityRows, order: Int64, cover: Float32, modular: Float64, memory: int) -> Float64:
    """What each pick of `order` adds to the whole objective, given those before it, float64 [len(order)]."""
    cover = cover.copy()
    gains = np.empty(len(order), np.float64)
    size = block_rows(len(order), rows.shape[1], memory)
    buffer = np.empty((size, rows.shape[1]), np.float32)
    for a in range(0, len(order), size):
        some = order[a : a + size]
        _replay(rows.take(some, buffer[: len(some)]), cover, gains[a : a + size])
    return gains + modular[order]


@compiled
def _replay(block: Float32, cover: Float32, gains: Float64) -> None:
    for k in range(len(block)):
        gains[k] = row_gain(block[k], cover)
        for i in range(len(cover)):
            cover[i] = max(cover[i], block[k, i])
