"""The stages of a comparison: every method up to its subset, then models on all subsets, then the table."""

from __future__ import annotations

from typing import Any

import pyarrow.parquet as pq
from prefect.artifacts import create_table_artifact

from flows.downstream import Downstream
from flows.method_stages import MethodStages, Valued, described
from flows.stages import Stages
from nncift_core.errors import NnciftError, RunError
from nncift_core.execution.job import Job
from nncift_core.execution.pool import close_pools
from nncift_core.finetune import settings, student_key
from nncift_core.hashing import digest
from nncift_core.pipeline.compare import (
    against_rows,
    check_compare,
    compared_config,
    kept_note,
    scored_rows,
    selections_table,
    summary_rows,
)
from nncift_core.pipeline.compare_costs import cost_rows, method_rows, same_prices
from nncift_core.pipeline.downstream import cells, is_trained
from nncift_core.pipeline.evaluate import (
    Scored,
    Trial,
    check_evaluation,
    evaluation_rows_table,
    is_evaluated,
    judge_facts,
    overlap,
    read_scores,
    trials,
)
from nncift_core.pipeline.result import record_without_matrix
from nncift_core.store.files import sum_counts
from nncift_core.store.runs import Attempt, intact, publish_table, read_attempts, read_costs
from tasks import compare as tasks
from tasks.caching import cached
from tasks.progress import say


