"""After selection: fine-tune on the subset and its rivals, evaluate on held-out rows, compare."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pyarrow.parquet as pq

from flows.stages import Stages
from nncift_core.execution.pool import close_pools
from nncift_core.finetune import settings, student_key
from nncift_core.hashing import digest
from nncift_core.pipeline.downstream import Cell, cells, is_trained, masks_table, training_card
from nncift_core.pipeline.evaluate import (
    Trial,
    check_evaluation,
    comparison_table,
    count_scores,
    evaluation_key,
    evaluation_rows_table,
    evaluation_table,
    is_complete,
    judge_facts,
    overlap,
    read_scores,
    score_files,
    trials,
)
from nncift_core.store.files import sum_counts
from nncift_core.store.runs import intact
from tasks import downstream as tasks
from tasks import shards
from tasks.caching import cached
from tasks.progress import say
from tasks.running import run_shards


@dataclass
class Outcome:
    """What a comparison adds to a run's result."""

    tables: dict[str, str] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    comparison: list[dict[str, Any]] = field(default_factory=list)


class Downstream(Stages):
    """The stages after selection; models that the workspace holds are reused, whichever run made them."""

    def run(self, selection: str) -> Outcome:
        """Train, evaluate, compare; without held-out rows only the subset's model is trained.

        Nothing is trained where evaluation asks for examples in context alone.
        """
        close_pools()
        compared = bool(self.config.target.test)
        if compared:
            check_evaluation(self.problem)
        subsets = self._draw(selection)
        found = cells(self.problem, pq.read_table(self.ws.root / subsets))
        outcome = Outcome(tables={"subsets": subsets})
        if self.config.evaluation.trains or not compared:
            self.fine_tune(found, subsets)
            outcome.facts = self._facts(found)
            outcome.tables["training_masks"] = self.masks(found, subsets)
        if not compared:
            say("evaluate: skipped, no rows are held out; name some in target.test to compare with random")
            return outcome
        wanted = trials(self.config, found)
        self.evaluate(wanted, subsets)
        self._compare(wanted, outcome)
        return outcome

    def _draw(self, selection: str) -> str:
        e = self.config.evaluation
        drawn = [e.subsets, self.config.training_seeds(), bool(self.config.target.test)]
        template = settings(self.config).template
        key = digest(["subsets", 1, selection, drawn, student_key(self.config), template])
        path, _ = cached(self.job, tasks.draw, key, lambda v: intact(self.ws, v), self.run_id, selection)
        return str(path)

    def fine_tune(self, found: list[Cell], subsets: str) -> None:
        """Train the models of `found` that are missing; subsets: path of the table that calls for them."""
        passes = settings(self.config).passes
        distinct = list({c.key: c for c in found}.values())
        missing = [c for c in distinct if not is_trained(self.ws, c.key)]
        total, left = (sum(len(c.rows) for c in some) * passes for some in (distinct, missing))
        named = [{"name": c.name, "key": c.key} for c in missing]
        with self.stage("fine-tune", total, left, "training rows") as done:
            done.add(run_shards(self.job, shards.fine_tune, named, {"subsets": subsets}))

    def masks(self, found: list[Cell], subsets: str) -> str:
        """Publish what of the first training rows is learned; returns the table's path."""
        rows = masks_table(self.problem, self.run_id, found)
        key = digest(["training-masks", self.run_id, [c.key for c in found]])
        return self.publish_rows("training_masks", key, rows, producer="fine-tune", parents=(subsets,))

    def evaluate(self, wanted: list[Trial], subsets: str) -> None:
        """Score what is missing of the trials `wanted`, equal ones once; tell what a judge left ungraded."""
        distinct = list({evaluation_key(self.problem, t): t for t in wanted}.values())
        missing = [t for t in distinct if not is_complete(self.problem, t)]
        counts = [count_scores(self.problem, t) for t in distinct]
        total, left = sum(n for n, _ in counts), sum(n for _, n in counts)
        named = [{"name": t.name, "key": evaluation_key(self.problem, t)} for t in missing]
        with self.stage("evaluate", total, left, "row scores") as done:
            done.add(run_shards(self.job, shards.evaluate, named, {"subsets": subsets}))
        _tell_of_judge(judge_facts(self.problem, [p for t in distinct for p in score_files(self.problem, t)]))

    def _facts(self, found: list[Cell]) -> dict[str, Any]:
        """Where the subset's adapter lies, and what training had to cut."""
        ours = next(c for c in found if c.subset == "selected")
        cards = [training_card(self.ws, key) for key in {c.key for c in found}]
        return {
            "adapter": self.ws.relative(self.ws.adapter_dir(ours.key)),
            "truncated_training_rows": sum(c["truncated"] for c in cards),
        }

    def _compare(self, wanted: list[Trial], outcome: Outcome) -> None:
        scored = [read_scores(self.problem, t) for t in wanted]
        paths = tuple(dict.fromkeys(p for s in scored for p in s.paths))
        asked = [[t.cell.subset, t.cell.seed, t.mode] for t in wanted]
        key = digest(["comparison", 2, asked, [evaluation_key(self.problem, t) for t in wanted], paths])
        for view, make in (
            ("evaluation", evaluation_table),
            ("evaluation_rows", evaluation_rows_table),
            ("comparison", comparison_table),
        ):
            rows = make(self.problem, self.run_id, scored)
            outcome.tables[view] = self.publish_rows(view, key, rows, producer="evaluate", parents=paths)
            if view == "comparison":
                outcome.comparison = rows
        counted = sum_counts(self.ws.root, paths)
        outcome.facts |= {**overlap(self.problem), **counted, **judge_facts(self.problem, paths)}


def _tell_of_judge(facts: dict[str, Any]) -> None:
    """Say how many answers a judge left without a grade."""
    lost = facts.get("judge_failed", 0) + facts.get("judge_malformed", 0)
    if lost:
        say(
            f"judge: {lost:,} of {facts['judge_answers']:,} answers have no grade, most often: "
            f"{facts['judge_failure']}; means are over the others. Run again to ask for those that failed"
        )
