"""Computing one cell of a study: draw labels, fit, predict everything, measure, select."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nncift_core.config_sections import CHEAP
from nncift_core.estimator.contract import Estimator, Features
from nncift_core.estimator.label_sizes import Costs
from nncift_core.estimator.registry import make, possible
from nncift_core.studies.draws import draw
from nncift_core.studies.grids import Fit, without
from nncift_core.studies.measures import fit_and_predict, measured, parameter_count
from nncift_core.studies.subsets import selection_share

Int64 = npt.NDArray[np.int64]

# Raise it when the same fit would be measured otherwise.
STUDY_VERSION = 1


@dataclass(frozen=True, eq=False)
class Material:
    """What every fit of a study reads.

    features: of M rows and N columns; exact: their exact values [M, N]; readable: which groups and pair
    features learned estimators may read (None: all); costs: what labels are paid in; rule, tasks (number of
    every column's task, [N]), eta: how subsets are selected.
    """

    features: Features
    exact: npt.NDArray[np.float32]
    readable: Collection[str] | None = None
    costs: Costs | None = None
    rule: str = "top-k"
    tasks: Int64 | None = None
    eta: float = 1.0


def measure_fit(
    material: Material,
    fit: Fit,
    fractions: Iterable[float] = (),
    maker: Callable[[str, int], Estimator] = lambda name, hidden: make(name, hidden=hidden),
) -> dict[str, Any]:
    """What there is to know of one fit, JSON-ready.

    predictor: the estimator's own name; measures: rows {quadrant, metric, value} of `measured`, and with
    quadrant None the metrics fit_seconds, predict_seconds, parameters and labels; selection: by fraction v
    (as text) {share_of_gain, jaccard}; failed: "" or why there is no fit (the other keys are empty then).
    maker: from an estimator's name and a width to an unfitted one.
    """
    try:
        return _measured(material, fit, fractions, maker)
    except ValueError as e:
        return {"predictor": fit.predictor, "measures": [], "selection": {}, "failed": str(e) or "no reason"}


def _measured(
    material: Material, fit: Fit, fractions: Iterable[float], maker: Callable[[str, int], Estimator]
) -> dict[str, Any]:
    features, exact = _read(material, fit), material.exact
    obstacle = possible(fit.predictor, features)
    if obstacle is not None:
        raise ValueError(obstacle)
    estimator = maker(fit.predictor, fit.hidden or 100)
    labelled = draw(fit.design, exact.shape[0], exact.shape[1], fit.u, fit.seed, material.costs)
    found = fit_and_predict(features, exact, labelled, estimator, seed=fit.seed)
    of_all = {
        "fit_seconds": found.fit_seconds,
        "predict_seconds": found.predict_seconds,
        "parameters": float(parameter_count(estimator)),
        "labels": float(len(labelled[0])),
    }
    rows = [asdict(row) for row in measured(exact, found.values, found.labelled)]
    rows += [{"quadrant": None, "metric": metric, "value": value} for metric, value in of_all.items()]
    selection = {}
    for v in fractions:
        share, jaccard = selection_share(
            exact, found.values, material.rule, v, found.labelled, tasks=material.tasks, eta=material.eta
        )
        selection[repr(v)] = {"share_of_gain": share, "jaccard": jaccard}
    return {"predictor": estimator.name, "measures": rows, "selection": selection, "failed": ""}


def _read(material: Material, fit: Fit) -> Features:
    """What the estimator of `fit` may read; baselines read whatever there is."""
    features = material.features
    if material.readable is not None and fit.predictor not in CHEAP:
        features = features.only(material.readable)
    return without(features, fit.without)
