"""Estimators of influence: labels, features, learned and cheap estimators of one contract, quality."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nncift_core.estimator.baselines import Calibrated, ConstantMean, Random, ShrunkMeans, default_baselines
from nncift_core.estimator.contract import Estimator, Features
from nncift_core.estimator.registry import class_of, make, possible
from nncift_core.estimator.saving import load, save

if TYPE_CHECKING:
    from nncift_core.estimator.labels import BlockDesign, audit_pairs, block_design, quadrant
    from nncift_core.estimator.network import InfluenceNetwork
    from nncift_core.estimator.quality import QualityRow, assess
    from nncift_core.estimator.training import FitReport, fit

__all__ = [
    "BlockDesign",
    "Calibrated",
    "ConstantMean",
    "Estimator",
    "Features",
    "FitReport",
    "InfluenceNetwork",
    "QualityRow",
    "Random",
    "ShrunkMeans",
    "assess",
    "audit_pairs",
    "block_design",
    "class_of",
    "default_baselines",
    "fit",
    "load",
    "make",
    "possible",
    "quadrant",
    "save",
]

# Imported at first use: whoever only asks which estimators there are does not wait for torch.
_LATER = {
    "BlockDesign": "labels",
    "audit_pairs": "labels",
    "block_design": "labels",
    "quadrant": "labels",
    "InfluenceNetwork": "network",
    "QualityRow": "quality",
    "assess": "quality",
    "FitReport": "training",
    "fit": "training",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
