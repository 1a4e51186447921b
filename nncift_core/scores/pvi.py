"""PVI: bits that a text adds to what is known of its label (Ethayarajh et al. 2022, arXiv 2110.08420).

    PVI(x -> y) = -log2 g[empty](y) + log2 f[x](y)

f is the model, g one that was trained on empty texts with the same labels. Low, and below 0, where the text
points away from its label.
"""

from __future__ import annotations

import math

import numpy as np

from nncift_core.classification.contract import Dynamics, Float64, Int64
from nncift_core.scores.points import at_epoch


def pvi(run: Dynamics, null: Float64, labels: Int64, epoch: int) -> Float64:
    """PVI [N] in bits at the end of epoch `epoch`, under null [K] = ln g[empty] of the classes, labels [N].

    From logarithms throughout, so that no probability underflows. Raises ValueError where that point was not
    logged.
    """
    log_probability = at_epoch(run, epoch).log_probability[-1].astype(np.float64)
    bits: Float64 = (log_probability - null.astype(np.float64)[labels]) / math.log(2)
    return bits
