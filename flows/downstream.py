"""After selection: fine-tune on the subset and its rivals, evaluate on held-out rows, compare."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pyarrow.parquet as pq

from flows.stages import Stages
from nncift_core.execution.pool import close_pools
from nncift_core.finetune import settings, student_key
from nncift_core.hashing import digest
from nncift_core.pipeline.downstream import (
    Cell,
    base_cell,
    cells,
    is_trained,
    training_card,
)
from nncift_core.pipeline.evaluate import (
    HeldOutRows,
    comparison_table,
    evaluation_rows_table,
    evaluation_table,
    is_evaluated,
    overlap,
    read_scores,
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
        """Train, evaluate, compare; without held-out rows only the subset's model is trained."""
        close_pools()
        subsets = self._draw(selection)
        found = cells(self.problem, pq.read_table(self.ws.root / subsets))
        self._fine_tune(found, subsets)
        outcome = Outcome(tables={"subsets": subsets}, facts=self._facts(found))
        if not self.config.target.test:
            say("evaluate: skipped, no rows are held out; name some in target.test to compare with random")
            return outcome
        if "base" in self.config.evaluation.subsets:
            found = [base_cell(self.config), *found]
        self._evaluate(found, subsets)
        self._compare(found, outcome)
        return outcome

    def _draw(self, selection: str) -> str:
        e = self.config.evaluation
        drawn = [e.subsets, self.config.training_seeds(), bool(self.config.target.test)]
        template = settings(self.config).template
        key = digest(["subsets", 1, selection, drawn, student_key(self.config), template])
        path, _ = cached(self.job, tasks.draw, key, lambda v: intact(self.ws, v), self.run_id, selection)
        return str(path)

    def _fine_tune(self, found: list[Cell], subsets: str) -> None:
        epochs = settings(self.config).epochs
        distinct = list({c.key: c for c in found}.values())
        missing = [c for c in distinct if not is_trained(self.ws, c.key)]
        total, left = (sum(len(c.rows) for c in some) * epochs for some in (distinct, missing))
        with self.stage("fine-tune", total, left, "training rows") as done:
            done.add(run_shards(self.job, shards.fine_tune, _named(missing), {"subsets": subsets}))

    def _evaluate(self, found: list[Cell], subsets: str) -> None:
        distinct = list({c.key: c for c in found}.values())
        missing = [c for c in distinct if not is_evaluated(self.problem, c)]
        rows = len(set(HeldOutRows.of(self.problem).content_ids.tolist())) * len(
            self.config.evaluation.metrics
        )
        with self.stage("evaluate", rows * len(distinct), rows * len(missing), "row scores") as done:
            done.add(run_shards(self.job, shards.evaluate, _named(missing), {"subsets": subsets}))

    def _facts(self, found: list[Cell]) -> dict[str, Any]:
        """Where the subset's adapter lies, and what training had to cut."""
        ours = next(c for c in found if c.subset == "selected")
        cards = [training_card(self.ws, key) for key in {c.key for c in found}]
        return {
            "adapter": self.ws.relative(self.ws.adapter_dir(ours.key)),
            "truncated_training_rows": sum(c["truncated"] for c in cards),
        }

    def _compare(self, found: list[Cell], outcome: Outcome) -> None:
        scored = [read_scores(self.problem, c) for c in found]
        paths = tuple(s.path for s in scored)
        key = digest(["comparison", 1, [c.key for c in found], paths])
        for view, make in (
            ("evaluation", evaluation_table),
            ("evaluation_rows", evaluation_rows_table),
            ("comparison", comparison_table),
        ):
            rows = make(self.problem, self.run_id, scored)
            outcome.tables[view] = self.publish_rows(view, key, rows, producer="evaluate", parents=paths)
            if view == "comparison":
                outcome.comparison = rows
        outcome.facts |= {**overlap(self.problem), **sum_counts(self.ws.root, paths)}


def _named(found: list[Cell]) -> list[dict[str, Any]]:
    """Cells as shards."""
    return [{"name": c.name, "key": c.key} for c in found]
