"""How well attributed values say what training does: the field's measures, on arrays alone.

Notation: tau(i, j) is the value of pool row i for query j, high where training on i should lower the loss of
j. Sources: LDS, Park et al. 2023 (TRAK, arXiv 2303.14186); removal, Koh and Liang 2017, Hammoudeh and Lowd
2024; intervals are of 90 %. Nothing here knows of models, files or Prefect.
"""

from nncift_core.attribution.draws import keep_subsets, lowest, removals, top_rows
from nncift_core.attribution.intervals import LEVEL, Measured
from nncift_core.attribution.lds import lds, query_correlations, seed_agreement, subset_sums
from nncift_core.attribution.planted import auc, copies_found, swap_partners
from nncift_core.attribution.removal import removal_effect

__all__ = [
    "LEVEL",
    "Measured",
    "auc",
    "copies_found",
    "keep_subsets",
    "lds",
    "lowest",
    "query_correlations",
    "removal_effect",
    "removals",
    "seed_agreement",
    "subset_sums",
    "swap_partners",
    "top_rows",
]
