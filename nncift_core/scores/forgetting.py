"""Forgetting: how often a row goes from right to wrong in training (Toneva et al. 2019, arXiv 1812.05159).

    forgetting(i) = sum over consecutive logging points t of [right at t - 1 and wrong at t]

A row that was never right cannot be forgotten, though it is harder than any that can; Toneva et al. put such
rows beyond all others. All rows are looked at at the same points (every so many steps in the first epochs,
arXiv 2311.16298), not in the batch that they are in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nncift_core.classification.contract import Bool, Dynamics, Float64, Int64
from nncift_core.errors import UserError
from nncift_core.scores.points import first_epochs


@dataclass(frozen=True, eq=False)
class Forgotten:
    """Of one run, by row [N]: times forgotten, and whether the row was right at no point at all."""

    counts: Int64
    never_right: Bool


def forgotten(run: Dynamics, labels: Int64, epochs: float) -> Forgotten:
    """What `run` forgets of rows with labels [N] at its logging points of the first `epochs` epochs.

    Rows that were never right have a count of 0 and the flag. Raises UserError for fewer than two points,
    between which nothing can be forgotten.
    """
    window = first_epochs(run, epochs)
    if len(window) < 2:
        raise UserError(
            f"the first {epochs:g} epochs hold {len(window)} looks at the rows, and forgetting needs two",
            field="scores.forgetting_epochs",
            mend="Raise it, or lower training.log_every.",
        )
    right = window.correct(labels)
    never_right: Bool = ~np.any(right, axis=0)
    return Forgotten((right[:-1] & ~right[1:]).sum(axis=0), never_right)


def forgetting(runs: Sequence[Dynamics], labels: Int64, epochs: float) -> Float64:
    """The score [N] of R >= 1 runs: times forgotten, summed over the runs.

    A row that was never right in k >= 1 of the runs is put beyond every count: at the largest count of all
    rows + k, so that those that no run learned are the hardest. Rows of equal counts are ties. Raises as
    `forgotten`.
    """
    found = [forgotten(run, labels, epochs) for run in runs]
    counts: Int64 = np.sum([each.counts for each in found], axis=0)
    never: Int64 = np.sum([each.never_right for each in found], axis=0)
    return np.where(never > 0, counts.max(initial=0) + never, counts).astype(np.float64)
