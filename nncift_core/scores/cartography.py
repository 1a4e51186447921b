"""Data maps: a row's place by the probability p_e of its label after each epoch e = 1..E.

    confidence  = mean_e p_e
    variability = sqrt(mean_e (p_e - confidence)^2)
    correctness = share of epochs after which the row is predicted right

Swayamdipta et al. 2020 (arXiv 2009.10795): rows of low confidence are hard to learn, and often mislabelled;
rows of high variability are ambiguous.
"""

from __future__ import annotations

import numpy as np

from nncift_core.classification.contract import Dynamics, Float64, Int64
from nncift_core.scores.points import epoch_ends


def confidence(run: Dynamics) -> Float64:
    """Mean probability of the given label over epoch ends, [N] in 0..1. Raises ValueError where none is."""
    mean: Float64 = _probability(run).mean(axis=0)
    return mean


def variability(run: Dynamics) -> Float64:
    """Population standard deviation of that probability, [N] in 0..0.5. Raises ValueError as `confidence`."""
    spread: Float64 = _probability(run).std(axis=0)
    return spread


def correctness(run: Dynamics, labels: Int64) -> Float64:
    """Share of epoch ends at which the row is predicted as labels [N] say, [N] in 0..1. Raises ValueError as
    `confidence`."""
    share: Float64 = epoch_ends(run).correct(labels).mean(axis=0)
    return share


def _probability(run: Dynamics) -> Float64:
    """Of the given label at epoch ends, [E, N]."""
    probability: Float64 = np.exp(epoch_ends(run).log_probability.astype(np.float64))
    return probability
