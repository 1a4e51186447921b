"""What a study is made of: fits, each on one draw of labels, and the part of the study it stands for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from nncift_core.config_sections import CHEAP, FEATURE_GROUPS, LEARNED, FeatureGroup
from nncift_core.estimator.contract import (
    GROUPS,
    Features,
)

Study = Literal["figures", "estimators"]
STUDIES: tuple[Study, ...] = ("figures", "estimators")

LABELS, TOURNAMENT = "labels", "tournament"
NETWORKS = ("mlp-paper", "mlp")


@dataclass(frozen=True)
class Fit:
    """One fit: which estimator, with networks of which width, without which feature group, on which labels.

    predictor: name of the config file; hidden: 0 where it changes nothing; u: share of rows and of columns
    of the block whose cost is the budget; seed: of the draw and of the fit.
    """

    predictor: str
    design: str
    u: float
    seed: int
    hidden: int = 0
    without: str = ""


@dataclass(frozen=True)
class Cell:
    """A fit in its place: setting ("labels", "hidden 20", "tournament", "without error"), and shares of rows
    selected on its predictions."""

    setting: str
    fit: Fit
    fractions: tuple[float, ...] = ()


@dataclass(frozen=True)
class Grid:
    """What `[sweep]` and the job say, after every default.

    default: the job's own estimator; budget: u of the one label budget of the tournament and of the network
    sizes; design: the job's own label design; share: of the rows that the job selects; groups: features
    that estimators may read.
    """

    default: str
    budget: float
    design: str
    share: float
    hidden: int
    seeds: tuple[int, ...]
    groups: tuple[FeatureGroup, ...] = FEATURE_GROUPS
    architectures: tuple[str, ...] | None = None
    label_fractions: tuple[float, ...] = (0.05, 0.1, 0.2, 0.4)
    fractions: tuple[float, ...] = (0.05, 0.1, 0.3)
    widths: tuple[int, ...] = (5, 20, 100, 500)
    designs: tuple[str, ...] = ("block", "scattered", "all-targets")

    def cells(self, study: Study) -> list[Cell]:
        """The cells of a study, each once."""
        found = self._figures() if study == "figures" else self._estimators()
        return list(dict.fromkeys(found))

    def _figures(self) -> list[Cell]:
        names = self.architectures or tuple(dict.fromkeys((*NETWORKS, self.default)))
        cells = [
            Cell(LABELS, self._fit(name, "block", u, seed), self.fractions)
            for name in _with_baselines(names)
            for u in self.label_fractions
            for seed in self.seeds
        ]
        cells += [
            Cell(f"hidden {width}", Fit(name, "block", self.budget, seed, width))
            for name in names
            if name in NETWORKS
            for width in self.widths
            for seed in self.seeds
        ]
        return cells

    def _estimators(self) -> list[Cell]:
        # The job's own always stands, for its feature groups are measured against it.
        names = _with_baselines((*(self.architectures or LEARNED), self.default))
        cells = [
            Cell(TOURNAMENT, self._fit(name, design, self.budget, seed), (self.share,))
            for design in dict.fromkeys((self.design, *self.designs))
            for name in names
            for seed in self.seeds
        ]
        cells += [
            Cell(
                f"without {group}",
                self._fit(self.default, self.design, self.budget, seed, group),
                (self.share,),
            )
            for group in self.groups
            for seed in self.seeds
        ]
        return cells

    def _fit(self, name: str, design: str, u: float, seed: int, without: str = "") -> Fit:
        return Fit(name, design, u, seed, self.hidden if name in NETWORKS else 0, without)


def _with_baselines(names: Sequence[str]) -> list[str]:
    return list(dict.fromkeys((*names, *CHEAP)))


def without(features: Features, group: str) -> Features:
    """`features` less a group of the config file; "": as they are. Raises ValueError without that group."""
    if not group:
        return features
    parts = next((parts for name, parts in GROUPS.items() if name == group), ())
    names = {*features.rows, *features.columns, *features.pairs}
    if not names & set(parts):
        raise ValueError(f"there is no feature group {group!r} to leave out")
    return features.only(names - set(parts))
