"""Studies of estimators on a whole exact matrix: many fits, each measured on every pair it was not given."""

from nncift_core.studies.draws import draw
from nncift_core.studies.fits import Material, measure_fit
from nncift_core.studies.grids import STUDIES, Cell, Fit, Grid, Study
from nncift_core.studies.measures import MetricRow, evaluate_fit, fit_and_predict, measured
from nncift_core.studies.subsets import selection_share

__all__ = [
    "Cell",
    "Fit",
    "Grid",
    "Material",
    "MetricRow",
    "STUDIES",
    "Study",
    "draw",
    "evaluate_fit",
    "fit_and_predict",
    "measure_fit",
    "measured",
    "selection_share",
]
