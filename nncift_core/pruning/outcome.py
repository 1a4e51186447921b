"""From kept trainings to results: scores under every label set, points, and the tables behind the views."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from nncift_core.classification.contract import Dynamics, Float64, Int64
from nncift_core.pruning.cells import score_cells
from nncift_core.pruning.learning import LearnShard, kept_learned
from nncift_core.pruning.noise import detection
from nncift_core.pruning.problem import LabelSet, PruneProblem
from nncift_core.pruning.sampling import Kept as KeptRows
from nncift_core.pruning.studies import Point, difficulties, label_sets, planted
from nncift_core.pruning.suspects import rank_suspects
from nncift_core.pruning.trainings import PointCell, kept_point, kept_score, point_key
from nncift_core.scores.catalogue import CATALOGUE, shown_name
from nncift_core.scores.compute import Scores, difficulty, scores_of

SUSPECTS = 500


@dataclass(frozen=True, eq=False)
class Scored:
    """The scores of all rows under one label set; predicted [N]: by majority over runs at the last epoch,
    the lower class among equals; probability [N]: exp of the mean log-probability of the label there."""

    scores: Scores
    predicted: Int64
    probability: Float64


def score_all(problem: PruneProblem) -> dict[LabelSet, Scored]:
    """Scores under every label set of the job; its trainings must be kept."""
    return {labels: score_under(problem, labels) for labels in label_sets(problem.config)}


def score_under(problem: PruneProblem, labels: LabelSet) -> Scored:
    """Scores under one label set; its trainings must be kept."""
    cells = [cell for cell in score_cells(problem) if cell.labels == labels]
    y = problem.labels_of(labels)
    kept = [kept_score(problem, cell) for cell in cells]
    runs = [k.read_dynamics(len(y)) for k in kept]
    null = [k.read()["null_log_probability"] for k in kept]
    of_runs = [k.read_arrays("gradients") for k, cell in zip(kept, cells, strict=True) if cell.gradients]
    names = of_runs[0] if of_runs else {}
    gradients = {n: np.mean([g[n].astype(np.float64) for g in of_runs], axis=0) for n in names}
    nulls = [np.array(n, np.float64) for n in null if n is not None]
    scores = scores_of(runs, y, problem.config.scores, nulls or None, gradients or None)
    if "tracin-head" in gradients:
        # Of a trained encoder the last layer's is the score; the head's stands beside it.
        scores["tracin", "head"] = gradients["tracin-head"]
    return Scored(scores, _majority(runs), _probability(runs))


def training_facts(problem: PruneProblem) -> dict[str, int]:
    """What a person should hear of the trainings: how many texts were cut (full mode)."""
    facts = kept_score(problem, score_cells(problem)[0]).read()["facts"]
    return {k: int(v) for k, v in facts.items() if k == "truncated_texts"}


def _majority(runs: Sequence[Dynamics]) -> Int64:
    """The class that most runs predict at the last epoch, [N]; the lower one among equals."""
    last = np.sort(np.stack([run.predicted[-1] for run in runs]), axis=0)
    votes = np.stack([(last == one).sum(axis=0) for one in last])
    found: Int64 = np.take_along_axis(last, votes.argmax(axis=0)[None], axis=0)[0]
    return found


def _probability(runs: Sequence[Dynamics]) -> Float64:
    found: Float64 = np.exp(np.mean([run.log_probability[-1].astype(np.float64) for run in runs], axis=0))
    return found


@dataclass(frozen=True, eq=False)
class Planned:
    """A point with the rows it keeps and the training that judges it."""

    point: Point
    kept: KeptRows
    cell: PointCell


def plan_point(problem: PruneProblem, point: Point, kept: KeptRows) -> Planned:
    """The training of a point."""
    key = point_key(problem, point.labels, kept.index, point.seed)
    return Planned(point, kept, PointCell(key, point.labels, point.subset, point.seed))


def point_rows(problem: PruneProblem, planned_points: Sequence[Planned]) -> list[dict[str, Any]]:
    """Every point with what was measured of it."""
    mode, rows = problem.config.training.mode, []
    for p in planned_points:
        measured = kept_point(problem, p.cell.key).read()
        wrong = int(planted(problem, p.point.labels)[p.kept.index].sum()) if p.point.labels.noise else None
        keys = (
            "n_train",
            "accuracy",
            "macro_accuracy",
            "log_loss",
            "per_class",
            "per_group",
            "tail",
            "n_test",
        )
        told = {k: measured[k] for k in keys}
        bits = np.unpackbits(np.frombuffer(bytes.fromhex(measured["right"]), np.uint8))
        told |= {"right": bits[: measured["n_test"]].astype(bool), "floored": p.kept.floored}
        rows.append({**p.point.told(mode), "mislabelled": wrong, **told})
    return rows


def detection_rows(problem: PruneProblem, scored: Mapping[LabelSet, Scored]) -> list[dict[str, Any]]:
    """Rows of the view `noise_detection`, without run_id."""
    mode, rows = problem.config.training.mode, []
    for labels, found in scored.items():
        if not labels.noise:
            continue
        wrong = planted(problem, labels)
        for (name, variant), values in found.scores.items():
            measured = detection(difficulty(name, values), wrong)
            shown = {k: None if np.isnan(v) else v for k, v in measured.items()}
            rows.append({"noise": labels.noise, "noise_rate": labels.rate, "seed": labels.seed,
                         "score": shown_name(name, mode), "variant": variant,
                         "planted": int(wrong.sum()), **shown})  # fmt: skip
    return rows


def suspect_rows(problem: PruneProblem, scored: Scored) -> tuple[list[dict[str, Any]], int]:
    """Rows predicted otherwise than labelled, as `rank_suspects` orders them, at most `SUSPECTS` of them; and
    how many there are in all."""
    hard = difficulties(scored.scores, problem.config.training.mode)
    total = int((scored.predicted != problem.labels).sum())
    limit = min(SUSPECTS, total)
    return rank_suspects(hard, problem.labels, scored.predicted, scored.probability, limit), total


def overlap_facts(problem: PruneProblem) -> dict[str, int]:
    """What makes accuracy doubtful: test rows that are also rows to prune, rows whose text has other labels,
    too."""
    train = problem.train.content_ids
    labels: dict[int, set[int]] = {}
    for content, label in zip(train.tolist(), problem.labels.tolist(), strict=True):
        labels.setdefault(content, set()).add(label)
    return {
        "test_rows_in_train": int(np.isin(problem.dataset("test").content_ids, train).sum()),
        "same_text_other_label": sum(len(labels[c]) > 1 for c in train.tolist()),
    }


def scores_table(
    problem: PruneProblem, run_id: str, scored: Scored, learned: Sequence[LearnShard]
) -> pa.Table:
    """The table behind the view `scores`: measured ones of all rows, learned ones of new rows."""
    mode = problem.config.training.mode
    parts = [
        _score_part(run_id, shown_name(name, mode), variant, "exact", problem.train.example_ids, values)
        for (name, variant), values in scored.scores.items()
    ]
    if problem.has("new"):
        ids = problem.dataset("new").example_ids
        for shard in learned:
            values = kept_learned(problem, shard.key).read_arrays("predicted")["predicted"]
            variant = CATALOGUE[shard.score].variants[0]
            parts.append(
                _score_part(run_id, shown_name(shard.score, mode), variant, "estimated", ids, values)
            )
    return pa.concat_tables(parts)


def _score_part(
    run_id: str, function: str, variant: str, origin: str, ids: Int64, values: Float64
) -> pa.Table:
    n = len(ids)
    texts = {"run_id": run_id, "function": function, "task": None, "variant": variant}
    columns: dict[str, Any] = {k: pa.array([v] * n, pa.large_string()) for k, v in texts.items()}
    columns |= {
        "seed": pa.nulls(n, pa.int64()),
        "origin": pa.array([origin] * n, pa.large_string()),
        "train_id": pa.array(ids),
        "score": pa.array(values.astype(np.float64)),
    }
    return pa.table(columns)


def evaluation_rows(problem: PruneProblem, points: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of the view `evaluation`, without run_id: every point in all, under given labels."""
    mode = problem.config.training.mode
    rows = []
    for p in points:
        if p["noise"]:
            continue
        parts = (p["score"], p["variant"], p["sampling"], p["pruned_end"])
        subset = " ".join(x for x in parts if x) + (f" -{p['pruned']:.0%}" if p["pruned"] else "")
        about = {"function": p["score"], "subset": f"{p['study']}: {subset}", "model": f"{mode} encoder"}
        for metric in ("accuracy", "macro_accuracy", "log_loss"):
            rows.append({**about, "mode": "classifier", "task": "all", "metric": metric, "value": p[metric],
                         "lower": None, "upper": None, "seed": p["seed"], "fraction": 1 - p["pruned"],
                         "n_train": p["n_train"], "n_tokens": None, "n_rows": p["n_test"]})  # fmt: skip
    return rows
