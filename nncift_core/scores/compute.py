"""All scores that a job asks for, from the dynamics of its runs and its gradient scores; and what is hard.

A score of several runs is the mean of each run's own score; forgetting is summed, see `forgetting.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from nncift_core.classification.contract import Dynamics, Float64, Int64
from nncift_core.config_prune import ScoresConfig
from nncift_core.errors import UserError
from nncift_core.scores.aum import aum
from nncift_core.scores.cartography import confidence, variability
from nncift_core.scores.catalogue import CATALOGUE
from nncift_core.scores.el2n import el2n
from nncift_core.scores.forgetting import forgetting
from nncift_core.scores.normalise import over_rows, within_classes
from nncift_core.scores.pvi import pvi

Scores = dict[tuple[str, str], Float64]
NullModels = Sequence[Float64]


def scores_of(
    runs: Sequence[Dynamics],
    labels: Int64,
    settings: ScoresConfig,
    null: NullModels | None,
    gradients: Mapping[str, Float64] | None,
) -> Scores:
    """(name, variant) -> score [N], for every name in `settings.names` and all its variants in the catalogue.

    runs: R trainings on the same rows with labels [N]; null: ln of the class probabilities [K] of null
    models, one or more, averaged in bits; gradients: raw "vog", "tracin" and "grand" [N]. What no name asks
    for may be left out. Raises ValueError where something is lacking, UserError where a score is not a
    number, and as `forgotten`.
    """
    out: Scores = {}
    for name in settings.names:
        if CATALOGUE[name].needs == "gradients":
            if gradients is None or name not in gradients:
                raise ValueError(f"no gradients were given for the score {name}")
            found = _by_gradients(name, gradients[name].astype(np.float64), labels)
        elif not runs:
            raise ValueError(f"no run was given for the score {name}")
        elif name == "pvi":
            found = {"mean": _pvi(runs, null, labels, settings.pvi_epochs)}
        else:
            found = _by_dynamics(name, runs, labels, settings)
        for variant in CATALOGUE[name].variants:
            _check(name, found[variant], len(labels))
            out[name, variant] = found[variant]
    return out


def difficulty(name: str, values: Float64) -> Float64:
    """values [N] of the score `name`, turned round where need be: larger is harder."""
    return values if CATALOGUE[name].hard == "high" else -values


def _by_dynamics(
    name: str, runs: Sequence[Dynamics], labels: Int64, settings: ScoresConfig
) -> dict[str, Float64]:
    if name == "el2n":
        return {
            "early": _mean(el2n(run, settings.el2n_epoch) for run in runs),
            "late": _mean(el2n(run, None) for run in runs),
        }
    if name == "forgetting":
        return {"count": forgetting(runs, labels, settings.forgetting_epochs)}
    of_one: dict[str, Callable[[Dynamics], Float64]] = {
        "aum": aum,
        "confidence": confidence,
        "variability": variability,
    }
    return {"mean": _mean(of_one[name](run) for run in runs)}


def _pvi(runs: Sequence[Dynamics], null: NullModels | None, labels: Int64, epoch: int) -> Float64:
    if not null:
        raise ValueError("no null model was given for the score pvi")
    # Bits of the null models and of the runs add up, so that their means do, whatever their numbers.
    average = _mean(null)
    return _mean(pvi(run, average, labels, epoch) for run in runs)


def _by_gradients(name: str, values: Float64, labels: Int64) -> dict[str, Float64]:
    if name != "vog":
        return {variant: values for variant in CATALOGUE[name].variants}
    return {"raw": values, "class": within_classes(values, labels), "dataset": over_rows(values)}


def _mean(of_runs: Iterable[Float64]) -> Float64:
    mean: Float64 = np.mean([each.astype(np.float64) for each in of_runs], axis=0)
    return mean


def _check(name: str, values: Float64, rows: int) -> None:
    if values.shape != (rows,):
        raise ValueError(f"the score {name} is {values.shape}, there are {rows} labels")
    lost = int((~np.isfinite(values)).sum())
    if lost:
        raise UserError(
            f"the score {name} of {lost} of {rows} rows is not a finite number: the training ran away",
            field="training.learning_rate",
            mend="Lower it (training.encoder_rate too, where the encoder is trained).",
        )
