"""When things happen in a training: order of rows, learning rate, logging points, checkpoints.

Frozen and full training share it, so that a step means the same in both.
"""

from __future__ import annotations

import numpy as np

from nncift_core.classification.contract import Int64
from nncift_core.config_prune import TrainingConfig

# Apart from every other use of the same seed: no draw of rows may be an order of training.
_ORDER = 0x6F726465
# Looks at all rows within the early epochs, at most: each costs a pass.
_MOST_LOOKS = 100


def steps_per_epoch(n: int, batch_size: int) -> int:
    """Optimisation steps of one pass over n rows; the last batch may be smaller."""
    return -(-n // batch_size)


def total_steps(n: int, settings: TrainingConfig) -> int:
    """Optimisation steps of a whole training."""
    return settings.epochs * steps_per_epoch(n, settings.batch_size)


def batches(n: int, batch_size: int, seed: int, epoch: int) -> list[Int64]:
    """Indices of the rows of every step of an epoch (counted from 0), shuffled by seed and epoch."""
    order = np.random.default_rng([seed, _ORDER, epoch]).permutation(n)
    return [order[start : start + batch_size] for start in range(0, n, batch_size)]


def rate_factor(step: int, total: int, warmup: float) -> float:
    """The share of the learning rate at `step` (from 0) of `total`: a linear rise over the first `warmup` of
    the steps, then a linear fall that would reach 0 one step after the last."""
    rise = round(warmup * total)
    if step < rise:
        return (step + 1) / (rise + 1)
    return (total - step) / (total - rise)


def logging_points(n: int, settings: TrainingConfig) -> dict[int, bool]:
    """Steps (done, from 1) after which all rows are looked at -> whether the step closes an epoch.

    Every `log_every` steps within the first `log_epochs` epochs, more rarely where that would be over 100
    looks, and at the end of every epoch.
    """
    per_epoch = steps_per_epoch(n, settings.batch_size)
    early = min(round(settings.log_epochs * per_epoch), per_epoch * settings.epochs)
    every = max(settings.log_every, -(-early // _MOST_LOOKS))
    points = dict.fromkeys(range(every, early + 1, every), False)
    points |= dict.fromkeys(range(per_epoch, per_epoch * settings.epochs + 1, per_epoch), True)
    return dict(sorted(points.items()))


def checkpoint_steps(total: int, count: int) -> list[int]:
    """Steps (done, from 1) after which a checkpoint is kept: `count` of them, evenly, the last at the end."""
    steps = {max(1, round(total * (k + 1) / count)) for k in range(count)}
    return sorted(steps)
