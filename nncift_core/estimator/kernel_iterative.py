"""Many scattered labels: the pair form of the kernel estimator by conjugate gradients.

Solved for the coefficients of `kernel_design`, not for the labels' weights: with labels at random places
`X^T X` is near to a multiple of the identity, so that `counts prior + s^2` is nearly the diagonal of the
system and few steps suffice, however large the prior's largest eigenvalue.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nncift_core.estimator.contract import Float32, Float64
from nncift_core.estimator.kernel_design import Design, Grid, LandmarkDesign, Mean, Parts
from nncift_core.estimator.kernel_pairs import Pairs, PairSolve
from nncift_core.estimator.kernel_sides import Side

LANDMARKS = 512
# The exact kernels are used up to this many items of a side and multiplications of a step.
EXACT_ITEMS, EXACT_WORK = 2048, 2e10
# Root mean square of what is missing at the labels, in standard deviations of the labels.
TOLERANCE = 5e-4
STEPS = 300


def exact_is_cheap(rows: int, columns: int) -> bool:
    """Whether `solve_grid` is affordable for so many labelled rows and columns."""
    return max(rows, columns) <= EXACT_ITEMS and rows * columns * (rows + columns) <= EXACT_WORK


def solve_grid(rows: Side, columns: Side, pairs: Pairs, noise: float, widths: Float64) -> PairSolve:
    """With the exact kernels; the sides' landmarks are all labelled items."""
    mean = Mean(pairs, widths)
    return _solve(Grid(rows, columns, pairs, mean), pairs, noise, mean)


def solve_landmarks(
    rows: Side, columns: Side, k_r: Float32, k_c: Float32, pairs: Pairs, noise: float, widths: Float64
) -> PairSolve:
    """With kernels through landmarks; k_r [R, m_r], k_c [C, m_c]: labelled items against landmarks."""
    mean = Mean(pairs, widths)
    design = LandmarkDesign(rows, columns, k_r, k_c, pairs, mean)
    return _solve(design, pairs, noise + rows.d * columns.d, mean)


def _solve(design: Design, pairs: Pairs, noise: float, mean: Mean) -> PairSolve:
    at = conjugate_gradients(design, pairs.y.astype(np.float32), noise)
    W, row_part, column_part = design.weights(at.g)
    return PairSolve(W, row_part, column_part, mean.slopes(at.g[-1]), at.quadratic, None, at.steps)


@dataclass(frozen=True, eq=False)
class Solution:
    """g: coefficients divided by their priors; quadratic: `y^T Sigma^-1 y`; steps taken."""

    g: Parts
    quadratic: float
    steps: int


def conjugate_gradients(design: Design, y: Float32, noise: float) -> Solution:
    """Minimum of `|y - X h|^2 / s^2 + sum h^2 / prior` over `h = prior g` (Hestenes and Stiefel 1952).

    Preconditioned by `1 / (counts prior + s^2)`, until the energy of what is missing, per label, is below
    `TOLERANCE`^2. Raises ValueError when that takes more than `STEPS` steps.
    """
    priors = design.priors
    scales = scales_of(design, noise)
    residual = design.adjoint(y)
    g = [np.zeros_like(x) for x in residual]
    better = _times(residual, scales)
    direction, square = better, _dot(residual, priors, better)
    goal = TOLERANCE**2 * len(y)
    for step in range(STEPS + 1):
        if square <= goal:
            return Solution(g, _quadratic(design, y, g, noise), step)
        h = _times(direction, priors)
        image = design.adjoint(design.forward(h))
        for x, d in zip(image, direction, strict=True):
            x += np.float32(noise) * d
        length = np.float32(square / _dot_flat(h, image))
        for x, r, d, z in zip(g, residual, direction, image, strict=True):
            x += length * d
            r -= length * z
        better = _times(residual, scales)
        before, square = square, _dot(residual, priors, better)
        ratio = np.float32(square / before)
        direction = [z + ratio * d for z, d in zip(better, direction, strict=True)]
    raise ValueError(f"conjugate gradients did not converge in {STEPS} steps on {len(y)} labels")


def scales_of(design: Design, noise: float) -> Parts:
    """The preconditioner: `1 / (counts prior + s^2)` of every part."""
    pairs = zip(design.counts, design.priors, strict=True)
    return [np.reciprocal(count * prior + np.float32(noise), dtype=np.float32) for count, prior in pairs]


def _quadratic(design: Design, y: Float32, g: Parts, noise: float) -> float:
    h = _times(g, design.priors)
    left = (y - design.forward(h)).astype(np.float64)
    return float(left @ left) / noise + _dot_flat(g, h)


def _times(x: Parts, y: Parts) -> Parts:
    return [a * b for a, b in zip(x, y, strict=True)]


def _dot(x: Parts, priors: Parts, y: Parts) -> float:
    return _dot_flat(_times(x, priors), y)


def _dot_flat(x: Parts, y: Parts) -> float:
    return sum(float(np.dot(a.ravel(), b.ravel())) for a, b in zip(x, y, strict=True))
