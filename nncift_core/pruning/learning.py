"""Learned scores of a job: one fit per score, kept like a training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nncift_core.classification.contract import Float32, Float64
from nncift_core.hashing import digest
from nncift_core.pruning.job import VERSION
from nncift_core.pruning.keys import array_digest
from nncift_core.pruning.learned import learn_score
from nncift_core.pruning.problem import GIVEN, PruneProblem
from nncift_core.scores.catalogue import CATALOGUE, shown_name
from nncift_core.scores.compute import Scores
from nncift_core.store.classifiers import Kept

_FEWEST = 50


@dataclass(frozen=True)
class LearnShard:
    """One score to learn; key: identity of its values and of the rows; values [N]: of the score."""

    name: str
    key: str
    score: str


def learnable(problem: PruneProblem) -> list[str]:
    """The scores that are learned: those asked for, where there are rows enough to measure a fit on."""
    if not problem.config.scores.learn or len(problem.labels) < _FEWEST:
        return []
    return list(problem.config.scores.names)


def learn_key(problem: PruneProblem, score: str, values: Float64) -> str:
    """Identity of a learned score."""
    new = [r.version for r in problem.refs if r.role == "new"]
    rows, shown = problem.rows_digests(GIVEN), array_digest(values.astype(np.float64))
    return digest(["learn", VERSION, score, problem.keys.encoder, problem.config.seed, new, rows, shown])


def kept_learned(problem: PruneProblem, key: str) -> Kept:
    """The folder of a learned score."""
    return Kept(problem.ws, key, problem.parents)


def plan_learning(problem: PruneProblem, scores: Scores) -> tuple[list[LearnShard], list[LearnShard]]:
    """Every score to learn, and those of them that are not kept yet."""
    wanted = []
    for score in learnable(problem):
        key = learn_key(problem, score, scores[score, CATALOGUE[score].variants[0]])
        wanted.append(LearnShard(score, key, score))
    return wanted, [s for s in wanted if not kept_learned(problem, s.key).done]


def learn(problem: PruneProblem, shard: LearnShard, scores: Scores, progress: Callable[[int], None]) -> int:
    """Learn one score and keep the predictions of new rows, and how good they are; returns 1."""
    kept, mode = kept_learned(problem, shard.key), problem.config.training.mode
    if kept.done:
        return 0
    x, x_new, labels_new = _inputs(problem)
    found = learn_score(
        x,
        problem.labels,
        scores[shard.score, CATALOGUE[shard.score].variants[0]],
        x_new,
        labels_new,
        seed=problem.seed_of("learn", 0),
        name=shown_name(shard.score, mode),
        lengths=np.array([len(t) for t in problem.texts("train").texts], np.float64),
        progress=lambda _: progress(0),
    )
    files = [kept.write_arrays("predicted", {"predicted": found.predicted}, {"score": shard.score})]
    kept.finish({"quality": found.quality, "text": found.text, "estimator": found.estimator}, files)
    progress(1)
    return 1


def _inputs(problem: PruneProblem) -> tuple[Float32, Float32, Any]:
    """Embeddings of the rows to prune, and embeddings and classes of the new rows."""
    x = problem.raw_features("train")
    if not problem.has("new"):
        return x, np.empty((0, x.shape[1]), np.float32), np.empty(0, np.int64)
    return x, problem.raw_features("new"), problem.given_labels("new")


def quality_rows(problem: PruneProblem, shards: Sequence[LearnShard]) -> list[dict[str, Any]]:
    """Rows of the view `estimator_quality`, without run_id."""
    return [row for s in shards for row in kept_learned(problem, s.key).read()["quality"]]
