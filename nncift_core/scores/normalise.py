"""z-scores of a score: over the whole data set, or inside each class (arXiv 2008.11600, 2311.16298).

    z = (v - mean) / standard deviation,   population standard deviation

Inside classes, roughly the same share of every class is hard; over the data set, hard classes have more.
"""

from __future__ import annotations

import numpy as np

from nncift_core.classification.contract import Float64, Int64


def over_rows(values: Float64) -> Float64:
    """z-scores of values [N] over all rows; all 0 where they do not vary."""
    if not len(values) or values.min() == values.max():
        return np.zeros(len(values))
    apart = values - values.mean()
    # Squares of tiny gradients would underflow.
    apart = apart / np.abs(apart).max()
    z: Float64 = apart / np.sqrt((apart**2).mean())
    return z


def within_classes(values: Float64, labels: Int64) -> Float64:
    """z-scores of values [N] inside each class of labels [N]; 0 in classes of one row or without spread."""
    out = np.zeros(len(values))
    order = np.argsort(labels, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(labels[order])) + 1):
        out[rows] = over_rows(values[rows])
    return out
