"""The stages of a prune run in order: embeddings, trainings for scores, trainings on subsets, the result."""

from __future__ import annotations

from typing import Any

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from flows.stages import Stages
from nncift_core.execution.pool import close_pools
from nncift_core.hashing import digest
from nncift_core.pruning.cells import plan_points, plan_scores
from nncift_core.pruning.embed import plan_texts
from nncift_core.pruning.findings import findings
from nncift_core.pruning.learning import LearnShard, plan_learning, quality_rows
from nncift_core.pruning.outcome import (
    Planned,
    Scored,
    detection_rows,
    evaluation_rows,
    plan_point,
    point_rows,
    score_all,
    scores_table,
    suspect_rows,
)
from nncift_core.pruning.problem import GIVEN, LabelSet, PruneProblem
from nncift_core.pruning.recommend import Recommendation, recommend
from nncift_core.pruning.result import named_suspects, result_record, run_facts, write_suspects
from nncift_core.pruning.studies import difficulties, kept_rows, points
from nncift_core.pruning.subset import chosen_point, kept_of, selection_rows, write_kept
from nncift_core.pruning.summary import long_rows, summarise
from nncift_core.pruning.tails import tail_overlap
from nncift_core.store.classifiers import write_subsets
from nncift_core.store.runs import Attempt, publish_table
from tasks import prune as tasks
from tasks import shards

TAIL_SHARE = 0.1


