"""Whether settings can be served by the rows that there are: told before anything is started."""

from __future__ import annotations

from collections import Counter

from nncift_core.classification.schedule import (
    checkpoint_steps,
    logging_points,
    steps_per_epoch,
    total_steps,
)
from nncift_core.config_prune import PruneConfig
from nncift_core.errors import UserError


def check_settings(config: PruneConfig, counts: Counter[str]) -> None:
    """Raise UserError for settings that these rows (label -> rows to prune) cannot serve: too few looks for
    forgetting, one checkpoint for VoG, shares that leave less than the floors keep."""
    n = sum(counts.values())
    _check_looks(config, n)
    noise = config.noise.prune if "noise" in config.study.studies else []
    floors = sum(min(config.study.floor, k) for k in counts.values())
    for share in (*config.study.prune, *noise, *([config.subset.prune] if config.subset else [])):
        left = n - round(share * n)
        if left < max(2, floors):
            raise UserError(
                f"dropping {share:g} of {n:,} rows leaves {left:,}, and the floor of "
                f"{config.study.floor} rows of every class keeps {floors:,}",
                field="study.prune",
                mend="Drop less, or lower study.floor.",
            )


def _check_looks(config: PruneConfig, n: int) -> None:
    t, s = config.training, config.scores
    per_epoch = steps_per_epoch(n, t.batch_size)
    looks = sum(step <= s.forgetting_epochs * per_epoch for step in logging_points(n, t))
    if "forgetting" in s.names and looks < 2:
        raise UserError(
            f"the first {s.forgetting_epochs:g} epochs have {looks} looks at all rows, and a row is "
            "forgotten between two",
            field="scores.forgetting_epochs",
            mend='Raise it, lower training.log_every, or leave "forgetting" out of scores.names.',
        )
    if "vog" in s.names and len(checkpoint_steps(total_steps(n, t), t.checkpoints)) < 2:
        raise UserError(
            "the training has one step and so one checkpoint, and VoG compares several",
            field="training.epochs",
            mend='Train longer, or leave "vog" out of scores.names.',
        )
