"""TracIn self-influence: what a row's own steps do to its own loss (Pruthi et al. 2020, arXiv 2002.08484).

    TracIn(z, z) = sum over checkpoints c of eta_c ||g_c(z)||^2

g_c is the gradient of the row's loss at checkpoint c with respect to the weights looked at, eta_c the
learning rate there.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nncift_core.classification.contract import Float64


def tracin(squared_norms: npt.NDArray[np.floating], rates: npt.NDArray[np.floating]) -> Float64:
    """Self-influence [N] of squared gradient norms [C, N] under learning rates [C].

    Raises ValueError where their numbers of checkpoints differ.
    """
    if squared_norms.ndim != 2 or rates.shape != squared_norms.shape[:1]:
        raise ValueError(f"rates {rates.shape} do not fit squared norms {squared_norms.shape}")
    total: Float64 = rates.astype(np.float64) @ squared_norms.astype(np.float64)
    return total
