"""The influence functions by name: one line each, and the only list of them.

Nothing is imported here until a function is used, so that config, planning and the CLI stay quick.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["pairwise", "pointwise"]


@dataclass(frozen=True)
class Entry:
    """One influence function.

    implementation: "module:Class", which fills `influence.contract.InfluenceFunction`; kind: "pairwise"
    gives a value per (pool row, target row), "pointwise" one per pool row; rule: what `selection.rule =
    "auto"` means for it: "coverage" (facility location) or "top-k" of the scores (design decision 6);
    teacher: whether it asks the model of `[language_model]`.
    """

    implementation: str
    kind: Kind
    rule: Literal["coverage", "top-k"]
    teacher: bool = False


CATALOGUE: dict[str, Entry] = {
    "delift": Entry("nncift_core.influence.delift:Delift", "pairwise", "coverage", teacher=True),
    "delift-se": Entry("nncift_core.influence.delift_se:DeliftSE", "pairwise", "coverage"),
    "less": Entry("nncift_core.influence.less:Less", "pairwise", "top-k", teacher=True),
    "selectit": Entry("nncift_core.influence.selectit:SelectIT", "pointwise", "top-k", teacher=True),
    "bm25": Entry("nncift_core.influence.bm25:BM25", "pairwise", "top-k"),
    "length": Entry("nncift_core.influence.length:Length", "pointwise", "top-k"),
}
