"""The points of the studies: which subsets are trained on, under which labels, from which seed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from nncift_core.classification.contract import Bool, Float64
from nncift_core.config_prune import PruneConfig
from nncift_core.pruning.problem import GIVEN, LabelSet, PruneProblem
from nncift_core.pruning.sampling import Kept, keep_by_score, keep_random, keep_stratified
from nncift_core.scores.catalogue import CATALOGUE, shown_name
from nncift_core.scores.compute import Scores, difficulty

ALL, RANDOM, STRATIFIED = "all", "random", "stratified"


@dataclass(frozen=True)
class Point:
    """One subset to train on, from one seed (the number of a draw), in one study.

    score: "all" (nothing pruned), "random", "stratified" or a score's name in the catalogue; variant,
    sampling, pruned_end: "" but for scores; pruned: share of the rows that is dropped.
    """

    study: str
    labels: LabelSet
    seed: int
    score: str
    variant: str = ""
    sampling: str = ""
    pruned_end: str = ""
    pruned: float = 0.0

    @property
    def subset(self) -> str:
        """Name of the rows that it keeps, which other studies may share."""
        drawn = self.seed if self.sampling != "" or self.score in (RANDOM, STRATIFIED) else 0
        parts = (self.labels.noise, self.labels.rate, self.labels.seed, self.score, self.variant,
                 self.sampling, self.pruned_end, self.pruned, drawn)  # fmt: skip
        return "/".join(map(str, parts))

    def told(self, mode: Any) -> dict[str, Any]:
        """The columns of the view `pruning` that say which point it is."""
        score = shown_name(self.score, mode) if self.score in CATALOGUE else self.score
        return {
            "study": self.study, "noise": self.labels.noise, "noise_rate": self.labels.rate, "score": score,
            "variant": self.variant, "sampling": self.sampling, "pruned_end": self.pruned_end,
            "pruned": self.pruned, "seed": self.seed,
        }  # fmt: skip


def label_sets(config: PruneConfig) -> list[LabelSet]:
    """The label sets that rows are scored under."""
    found = [GIVEN]
    if "noise" in config.study.studies:
        n = config.noise
        found += [
            LabelSet(kind, rate, seed) for kind in n.kinds for rate in n.rates for seed in seeds(config)
        ]
    return found


def seeds(config: PruneConfig) -> list[int]:
    """Numbers of the draws and trainings of every point; `PruneProblem.seed_of` makes seeds of them."""
    return list(range(config.study.seeds))


def run_seeds(config: PruneConfig) -> list[int]:
    """Numbers of the trainings that scores are made of; other seeds than those of points."""
    return list(range(config.scores.runs))


def points(config: PruneConfig) -> list[Point]:
    """Every point of the job's studies, without repetition."""
    studies = {"curve": _curve, "noise": _noise, "imbalance": _imbalance}
    found = [p for study in config.study.studies for p in studies[study](config)]
    return list(dict.fromkeys(found))


def variants(config: PruneConfig, score: str) -> tuple[str, ...]:
    """The variants of a score that subsets are drawn by."""
    count = 2 if config.study.variants and score in ("el2n", "vog") else 1
    return CATALOGUE[score].variants[:count]


def _curve(config: PruneConfig) -> Iterator[Point]:
    s = config.study
    for seed in seeds(config):
        yield from _plain("curve", GIVEN, seed, s.prune)
        for score in config.studied:
            for variant in variants(config, score):
                yield from _scored("curve", GIVEN, seed, (score, variant, "cut"), s.ends, s.prune)
        for score in config.drawn:
            for sampling in ("softmax", "linear"):
                what = (score, variants(config, score)[-1], sampling)
                yield from _scored("curve", GIVEN, seed, what, s.ends, s.prune)


def _noise(config: PruneConfig) -> Iterator[Point]:
    n = config.noise
    for labels in label_sets(config)[1:]:
        yield from _plain("noise", labels, labels.seed, n.prune, stratified=False)
        for score in config.studied:
            what = (score, CATALOGUE[score].variants[0], "cut")
            yield from _scored("noise", labels, labels.seed, what, n.ends, n.prune)


def _imbalance(config: PruneConfig) -> Iterator[Point]:
    score = "vog" if "vog" in config.scores.names else config.studied[0]
    for seed in seeds(config):
        yield from _plain("imbalance", GIVEN, seed, config.study.prune)
        for variant in CATALOGUE[score].variants[:2]:
            for sampling in ("cut", "softmax"):
                what = (score, variant, sampling)
                yield from _scored("imbalance", GIVEN, seed, what, ["easy"], config.study.prune)


def _plain(
    study: str, labels: LabelSet, seed: int, shares: list[float], stratified: bool = True
) -> Iterator[Point]:
    yield Point(study, labels, seed, ALL)
    for share in shares:
        yield Point(study, labels, seed, RANDOM, pruned=share)
        if stratified:
            yield Point(study, labels, seed, STRATIFIED, pruned=share)


def _scored(
    study: str, labels: LabelSet, seed: int, what: tuple[str, str, str], ends: Any, shares: list[float]
) -> Iterator[Point]:
    score, variant, sampling = what
    for end in ends:
        for share in shares:
            yield Point(study, labels, seed, score, variant, sampling, end, share)


def kept_rows(problem: PruneProblem, point: Point, scores: Mapping[LabelSet, Scores]) -> Kept:
    """The rows that a point keeps (positions, ascending)."""
    labels, s = problem.labels_of(point.labels), problem.config.study
    if point.score == ALL:
        return Kept(np.arange(len(labels)), 0)
    shared: dict[str, Any] = {
        "pruned": point.pruned,
        "floor": s.floor,
        "seed": problem.seed_of("draw", point.seed),
    }
    if point.score == RANDOM:
        return keep_random(labels, **shared)
    if point.score == STRATIFIED:
        return keep_stratified(labels, **shared)
    hard = difficulty(point.score, scores[point.labels][point.score, point.variant])
    return keep_by_score(
        hard,
        labels,
        end="easy" if point.pruned_end == "easy" else "hard",
        sampling=cast(Any, point.sampling),
        eps=s.eps,
        **shared,
    )


def difficulties(scores: Scores, mode: Any) -> dict[str, Float64]:
    """Every score in its first variant, larger is harder, under its shown name."""
    return {
        shown_name(name, mode): difficulty(name, scores[name, entry.variants[0]])
        for name, entry in CATALOGUE.items()
        if (name, entry.variants[0]) in scores
    }


def planted(problem: PruneProblem, labels: LabelSet) -> Bool:
    """Whether each row's label was changed, [N]."""
    changed: Bool = problem.labels_of(labels) != problem.labels
    return changed
