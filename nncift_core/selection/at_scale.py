"""Facility location for pools whose kernel may not fit into memory: one call, several ways, one objective.

| mode | what is computed | where it serves |
| --- | --- | --- |
| exact | lazy greedy's own picks; the kernel in memory where it fits, else by blocks of rows | to some 30,000 x 30,000 |
| sparse | lazy greedy on each item's nearest candidates (`neighbours.py`); one pass over all pairs | large pools, budgets above represented / neighbours |
| stochastic | the best of a random sample at each step; ln(1 / epsilon) passes | large pools, any budget |
| partitioned | greedy in random parts, then over the union of their picks; some two passes | few clusters for the picks of a part |

Whatever the mode, `gains` and `objective` are of the whole kernel, all represented items: the picks of
an approximation are replayed on it.
"""  # noqa: E501

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from nncift_core.hashing import hash_rank
from nncift_core.selection.approximate import (
    Picks,
    exact_greedy,
    partitioned_greedy,
    replay,
    stochastic_greedy,
)
from nncift_core.selection.kernels import DenseRows, SimilarityRows
from nncift_core.selection.lazy_greedy import run_lazy_greedy
from nncift_core.selection.neighbours import nearest
from nncift_core.selection.problem import Objective, Problem, as_problem, as_rows
from nncift_core.selection.result import Int64, Mode, Selection


@dataclass(frozen=True)
class ScaleOptions:
    """How `facility_location_at_scale` works.

    memory: bytes for similarity held at one time, on top of the embeddings.
    sparse: neighbours: candidates kept per item; uncovered: what an item counts that has none of them in
        the subset, "least" (the smallest similarity kept for it) or "zero".
    stochastic: epsilon, between 0 and 1.
    partitioned: parts: their number, None: as many as make one part's rows fit into a third of `memory`;
        surplus: each part picks surplus * budget / parts, at least 100.
    seed: of the draws. gap_sample: candidates, and items, of the subsample on which the gap to exact
    greedy is measured, 0 for none.
    """

    memory: int = 3 << 30
    neighbours: int = 64
    uncovered: Literal["least", "zero"] = "least"
    epsilon: float = 0.05
    parts: int | None = None
    surplus: float = 4.0
    seed: int = 0
    gap_sample: int = 4000

    def __post_init__(self) -> None:
        wrong = {
            "memory": (self.memory >= 1 << 20, "at least 1 MiB (1048576)"),
            "neighbours": (self.neighbours >= 1, "at least 1"),
            "uncovered": (self.uncovered in ("least", "zero"), "least or zero"),
            "epsilon": (0 < self.epsilon < 1, "between 0 and 1, both excluded"),
            "parts": (self.parts is None or self.parts >= 1, "at least 1, or None"),
            "surplus": (1 <= self.surplus < math.inf, "a finite number >= 1"),
            "gap_sample": (self.gap_sample >= 0, "at least 0"),
        }
        for name, (right, mend) in wrong.items():
            if not right:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be {mend}")