class PruneStages(Stages):
    """A prune run; problem: its data."""

    problem: PruneProblem

    def __init__(self, job: Any, attempt: Attempt, command: str) -> None:
        super().__init__(job, attempt)
        self.command = command

    def run(self) -> dict[str, Any]:
        """All stages; returns the fields of `PruneResult`."""
        self._embed()
        self._score()
        scored = score_all(self.problem)
        planned, subsets = self._subsets(scored)
        close_pools()
        learned = self._learn(scored[GIVEN])
        return self._publish(scored, point_rows(self.problem, planned), learned, subsets)

    def _embed(self) -> None:
        found, total = plan_texts(self.problem)
        if total:
            missing = sum(len(s.content_ids) for s in found)
            self.shards("embed-texts", shards.embed_texts, found, (total, missing, "texts"))
            self.problem.look_again()

    def _score(self) -> None:
        found, total = plan_scores(self.problem)
        missing = sum(len(s.cells) for s in found)
        self.shards("train-scores", shards.train_scores, found, (total, missing, "trainings"))

    def _subsets(self, scored: dict[LabelSet, Scored]) -> tuple[list[Planned], str]:
        scores = {labels: s.scores for labels, s in scored.items()}
        with self.shown("plan-subsets", 0, "subsets"):
            planned = [
                plan_point(self.problem, p, kept_rows(self.problem, p, scores)) for p in points(self.config)
            ]
        kept = {p.cell.subset: p.kept.index for p in planned}
        key = digest(["subsets", self.run_id, sorted(p.cell.key for p in planned)])
        subsets = write_subsets(self.ws, key, list(kept), list(kept.values()), self.problem.parents)
        found, total = plan_points(self.problem, [p.cell for p in planned])
        missing = sum(len(s.cells) for s in found)
        counts = (total, missing, "trainings")
        self.shards("train-subsets", shards.train_subsets, found, counts, {"subsets": subsets})
        return planned, subsets

    def _learn(self, scored: Scored) -> list[LearnShard]:
        wanted, missing = plan_learning(self.problem, scored.scores)
        if wanted:
            tasks.forget_scores()
            counts = (len(wanted), len(missing), "scores")
            self.shards("learn-scores", tasks.learn_scores, missing, counts)
            tasks.forget_scores()
        return wanted

    def _publish(
        self,
        scored: dict[LabelSet, Scored],
        measured: list[dict[str, Any]],
        learned: list[LearnShard],
        subsets: str,
    ) -> dict[str, Any]:
        """Make the result visible, write its page, and gather what the terminal and the UI show."""
        summary, detection = summarise(measured), detection_rows(self.problem, scored)
        claims = findings(summary, detection, measured)
        advice = recommend(summary, len(self.problem.labels))
        suspects, differing = suspect_rows(self.problem, scored[GIVEN])
        hard = difficulties(scored[GIVEN].scores, self.config.training.mode)
        views: dict[str, list[dict[str, Any]]] = {
            "pruning": long_rows(measured),
            "pruning_summary": summary,
            "noise_detection": detection,
            "findings": claims,
            "suspects": named_suspects(self.problem, suspects),
            "tail_overlap": tail_overlap(hard, TAIL_SHARE),
            "evaluation": evaluation_rows(self.problem, measured),
            "estimator_quality": quality_rows(self.problem, learned),
        }
        facts = {**run_facts(self.problem, measured, advice), "command": self.command}
        facts |= self._subset(scored, advice, views, subsets)
        facts |= {
            "suspects_csv": write_suspects(self.problem, self.run_id, suspects, subsets),
            "suspects": differing,
            "suspects_left_out": differing - len(suspects),
        }
        tables = self._tables(views, subsets)
        key = digest(["scores", self.run_id, self.attempt.number])
        table = scores_table(self.problem, self.run_id, scored[GIVEN], learned)
        tables["scores"] = publish_table(
            self.ws, self.run_id, "scores", key, table, producer="prune", parents=(subsets,)
        )
        self.attempt.publish_result(result_record(self.problem, self.run_id, tables, facts))
        report = self.report()
        self._artifacts(facts, summary, report)
        return {
            "run_id": self.run_id, "attempt": self.attempt.number, "workspace": self.ws.address,
            "report": str(self.ws.root / report), "facts": facts, "summary": summary, "findings": claims,
            "detection": detection, "costs": self.attempt.costs(),
        }  # fmt: skip

    def _tables(self, views: dict[str, list[dict[str, Any]]], subsets: str) -> dict[str, str]:
        """Publish the rows of every view that has some."""
        parents = (subsets, *self.problem.parents)
        found = {}
        for view, rows in views.items():
            if rows:
                filled = [{"run_id": self.run_id, **row} for row in rows]
                key = digest([view, self.run_id, self.attempt.number])
                found[view] = self.publish_rows(view, key, filled, producer="prune", parents=parents)
        return found

    def _subset(
        self,
        scored: dict[LabelSet, Scored],
        advice: Recommendation,
        views: dict[str, list[dict[str, Any]]],
        parent: str,
    ) -> dict[str, Any]:
        """Write the chosen rows, if any; returns their facts."""
        point = chosen_point(self.problem, advice)
        if point is None:
            return {"subset_rows": 0}
        kept = kept_of(self.problem, point, scored)
        views["selection"] = selection_rows(self.problem, point, kept, scored[GIVEN])
        key = digest(["kept", self.run_id, self.problem.train.example_ids[kept.index].tolist()])
        path = write_kept(self.problem, self.run_id, kept, key, (parent,))
        return {"subset": path, "subset_rows": len(kept.index), "subset_by": "config" if self.config.subset
                else "recommendation"}  # fmt: skip

    def _artifacts(self, facts: dict[str, Any], summary: list[dict[str, Any]], report: str) -> None:
        told = facts["recommendation"].replace("`", "'")
        text = f"**{facts['recommendation_verdict']}**\n\n```\n{told}\n```\n\nReport: {report}"
        create_markdown_artifact(text, key=f"recommendation-{self.run_id}", description="What to keep")
        names = ("study", "noise", "score", "variant", "sampling", "pruned_end", "pruned", "accuracy",
                 "change", "gain", "verdict")  # fmt: skip
        shown = [
            {k: round(v, 4) if isinstance(v := row[k], float) else v for k in names} for row in summary[:400]
        ]
        more = f", the first {len(shown)} of {len(summary)} subsets" if len(summary) > len(shown) else ""
        create_table_artifact(shown, key=f"pruning-{self.run_id}", description=f"Means over seeds{more}")
