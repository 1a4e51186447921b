"""VoG: how much a row's input gradient changes over training (Agarwal et al., arXiv 2008.11600).

    G_c = d f_y / d E,    VoG = mean over (token, dim) of sum_c (G_c - mean_c G_c)^2 / sqrt(C)

f_y is the logit of the given label at checkpoint c = 1..C, E the row's embeddings. This is the form that
both papers print (2311.16298 too): no root, divided by sqrt(C). For the variance divide it by sqrt(C) once
more; `vog_std` takes the root in each place. Both are compared after normalisation, see `normalise.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from nncift_core.classification.contract import Bool, Float64

Gradients = npt.NDArray[np.floating]
Mask = npt.NDArray[np.bool_] | npt.NDArray[np.integer]

_FLOATS_PER_PASS = 1 << 22


def vog(gradients: Gradients, mask: Mask | None = None) -> Float64:
    """VoG [n], raw, of gradients [C, n, dim] or [C, n, tokens, dim].

    mask [n, tokens]: only its true tokens are averaged over, whatever the others hold. Raises ValueError for
    a mask of another shape, or one that leaves a row without tokens.
    """
    return _by_blocks(gradients, mask, lambda squares: squares.sum(axis=0) / math.sqrt(len(squares)))


def vog_std(gradients: Gradients, mask: Mask | None = None) -> Float64:
    """The same with sqrt(sum_c (G_c - mean)^2 / C), the population standard deviation, in each place; [n]."""
    return _by_blocks(gradients, mask, lambda squares: np.sqrt(squares.mean(axis=0)))


def _by_blocks(gradients: Gradients, mask: Mask | None, spread: Callable[[Float64], Float64]) -> Float64:
    """Mean over the places of each row of `spread` of squared deviations [C, b, ...] -> [b, ...]; [n]."""
    if gradients.ndim < 3 or not len(gradients):
        raise ValueError(f"gradients are checkpoints x rows x dimensions, not {gradients.shape}")
    if mask is not None and (gradients.ndim != 4 or mask.shape != gradients.shape[1:3]):
        raise ValueError(f"a mask of {mask.shape} does not fit gradients of {gradients.shape}")
    rows = gradients.shape[1]
    out = np.empty(rows)
    step = max(1, _FLOATS_PER_PASS * rows // max(1, gradients.size))
    for start in range(0, rows, step):
        block = slice(start, start + step)
        g = gradients[:, block].astype(np.float64)
        places = spread((g - g.mean(axis=0)) ** 2)
        out[block] = _mean(places, None if mask is None else mask[block].astype(bool))
    return out


def _mean(places: Float64, kept: Bool | None) -> Float64:
    """Mean of places [b, ...] over all but the rows; with kept [b, tokens] over those tokens only."""
    if kept is None:
        mean: Float64 = places.mean(axis=tuple(range(1, places.ndim)))
        return mean
    tokens = kept.sum(axis=1)
    if not tokens.all():
        raise ValueError("the mask leaves a row without tokens")
    # A product with the mask would carry NaN over from where nothing is meant.
    masked: Float64 = np.where(kept, places.mean(axis=2), 0).sum(axis=1) / tokens
    return masked
