"""Hyperparameters of the kernel estimator and the search for them by penalised marginal likelihood.

All are positive and searched as logarithms. Weak normal priors on the logarithms keep the search sane where
labels say nothing (four rows, three columns): a group without evidence keeps a middling weight.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np

from nncift_core.estimator.contract import Float64
from nncift_core.estimator.kernel_sides import SideWeights

# Means of the priors; the sum of the weights of the groups of a side starts at 1. A factor of two either way
# is ordinary; the width of a slope may be nothing, so that a useless pair feature does no harm.
BIAS, OWN, NOISE, WIDTH = 0.3, 0.1, 0.5, 0.01
PRIOR_SD = 0.7
WIDTH_SD = 2.0
# Logarithms stay this near to their prior means: steps of the search beyond would leave float64.
REACH = 8.0
# Biases beyond 44 tell nothing more: a mean that large is the labels' shift.
BIAS_REACH = 5.0
MAX_EVALUATIONS = 60
# The search ends when a step gains less than this share of the objective.
LEAST_GAIN = 1e-5
FLOOR = 1e-5
# Strength, in labels, of the prior belief that standardised labels have a scale of one.
SCALE_LABELS = 2.0

Objective = Callable[["Hyper"], tuple[float, Float64]]


@dataclass(frozen=True, eq=False)
class Hyper:
    """Values of the hyperparameters: rows, columns: weights of the sides; noise: s^2; widths [p]: prior
    variance of each standardised pair feature's slope. All relative to one common scale of the labels."""

    rows: SideWeights
    columns: SideWeights
    noise: float
    widths: Float64

    @classmethod
    def of(cls, theta: Float64, row_groups: int, column_groups: int) -> Self:
        """From (log w, log a, log d) of rows, of columns, log s^2, log widths."""
        x = np.exp(theta)
        r, c = row_groups, column_groups
        return cls(
            SideWeights(x[:r], float(x[r]), float(x[r + 1])),
            SideWeights(x[r + 2 : r + 2 + c], float(x[r + 2 + c]), float(x[r + 3 + c])),
            float(x[r + c + 4]) + FLOOR,
            x[r + c + 5 :],
        )


def scale_of(quadratic: float, n: int) -> float:
    """sigma^2 from y^T Sigma^-1 y of n labels: their common scale, shrunk towards one."""
    return (quadratic + SCALE_LABELS) / (n + SCALE_LABELS)


def search(
    objective: Objective,
    groups: tuple[int, int],
    pair_features: int,
    own: tuple[bool, bool],
    start: Hyper | None = None,
) -> Hyper:
    """The hyperparameters of least `objective` + penalty, by L-BFGS from the prior means or from `start`.

    objective: (negative log marginal likelihood, its slopes by the logarithms, in the order of `Hyper.of`);
    groups: how many of rows and columns; own: whether rows, columns can have an own effect.
    """
    from scipy.optimize import minimize

    sides: list[float] = []
    for n, has in zip(groups, own, strict=True):
        sides += [1 / max(n, 1)] * n + [BIAS, OWN if has else 0.0]
    with np.errstate(divide="ignore"):
        prior = np.log(np.array([*sides, NOISE, *[WIDTH] * pair_features]))
    sd = np.array([PRIOR_SD] * (len(sides) + 1) + [WIDTH_SD] * pair_features)
    reach = np.full(len(prior), REACH)
    reach[[groups[0], sum(groups) + 2]] = BIAS_REACH
    free = np.isfinite(prior)

    def theta(x: Float64) -> Float64:
        out: Float64 = prior.copy()
        out[free] = x
        return out

    def value(x: Float64) -> tuple[float, Float64]:
        loss, slopes = objective(Hyper.of(theta(x), *groups))
        away = (x - prior[free]) / sd[free]
        return loss + 0.5 * float(away @ away), slopes[free] + away / sd[free]

    low, high = prior[free] - reach[free], prior[free] + reach[free]
    found = minimize(
        value,
        prior[free] if start is None else np.clip(_theta(start, prior)[free], low, high),
        jac=True,
        method="L-BFGS-B",
        bounds=list(zip(low, high, strict=True)),
        options={"maxfun": MAX_EVALUATIONS, "ftol": LEAST_GAIN, "gtol": 1e-2},
    )
    return Hyper.of(theta(found.x), *groups)


def _theta(hyper: Hyper, otherwise: Float64) -> Float64:
    """The logarithms that `Hyper.of` reads; `otherwise` where a value is 0."""
    sides = [np.r_[side.w, side.a, side.d] for side in (hyper.rows, hyper.columns)]
    x = np.concatenate([*sides, [max(hyper.noise - FLOOR, 0.0)], hyper.widths])
    out: Float64 = otherwise.copy()
    out[x > 0] = np.log(x[x > 0])
    return out
