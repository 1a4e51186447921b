"""What a finished prune run publishes beside its tables: facts, suspects for relabelling, the record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nncift_core.datasets.labelled import unlabelled_note
from nncift_core.hashing import digest
from nncift_core.pipeline.result import record_without_matrix
from nncift_core.pruning.embed import plan_texts
from nncift_core.pruning.outcome import overlap_facts, training_facts
from nncift_core.pruning.problem import PruneProblem
from nncift_core.pruning.recommend import Recommendation
from nncift_core.pruning.suspects import suspects_csv
from nncift_core.store.files import publish, sum_counts, void


def run_facts(
    problem: PruneProblem, points: Sequence[Mapping[str, Any]], advice: Recommendation
) -> dict[str, Any]:
    """What a person should hear of a run: the recommendation, sizes, what was cut, dropped or found twice."""
    whole = [p["accuracy"] for p in points if p["score"] == "all" and not p["noise"]]
    config, refs = problem.config, problem.refs
    embedded = problem.vectors.files(problem.train.content_ids) if plan_texts(problem)[1] else ()
    return {
        "recommendation": advice.text,
        "recommendation_verdict": advice.verdict,
        "rows": len(problem.labels),
        "test_rows": problem.dataset("test").ref.rows,
        "classes": len(problem.classes),
        "accuracy_all": sum(whole) / len(whole) if whole else None,
        "mode": config.training.mode,
        "head": config.training.head,
        "encoder": config.encoder.model,
        "studies": ", ".join(config.study.studies),
        "points": len(points),
        "rows_kept_for_floor": sum(p["floored"] for p in points),
        "duplicates": sum(r.duplicates for r in refs),
        "dropped_rows": sum(len(r.dropped) for r in refs),
        "labels_note": unlabelled_note(problem.classes),
        **sum_counts(problem.ws.root, embedded),
        **training_facts(problem),
        **overlap_facts(problem),
    }


def named_suspects(problem: PruneProblem, suspects: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of the view `suspects`, without run_id, from those of `rank_suspects`."""
    ids, classes = problem.train.example_ids, problem.classes
    return [
        {
            **s,
            "train_id": int(ids[s["index"]]),
            "given": classes[s["given"]],
            "predicted": classes[s["predicted"]],
        }
        for s in suspects
    ]


def write_suspects(
    problem: PruneProblem, run_id: str, suspects: Sequence[Mapping[str, Any]], parent: str
) -> str:
    """Publish the suspects of `rank_suspects` as a CSV for relabelling; returns its relative path."""
    train, texts = problem.train, problem.texts("train")
    own = train.rows["source_id"].to_pylist()
    text = suspects_csv(
        suspects,
        ids=[o if o is not None else str(e) for o, e in zip(own, train.example_ids.tolist(), strict=True)],
        texts=texts.texts,
        text_pairs=texts.pairs,
        classes=problem.classes,
        # As messages count them: from 1.
        source_rows=[n + 1 for n in train.rows["row_number"].to_pylist()],
    )
    path = problem.ws.suspects_file(run_id)
    publish(
        problem.ws.root, path, lambda part: void(part.write_text(text, encoding="utf-8")),
        kind="suspects-csv", key=digest([run_id, text]), rows=len(suspects), producer="prune",
        parents=(parent,),
    )  # fmt: skip
    return problem.ws.relative(path)


def result_record(
    problem: PruneProblem, run_id: str, tables: dict[str, str], facts: dict[str, Any]
) -> dict[str, Any]:
    """Everything `store.views` needs to answer for this run, which has no matrix of influence."""
    return record_without_matrix(problem.ws, problem.datasets, run_id, "prune", tables, facts)
