"""Picking logging points of one run: the end of an epoch, all epoch ends, the first epochs."""

from __future__ import annotations

import numpy as np

from nncift_core.classification.contract import Dynamics

# Epochs are steps divided by steps per epoch, so they may be off by a rounding.
_SLACK = 1e-6


def epoch_ends(run: Dynamics) -> Dynamics:
    """The points of `run` that close an epoch, E >= 1 of them. Raises ValueError where there are none."""
    if not run.epoch_end.any():
        raise ValueError("the run has no logging point at the end of an epoch")
    return run.at(run.epoch_end)


def at_epoch(run: Dynamics, epoch: int) -> Dynamics:
    """The one point that closes epoch `epoch`, counted from 1. Raises ValueError where it was not logged."""
    here = np.flatnonzero(run.epoch_end & (np.abs(run.epochs - epoch) < _SLACK))
    if len(here) != 1:
        raise ValueError(f"the run has {len(here)} logging points at the end of epoch {epoch}, not one")
    return run.at(here)


def first_epochs(run: Dynamics, epochs: float) -> Dynamics:
    """The points of `run` at most `epochs` epochs after its start."""
    return run.at(run.epochs <= epochs + _SLACK)