class Compare(Stages):
    """A comparison; job: of the config as it stands, whose student every subset trains.

    A method or a model that fails lets the others go on: the table of what is finished is published before
    the failure is told.
    """

    def __init__(self, job: Job, attempt: Attempt, command: str) -> None:
        super().__init__(job, attempt)
        self.command = command
        self.methods = check_compare(self.config)
        self.failed: dict[str, str] = {}
        self.about: list[dict[str, Any]] = []

    def run(self) -> dict[str, Any]:
        """All stages; returns the fields of `CompareResult`."""
        check_evaluation(self.problem)
        selections = self._select_all()
        subsets = self._draw(selections)
        close_pools()
        scored = self._train_and_evaluate(subsets)
        result = self._publish(selections, subsets, scored)
        if self.failed:
            told = "; ".join(f"{name}: {reason}" for name, reason in self.failed.items())
            raise RunError(
                f"{len(self.failed)} parts of the comparison failed ({told}). The table of all others is "
                f"published (run {self.run_id}); complete it with: {self.again}"
            )
        return result

    def _select_all(self) -> dict[str, str]:
        """Paths of the selections of all methods that worked, by name."""
        found: dict[str, str] = {}
        # Estimates first: what their labels cost is then measured, not found in the exact values.
        for method in sorted(self.methods, key=lambda m: m.values != "estimated"):
            try:
                valued = MethodStages(self.job, self.attempt, method).value()
                found[method.name] = self._select(valued)
            except NnciftError as e:
                self.failed[method.name] = str(e)
                say(f"{method.name}: failed; the other methods go on ({e})")
                if len(self.failed) == len(self.methods):
                    raise
        return {m.name: found[m.name] for m in self.methods if m.name in found}

    def _select(self, valued: Valued) -> str:
        name, ref = valued.method.name, valued.ref
        exact = valued.problem.exact_store.files(valued.problem.rows)
        known = [valued.plan.design.ref.key] if ref else exact
        config = valued.job.config.selection.model_dump(mode="json")
        key = digest(["select-method", 1, self.run_id, name, ref.key if ref else None, known, config])
        stages = MethodStages(self.job, self.attempt, valued.method)
        pairs = len(valued.problem.rows) * len(valued.problem.columns)

        def there(value: dict[str, Any]) -> bool:
            return intact(self.ws, value["selection"])

        with stages.stage("select", pairs, pairs, stages.unit) as done:
            reference = ref.model_dump(mode="json") if ref else None
            chosen, fresh = cached(valued.job, tasks.select_method, key, there, self.run_id, name, reference)
            done.computed = pairs if fresh else 0
        facts = {k: chosen["facts"].get(k) for k in ("budget", "objective", "positive_gain", "tied_steps")}
        self.about.append({**described(valued), **facts})
        return str(chosen["selection"])

    def _draw(self, selections: dict[str, str]) -> str:
        c = self.config
        drawn = [sorted(c.compare.rivals), c.training_seeds(), settings(c).template, student_key(c)]
        key = digest(["compared-subsets", 1, selections, drawn])
        path, _ = cached(
            self.job, tasks.draw_methods, key, lambda v: intact(self.ws, v), self.run_id, selections
        )
        return str(path)

    def _train_and_evaluate(self, subsets: str) -> list[Scored]:
        """Scores of every model that could be trained and asked."""
        downstream = Downstream(self.job, self.attempt)
        downstream.command = self.command
        found = cells(self.problem, pq.read_table(self.ws.root / subsets))
        if self.config.evaluation.trains:
            try:
                downstream.fine_tune(found, subsets)
            except NnciftError as e:
                self.failed["fine-tune"] = str(e)
        wanted = trials(compared_config(self.config), found)
        ready = [t for t in wanted if self._ready(t)]
        try:
            downstream.evaluate(ready, subsets)
        except NnciftError as e:
            self.failed["evaluate"] = str(e)
        return [read_scores(self.problem, t) for t in ready if is_evaluated(self.problem, t)]

    def _ready(self, trial: Trial) -> bool:
        return trial.mode != "finetune" or is_trained(self.ws, trial.cell.key)

    def _publish(self, selections: dict[str, str], subsets: str, scored: list[Scored]) -> dict[str, Any]:
        """Make the table visible, write its page, and gather what terminal and UI show."""
        now = self.config.model_dump(mode="json")
        alike = {a["run_id"] for a in read_attempts(self.ws) if same_prices(a["config"], now)}
        costs = cost_rows(read_costs(self.ws), self.methods, self.run_id, alike)
        learned = {row["method"] for row in self.about if row["predictor"] is not None}
        summary = summary_rows(self.problem, self.run_id, scored, self.methods, learned)
        views: dict[str, Any] = {
            "compare_summary": summary,
            "evaluation": scored_rows(self.problem, self.run_id, scored, self.methods),
            "evaluation_rows": evaluation_rows_table(self.problem, self.run_id, scored),
            "comparison": against_rows(self.problem, self.run_id, scored, self.methods),
            "method_costs": [{"run_id": self.run_id, **row} for row in costs],
            "methods": [{"run_id": self.run_id, **row} for row in self._methods(costs)],
        }
        paths = tuple(dict.fromkeys(p for s in scored for p in s.paths))
        tables = {"subsets": subsets, "method_selection": self._selections(list(selections.values()))}
        for view, rows in views.items():
            key = digest([view, self.run_id, self.attempt.number])
            tables[view] = self.publish_rows(view, key, rows, producer="compare", parents=(subsets, *paths))
        facts = {**self._facts(scored, paths), "kept_note": kept_note(summary, self.methods)}
        datasets = self.problem.datasets
        record = record_without_matrix(self.ws, datasets, self.run_id, "compare", tables, facts)
        self.attempt.publish_result(record)
        report = self.report()
        self._artifact(views["compare_summary"])
        return {
            "run_id": self.run_id, "attempt": self.attempt.number, "workspace": self.ws.address,
            "report": str(self.ws.root / report), "facts": facts, "methods": views["methods"],
            "summary": views["compare_summary"], "method_costs": views["method_costs"],
            "costs": self.attempt.costs(),
        }  # fmt: skip

    def _selections(self, paths: list[str]) -> str:
        key = digest(["method-selections", paths])
        table = selections_table(self.problem, paths)
        return publish_table(
            self.ws, self.run_id, "method_selection", key, table, producer="compare", parents=tuple(paths)
        )

    def _methods(self, costs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        pool = len(self.problem.pool.content_ids)
        return method_rows(self.methods, self.about, costs, self.failed, pool)

    def _facts(self, scored: list[Scored], paths: tuple[str, ...]) -> dict[str, Any]:
        pool = len(self.problem.pool.content_ids)
        return {
            "pool_rows": pool,
            "selected_rows": self.config.selection.budget(pool),
            "target_rows": len(self.problem.target_contents),
            "methods": len(self.methods),
            "models": len({s.trial.cell.key for s in scored if s.trial.mode == "finetune"}),
            "seeds": len(self.config.training_seeds()),
            "epochs": settings(self.config).passes,
            "failed_parts": len(self.failed),
            "failed": "; ".join(f"{name}: {reason}" for name, reason in self.failed.items()),
            "command": self.command,
            **overlap(self.problem),
            **sum_counts(self.ws.root, paths),
            **judge_facts(self.problem, paths),
        }

    def _artifact(self, summary: list[dict[str, Any]]) -> None:
        names = ("method", "mode", "metric", "value", "gain", "gain_lower", "gain_upper", "verdict", "kept")
        pooled = [r for r in summary if r["task"] == "all"]
        shown = [
            {k: round(v, 4) if isinstance(v := r[k], float) else "n/a" if v is None else v for k in names}
            for r in pooled[:400]
        ]
        if shown:
            create_table_artifact(
                shown,
                key=f"compare-{self.run_id}",
                description="Models of every method and rival on held-out rows; gain: over random rows",
            )
