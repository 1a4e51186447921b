"""AUM: the area under the margin over training (Pleiss et al. 2020, arXiv 2001.10528).

    AUM(x, y) = mean over epochs of (f_y(x) - max over k != y of f_k(x)),   f the logits

Low, and below 0, where other rows pull the row away from its label.
"""

from __future__ import annotations

import numpy as np

from nncift_core.classification.contract import Dynamics, Float64
from nncift_core.scores.points import epoch_ends


def aum(run: Dynamics) -> Float64:
    """AUM [N] over the epoch ends of `run`. Raises ValueError where it has none."""
    mean: Float64 = epoch_ends(run).margin.astype(np.float64).mean(axis=0)
    return mean
