"""The stages of a valuation in order, from embeddings to the report."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pyarrow.parquet as pq

from flows import artifacts
from flows.downstream import Downstream
from flows.estimation import Estimation, EstimationStages
from flows.exact_stages import ExactStages
from nncift_core.execution.job import Job
from nncift_core.hashing import digest
from nncift_core.pipeline.assess import estimation_rows
from nncift_core.pipeline.choose import read_choice
from nncift_core.pipeline.exact import ExactPlan
from nncift_core.pipeline.refine import moved, plan_refine
from nncift_core.pipeline.result import result_record, run_facts
from nncift_core.store.files import read_manifest
from nncift_core.store.references import EstimatorRef
from nncift_core.store.runs import Attempt, intact, read_result
from tasks import shards, stages
from tasks.caching import cached
from tasks.progress import say


class Valuation(ExactStages):
    """The stages after ingest, in order; each records its cost as soon as it is over."""

    def __init__(self, job: Job, attempt: Attempt, command: str) -> None:
        super().__init__(job, attempt)
        self.command = command
        self.comparison: list[dict[str, Any]] = []
        self.refinement: list[dict[str, Any]] = []

    def run(self) -> dict[str, Any]:
        """All stages; returns the fields of `ValuationResult`."""
        # Before the embeddings, for wrong settings of a training show here.
        self.prepare()
        self.embed()
        plan, estimation = self.estimated(self.exact())
        chosen = self._select(estimation.used)
        if self.config.influence.refine_pairs and estimation.used is not None:
            chosen = self._refine(plan, estimation.used, chosen)
        record = self._publish(plan, estimation, chosen)
        if self.config.finetune is not None:
            downstream = Downstream(self.job, self.attempt).run(record["tables"]["selection"])
            record["tables"] |= downstream.tables
            record["facts"] |= downstream.facts
            self.comparison = downstream.comparison
            self.attempt.publish_result(record)
        return self._result(record, estimation, self.report())

    def estimated(self, plan: ExactPlan) -> tuple[ExactPlan, Estimation]:
        """What fills the pairs that are not exact, and the plan as it is afterwards."""
        if self.problem.all_exact:
            return plan, Estimation()
        self.estimator_features()
        estimation = EstimationStages(self.job, self.attempt)
        return plan, estimation.fill(plan, *estimation.fit(plan), self.unit)

    def more_tables(self, tables: dict[str, str]) -> dict[str, str]:
        """Tables of the result beside `tables`, for views of a kind of valuation."""
        return {}

    def more_facts(self, chosen: dict[str, Any]) -> dict[str, Any]:
        """Facts of a kind of valuation; chosen: as the task `select` gives it."""
        return {}

    def _select(self, ref: EstimatorRef | None) -> dict[str, Any]:
        run_id = self.attempt.run_id
        exact = self.problem.exact_store.files(self.problem.rows)
        key = digest(["select", 4, run_id, ref.key if ref else None, exact])
        start = time.monotonic()

        def there(value: dict[str, Any]) -> bool:
            subset = read_manifest(self.ws.root / value["subset"])
            files = [*value["tables"].values(), value["subset"]]
            return subset is not None and subset.key == key and all(intact(self.ws, f) for f in files)

        reference = ref.model_dump(mode="json") if ref else None
        streamed = ref is not None and self.config.shards.store_matrix != "all"
        pairs = len(self.problem.rows) * len(self.problem.columns)
        with self.shown("select", pairs, self.unit) if streamed else nullcontext():
            chosen, fresh = cached(self.job, stages.select, key, there, run_id, reference)
        rows, seconds = len(self.problem.pool.content_ids), time.monotonic() - start
        self.cost("select", "cpu", rows, rows if fresh else 0, seconds)
        facts = chosen["facts"]
        say(f"select: {facts['budget']:,} of {rows:,} rows by {facts['rule']} in {seconds:.1f} s")
        result: dict[str, Any] = chosen
        return result

    def _refine(self, plan: ExactPlan, ref: EstimatorRef, chosen: dict[str, Any]) -> dict[str, Any]:
        """Buy exact values for rows near the edge of the subset, until it is stable or the budget spent."""
        left, rounds = self.config.influence.refine_pairs, self.config.influence.refine_rounds
        self.refinement = self._refined_before()
        if self.refinement:
            # The budget is the run's: an attempt after a finished one has nothing left to buy.
            return chosen
        for number in range(1, rounds + 1):
            scores, order, known = read_choice(self.problem, chosen["tables"])
            found = plan_refine(self.problem, plan, scores, order, known, left)
            missing = sum(s.missing for s in found)
            if not missing:
                break
            extra = replace(plan, shards=found)
            self.features(extra)
            self.shards("refine-exact", shards.exact_influence, found, (missing, missing, self.unit))
            self.problem.exact_store.refresh()
            left -= missing
            chosen = self._select(ref)
            change = moved(order, read_choice(self.problem, chosen["tables"])[1])
            self.refinement.append(
                {
                    "run_id": self.run_id, "round": number, "exact_pairs": missing,
                    "entered": change["entered"], "left_subset": change["left"], "jaccard": change["jaccard"],
                }
            )  # fmt: skip
            say(f"refine-exact: round {number}: {change['entered']:,} rows entered the subset")
            if not change["entered"] or left <= 0:
                break
        return chosen

    def _refined_before(self) -> list[dict[str, Any]]:
        """Rounds of refinement that an earlier attempt of this run has published."""
        before = read_result(self.ws, self.run_id)
        path = before["tables"].get("refinement") if before else None
        if path is None or not intact(self.ws, path):
            return []
        rows: list[dict[str, Any]] = pq.read_table(self.ws.root / path).to_pylist()
        return rows

    def _publish(self, plan: ExactPlan, estimation: Estimation, chosen: dict[str, Any]) -> dict[str, Any]:
        """Make subset and values visible now: whatever fails later, they stay."""
        ref = estimation.used
        parents = (ref.path,) if ref else ()
        tables = dict(chosen["tables"])
        found = estimation_rows(self.problem, self.run_id, estimation.fitted, estimation.check)
        for view, rows in {**found, "refinement": self.refinement}.items():
            key = digest([self.run_id, view, rows])
            tables[view] = self.publish_rows(view, key, rows, producer="assess-estimator", parents=parents)
        tables |= self.more_tables(tables)
        bought = sum(r["exact_pairs"] for r in self.refinement)
        used = chosen["facts"]["exact_pairs_used"]
        facts = {**chosen["facts"], **run_facts(self.problem, plan, used, refined_pairs=bought)}
        facts |= {"subset": chosen["subset"], **self.state_facts, **estimation.facts()}
        facts |= {"refined_pairs": bought, **self.more_facts(chosen)}
        facts |= {"command": self.command} if self.command else {}
        record = result_record(self.problem, self.run_id, plan, ref, tables, facts)
        self.attempt.publish_result(self._with_earlier_comparison(record))
        return record

    def _with_earlier_comparison(self, record: dict[str, Any]) -> dict[str, Any]:
        """`record` with what an earlier attempt compared for the same subset, until this one has done so."""
        before = read_result(self.ws, self.run_id)
        if before is None or before["tables"].get("selection") != record["tables"]["selection"]:
            return record
        merged = {name: {**before[name], **record[name]} for name in ("tables", "facts")}
        return {**record, **merged}

    def _result(self, record: dict[str, Any], estimation: Estimation, report: str) -> dict[str, Any]:
        """The fields of `ValuationResult`."""
        facts, costs = record["facts"], self.attempt.costs()
        quality = estimation.quality
        artifacts.publish(self.problem, self.attempt, record, quality, self.comparison, costs)
        adapter = facts.get("adapter")
        return {
            "run_id": self.run_id,
            "attempt": self.attempt.number,
            "workspace": self.ws.address,
            "subset": str(self.ws.root / facts["subset"]),
            "report": str(self.ws.root / report),
            "adapter": str(self.ws.root / adapter) if adapter else None,
            "selected": facts["budget"],
            "pool_rows": len(self.problem.pool.content_ids),
            "target_rows": len(self.problem.target_contents),
            "quality": quality,
            "comparison": self.comparison,
            "costs": costs,
            "facts": facts,
        }