def facility_location_at_scale(
    similarity: SimilarityRows | npt.ArrayLike,
    budget: int,
    *,
    objective: Objective = "fl",
    mode: Literal["auto"] | Mode = "auto",
    eta: float | None = None,
    existing: SimilarityRows | npt.ArrayLike | None = None,
    nu: float | None = None,
    floor: float = 0.0,
    device: str | None = None,
    options: ScaleOptions | None = None,
) -> Selection:
    """Greedy maximum of a facility location objective, exactly or approximately; `Selection.mode` says which.

    similarity: `EmbeddingRows`, `TileRows` or another `SimilarityRows` [candidate, represented], or an
    array [represented, candidate] as `facility_location` takes it.
    objective: "fl" sum_i max(max_{a in A} s(i, a), floor); "flmi" sum_j max(max_{a in A} s(a, j), floor) +
    eta * sum_{a in A} max_j s(a, j), eta = 1 unless given; "flcg" sum_i max(max_{a in A} s(i, a) -
    nu * max_{p in P} s(i, p), 0), nu = 1 unless given, with existing: `SimilarityRows` [existing,
    represented] or an array [represented, existing].
    floor: 0 is plain facility location for values >= 0, and what submodlib computes for others.
    mode: see the table above. "auto": exact where the kernel fits into `options.memory`; else sparse where
    budget * neighbours covers the items twice over; else stochastic.
    device: such as "cuda": exact greedy with the similarity there. Equal input, seed and memory give
    equal picks. Raises ValueError, with the mend, for what does not fit together.
    """
    options = options or ScaleOptions()
    rows: SimilarityRows = as_rows(similarity)
    problem = as_problem(rows, budget, objective, eta, existing, nu, floor, options.memory)
    chosen = _choose_mode(mode, problem, device, options)
    if device is not None:
        # torch takes seconds to load, which reading a config or a help text should not cost.
        from nncift_core.selection.device import run_device_greedy

        picks = run_device_greedy(rows, problem.cover, problem.modular, problem.budget, device)
        return _selection(problem, picks, chosen)
    picks = _RUN[chosen](problem, options)
    if chosen == "exact":
        return _selection(problem, picks, chosen)
    gains = replay(rows, picks[0], problem.cover, problem.modular, options.memory // 4)
    selection = _selection(problem, (picks[0], gains, picks[2]), chosen)
    return replace(selection, gap=_gap(problem, chosen, options))


def _choose_mode(
    mode: Literal["auto"] | Mode, problem: Problem, device: str | None, options: ScaleOptions
) -> Mode:
    """`mode`, or what "auto" stands for here; ValueError where the mode cannot serve."""
    candidates, represented = problem.rows.shape
    if device is not None:
        if mode not in ("auto", "exact"):
            raise ValueError(f"device computes exact greedy, not mode {mode!r}: leave out one of the two")
        return "exact"
    above_zero = options.uncovered == "least" or float(problem.cover.min()) >= 0
    sparse_serves = above_zero and options.neighbours <= candidates
    if mode == "auto":
        if 4 * candidates * represented <= options.memory:
            return "exact"
        covered = problem.budget * options.neighbours >= 2 * represented
        lists = 24 * represented * options.neighbours <= options.memory
        return "sparse" if sparse_serves and covered and lists else "stochastic"
    if mode not in get_args(Mode):
        raise ValueError(f"mode is {mode!r}, but must be auto, {', '.join(get_args(Mode))}")
    if mode == "sparse" and options.neighbours > candidates:
        raise ValueError(
            f"neighbours is {options.neighbours}, but there are {candidates} candidates: lower it, "
            "or take mode 'exact'"
        )
    if mode == "sparse" and not above_zero:
        raise ValueError(
            "uncovered 'zero' needs a floor and an existing cover that are not negative: take uncovered "
            "'least', or shift the similarity to values >= 0 (shifted-cosine, shift_to_non_negative)"
        )
    if mode == "partitioned" and (options.parts or 1) > candidates:
        raise ValueError(
            f"parts is {options.parts}, but must lie in 1..{candidates} (the number of candidates)"
        )
    return mode


def _exact(problem: Problem, options: ScaleOptions) -> Picks:
    if isinstance(problem.rows, DenseRows):
        # The array is there already, in its own type: no float32 copy of it.
        matrix = np.ascontiguousarray(problem.rows.matrix.T)
        cover = problem.cover.astype(matrix.dtype)
        return run_lazy_greedy(matrix, cover, problem.modular, problem.budget, signed=False)
    return exact_greedy(problem.rows, problem.cover, problem.modular, problem.budget, options.memory)


def _sparse(problem: Problem, options: ScaleOptions) -> Picks:
    block = min(options.memory // 4, 1 << 28)
    kernel = nearest(problem.rows, options.neighbours, problem.cover, block)
    cover = kernel.least if options.uncovered == "least" else problem.cover
    return run_lazy_greedy(kernel.csr, cover, problem.modular, problem.budget, signed=False)


def _stochastic(problem: Problem, options: ScaleOptions) -> Picks:
    return stochastic_greedy(
        problem.rows,
        problem.cover,
        problem.modular,
        problem.budget,
        epsilon=options.epsilon,
        seed=options.seed,
        memory=min(options.memory, 1 << 29),
    )


def _partitioned(problem: Problem, options: ScaleOptions) -> Picks:
    candidates, represented = problem.rows.shape
    needed = math.ceil(4 * candidates * represented / (options.memory // 3))
    parts = options.parts or max(1, min(candidates, needed))
    return partitioned_greedy(
        problem.rows,
        problem.cover,
        problem.modular,
        problem.budget,
        parts=parts,
        per_part=max(math.ceil(options.surplus * problem.budget / parts), 100),
        seed=options.seed,
        memory=options.memory,
    )


_RUN = {"exact": _exact, "sparse": _sparse, "stochastic": _stochastic, "partitioned": _partitioned}


def _selection(problem: Problem, picks: Picks, mode: Mode) -> Selection:
    order, gains, ties = picks
    objective = problem.empty + float(gains.sum())
    return Selection(order, gains, ties, int(np.count_nonzero(gains > 0)), objective, mode)


def _gap(problem: Problem, mode: Mode, options: ScaleOptions) -> float | None:
    """1 - f(mode's picks) / f(exact greedy's picks) on a subsample, at the same share of picks.

    The same settings at the same share of picks meet the same number of picks among an item's
    neighbours, in a sample and in a part, so the subsample speaks of the whole.
    """
    if options.gap_sample == 0:
        return None
    candidates, represented = problem.rows.shape
    some = _sampled(candidates, max(options.gap_sample, options.neighbours), options.seed)
    items = _sampled(represented, options.gap_sample, options.seed)
    budget = max(1, round(problem.budget * len(some) / candidates))
    small = problem.part(some, items, budget)
    if mode == "partitioned" and options.parts is None:
        needed = math.ceil(4 * candidates * represented / (options.memory // 3))
        options = replace(options, parts=max(1, min(len(some), candidates, needed)))
    picks = _RUN[mode](small, options)[0]
    best = _exact(small, options)[1].sum() + small.empty
    reached = replay(small.rows, picks, small.cover, small.modular, options.memory // 4).sum() + small.empty
    return float(1 - reached / best) if best else 0.0


def _sampled(count: int, size: int, seed: int) -> Int64:
    """At most `size` of 0..count-1, ascending; the same ones of any two sides of equal length."""
    everyone = np.arange(count)
    return np.sort(np.argsort(hash_rank(everyone, seed, "gap"))[:size])
