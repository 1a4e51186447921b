"""EL2N: how far the predicted probabilities are from the label (Paul et al. 2021, arXiv 2107.07075).

    EL2N(x, y) = || softmax(f(x)) - onehot(y) ||_2

It tells rows apart early in training, before the model has learned them all ("Influence Scores at Scale",
arXiv 2311.16298, reads it after 2 epochs and averages 10 runs); its value at the end is kept beside it.
"""

from __future__ import annotations

import numpy as np

from nncift_core.classification.contract import Dynamics, Float64
from nncift_core.scores.points import at_epoch, epoch_ends


def el2n(run: Dynamics, epoch: int | None) -> Float64:
    """EL2N [N] at the end of epoch `epoch`, or of the last one (None); 0 (easy) to sqrt(2) (hard).

    Raises ValueError where that point was not logged.
    """
    at = epoch_ends(run) if epoch is None else at_epoch(run, epoch)
    distance: Float64 = at.el2n[-1].astype(np.float64)
    return distance
