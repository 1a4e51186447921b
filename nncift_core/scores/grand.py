"""GraNd: the expected norm of a row's gradient (Paul et al. 2021, arXiv 2107.07075).

    GraNd(x, y) = E ||g(x, y)||_2

g is the gradient of the row's loss with respect to the weights looked at; the expectation is taken over runs
and checkpoints.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nncift_core.classification.contract import Float64


def grand(squared_norms: npt.NDArray[np.floating]) -> Float64:
    """Mean gradient norm [N] of squared norms [C, N], one row per checkpoint of any run.

    Raises ValueError without a checkpoint.
    """
    if squared_norms.ndim != 2 or not len(squared_norms):
        raise ValueError(f"squared norms are checkpoints x rows, not {squared_norms.shape}")
    mean: Float64 = np.sqrt(squared_norms.astype(np.float64)).mean(axis=0)
    return mean
