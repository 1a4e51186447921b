"""Slopes of the pair features by what the Gaussian process leaves over where it has seen no label.

Generalised least squares lets the kernels explain what a pair feature would say as well, as far as labels of
the same rows and columns reach; for rows and columns without a label the feature is then given too little.
Here blocks of rows x columns are held out: with A the prediction of the process alone, of labels and of pair
features alike, `y - A(y) ~ (F - A(F)) beta` by least squares over all held-out blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np
import numpy.typing as npt

from nncift_core.estimator.contract import Float64
from nncift_core.estimator.kernel_block import Rotated
from nncift_core.estimator.kernel_search import Hyper

FOLDS = 4
# Labels at which a slope keeps about half of its least-squares value.
PENALTY = 5.0

Bool = npt.NDArray[np.bool_]


def held_out_slopes(
    labels: Float64, row_distances: Float64, column_distances: Float64, hyper: Hyper
) -> Float64 | None:
    """beta [p] of standardised pair features, over 4 x 4 held-out blocks; None with fewer than 4 rows.

    labels [1 + p, R, C]: standardised labels, then pair features; row_distances [groups, R, R],
    column_distances [groups, C, C]. Fewer than 4 columns are not held out, only rows are.
    """
    _, R, C = labels.shape
    if R < FOLDS:
        return None
    K_r, E_r = hyper.rows.kernel(row_distances, np.eye(R))
    K_c, E_c = hyper.columns.kernel(column_distances, np.eye(C))
    # What is held out is another item: it shares no own effect with those of the fit.
    cross_r, cross_c = E_r + hyper.rows.a, (E_c + hyper.columns.a) if C >= FOLDS else K_c
    p = len(labels) - 1
    gram: Float64 = np.zeros((p + 1, p + 1))
    moment: Float64 = np.zeros(p + 1)
    for (r, s), (c, d) in product(_folds(R), _folds(C)):
        block = np.ascontiguousarray(labels[:, r][:, :, c])
        at = Rotated.of(K_r[np.ix_(r, r)], K_c[np.ix_(c, c)], block, hyper.noise, hyper.widths)
        alpha = (at.Qr.T @ block @ at.Qc) / at.L
        known = cross_r[np.ix_(s, r)] @ at.Qr @ alpha @ at.Qc.T @ cross_c[np.ix_(c, d)]
        left = (labels[:, s][:, :, d] - known).reshape(p + 1, -1)
        # A level that is wrong all over a block is no feature's business.
        X = np.concatenate([np.ones((1, left.shape[1])), left[1:]])
        gram = gram + X @ X.T
        moment = moment + X @ left[0]
    penalty = np.diag(np.r_[1e-9, np.full(p, PENALTY)])
    out: Float64 = np.linalg.solve(gram + penalty, moment)[1:]
    return out


def _folds(n: int) -> Iterator[tuple[Bool, Bool]]:
    """(fit, held out) masks [n]; items come in order of hashes, so every fourth one is a random draw."""
    if n < FOLDS:
        everyone = np.ones(n, bool)
        yield everyone, everyone
        return
    fold = np.arange(n) % FOLDS
    for k in range(FOLDS):
        yield fold != k, fold == k
