"""The learned estimator of influence: labels, network, training, baselines, quality."""

from nncift_core.estimator.baselines import (
    Baseline,
    Calibrated,
    ConstantMean,
    EmbeddingCosine,
    LexicalMatch,
    ShrunkMeans,
    Texts,
    default_baselines,
    response_length,
)
from nncift_core.estimator.labels import BlockDesign, audit_pairs, block_design, quadrant
from nncift_core.estimator.network import InfluenceNetwork
from nncift_core.estimator.quality import QualityRow, assess
from nncift_core.estimator.training import FitReport, fit

__all__ = [
    "Baseline",
    "BlockDesign",
    "Calibrated",
    "ConstantMean",
    "EmbeddingCosine",
    "FitReport",
    "InfluenceNetwork",
    "LexicalMatch",
    "QualityRow",
    "ShrunkMeans",
    "Texts",
    "assess",
    "audit_pairs",
    "block_design",
    "default_baselines",
    "fit",
    "quadrant",
    "response_length",
]
