"""The learned estimator of influence: labels, network, training, baselines, quality."""

from nncift_core.estimator.baselines import (
    Baseline,
    ConstantMean,
    EmbeddingCosine,
    ShrunkMeans,
    default_baselines,
)
from nncift_core.estimator.labels import BlockDesign, audit_pairs, block_design, quadrant
from nncift_core.estimator.network import InfluenceNetwork
from nncift_core.estimator.quality import QualityRow, assess
from nncift_core.estimator.training import FitReport, fit

__all__ = [
    "Baseline",
    "BlockDesign",
    "ConstantMean",
    "EmbeddingCosine",
    "FitReport",
    "InfluenceNetwork",
    "QualityRow",
    "ShrunkMeans",
    "assess",
    "audit_pairs",
    "block_design",
    "default_baselines",
    "fit",
    "quadrant",
]
