"""Selection: which candidates to keep, given influence or scores. Pure arrays, no store access."""

from nncift_core.selection.at_scale import ScaleOptions, facility_location_at_scale
from nncift_core.selection.facility_location import (
    facility_location,
    facility_location_conditional_gain,
    facility_location_mutual_information,
)
from nncift_core.selection.kernels import DenseRows, EmbeddingRows, SimilarityRows, TileRows
from nncift_core.selection.result import Selection
from nncift_core.selection.rules import RULES, Rule, RuleName
from nncift_core.selection.scaling import NonNegative, scale, shift_to_non_negative
from nncift_core.selection.top_k import top_k

__all__ = [
    "RULES",
    "DenseRows",
    "EmbeddingRows",
    "NonNegative",
    "Rule",
    "RuleName",
    "ScaleOptions",
    "Selection",
    "SimilarityRows",
    "TileRows",
    "facility_location",
    "facility_location_at_scale",
    "facility_location_conditional_gain",
    "facility_location_mutual_information",
    "scale",
    "shift_to_non_negative",
    "top_k",
]
