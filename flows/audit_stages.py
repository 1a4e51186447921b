"""The stages of an audit: values of every method, models on subsets, losses of the queries, the measures."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
from prefect.artifacts import create_table_artifact

from flows.audit_failures import Failures
from flows.downstream import Downstream
from flows.method_stages import MethodStages, Valued
from flows.stages import Stages
from nncift_core.errors import RunError
from nncift_core.execution.job import Job
from nncift_core.execution.pool import close_pools
from nncift_core.hashing import digest
from nncift_core.pipeline.attribution import (
    RANDOM,
    Trained,
    about,
    audit_methods,
    bank,
    controls,
    queries,
    subsets_table,
    training_seeds,
    without_top,
)
from nncift_core.pipeline.attribution_data import Planted, draw_queries, plant
from nncift_core.pipeline.attribution_losses import has_losses, read_losses
from nncift_core.pipeline.attribution_measures import (
    Measures,
    dense_values,
    first_targets,
    loss_facts,
    model_rows,
    of_planted,
    random_values,
    subjects,
)
from nncift_core.pipeline.downstream import Cell, base_cell, cells, is_trained
from nncift_core.pipeline.result import record_without_matrix
from nncift_core.pipeline.state import state_list
from nncift_core.store.datasets import Dataset
from nncift_core.store.files import sum_counts
from nncift_core.store.references import DatasetRef
from nncift_core.store.runs import Attempt, publish_table
from tasks.attribution import query_losses
from tasks.progress import say
from tasks.running import run_shards

Rows = list[dict[str, Any]]
Float32 = npt.NDArray[np.float32]


class Audit(Stages):
    """An audit; job: under `audit_config`.

    A method or a model that fails lets the others go on: what is measured is published before the failure
    is told.
    """

    def __init__(self, job: Job, attempt: Attempt, command: str, *, default_finetune: bool) -> None:
        super().__init__(job, attempt)
        self.command, self.default_finetune = command, default_finetune
        self.failed = Failures()
        self.made_from: list[str] = []
        self.replaced: list[Dataset] = []
        self.planted: list[Dataset] = []
        self.agreement: float | None = None

    def run(self) -> dict[str, Any]:
        """All stages; returns the fields of `AuditResult`."""
        self._draw_queries()
        values = self._values(self.job)
        self.failed.check(works=bool(values.keys() - {RANDOM}), anything=bool(values))
        planted = self._plant() if self.config.audit.planting else None
        of_planted_rows = self._planted_values(planted) if planted else []
        close_pools()
        sets, subsets, found = self._models(values)
        measured = self._losses(found, subsets)
        sets = self._whole(sets, measured)
        rows = self._measure(sets, measured, values) + of_planted_rows
        result = self._publish(rows, sets, measured, subsets, planted)
        if self.failed.parts:
            raise RunError(
                f"{len(self.failed.parts)} parts of the audit failed ({self.failed.told()}). The measures of "
                f"all others are published (run {self.run_id}); complete them with: {self.again}"
            )
        return result

    def _draw_queries(self) -> None:
        """From here on the job's targets are the queries."""
        refs = draw_queries(self.ws, self.config, self.problem.targets)
        self._replace("target", refs)
        say(f"queries: {len(queries(self.problem)):,} target rows")

    def _replace(self, role: str, refs: list[DatasetRef]) -> None:
        self.replaced += [d for d in self.problem.of_role(role) if d.ref not in refs]
        self.job = _with(self.job, role, refs)
        self.problem = self.job.problem()

    def _values(self, job: Job) -> dict[str, Float32]:
        """Values [M, Q] of the pool of `job` by every method that works, by its name."""
        problem, found = job.problem(), dict[str, Float32]()
        wanted = queries(problem)
        # Estimates first: what their labels cost is then measured, not found in the exact values.
        for method in sorted(audit_methods(self.config), key=lambda m: m.values != "estimated"):
            if method.name in self.failed.parts:
                continue
            with self.failed.noted(method.name, "the other methods go on"):
                valued = MethodStages(job, self.attempt, method).value()
                found[method.name] = dense_values(valued.problem, valued.ref, wanted)
                self._note(valued)
        if RANDOM in self.config.audit.baselines:
            found[RANDOM] = random_values(problem.pool.contents, wanted, self.config.seed)
        return found

    def _note(self, valued: Valued) -> None:
        """What a result's tables were made from, so that it stays with them."""
        ref = valued.ref
        self.made_from += [*state_list(valued.problem), *([ref.path] if ref else [])]

    def _plant(self) -> Planted:
        with self.stage("plant", 1, 1, "data set"):
            planted = plant(self.ws, self.config, self.problem.pool, self.problem.targets)
        if "duplicates" in self.config.audit.tests and planted.shared:
            say(f"duplicates: {planted.shared:,} queries stand in the pool already and were not copied")
        return planted

    def _planted_values(self, planted: Planted) -> Rows:
        """Measures of finding what was planted, for every method."""
        job = _with(self.job, "pool", [planted.ref])
        values, problem = self._values(job), job.problem()
        contents, wanted = problem.pool.contents, queries(problem)
        # The pool itself is stored beside it: what counts rows of the pool must not count them twice.
        ref = problem.pool.ref.model_copy(update={"role": "planted"})
        self.planted = [Dataset(self.ws, ref)]
        found: Rows = []
        for s in subjects(self.config):
            if s.method in values:
                found += of_planted(s, values[s.method], contents, wanted, planted)
        return found

    def _models(self, values: dict[str, Float32]) -> tuple[list[Trained], str, list[Cell]]:
        """Train what is missing of the bank, the random removals and those of every method."""
        sets = [*bank(self.problem), *controls(self.problem)]
        for s in subjects(self.config):
            if s.method in values:
                sets += without_top(self.problem, s.method, values[s.method])
        table = subsets_table(self.problem, self.run_id, sets)
        members = [[s.name, sha256(s.rows.tobytes()).hexdigest()] for s in sets]
        key = digest(["audit-subsets", self.run_id, members])
        subsets = publish_table(
            self.ws, self.run_id, "subsets", key, table, producer="audit",
            parents=(self.problem.pool.ref.path,),
        )  # fmt: skip
        found = cells(self.problem, pq.read_table(self.ws.root / subsets))
        downstream = Downstream(self.job, self.attempt)
        downstream.command = self.command
        if found:
            keys = {c.key for c in found}
            kept = sum(is_trained(self.ws, key) for key in keys)
            say(f"models: {len(keys):,} in all, {kept:,} of them kept from before")

            def trained() -> bool:
                return any(is_trained(self.ws, key) for key in keys)

            with self.failed.noted("fine-tune", "what is trained is measured", left=trained):
                downstream.fine_tune(found, subsets)
        return sets, subsets, found

    def _losses(self, found: list[Cell], subsets: str) -> list[Cell]:
        """Measure the missing losses of every model that is there and of the untrained one; returns those
        that have them, the untrained one first."""
        if not found:
            return []
        trained = [c for c in found if is_trained(self.ws, c.key)]
        ready = [base_cell(self.config), *trained]
        wanted = {c.key: c for c in ready}.values()
        missing = [c for c in wanted if not has_losses(self.problem, c)]
        n = len(queries(self.problem))
        named = [{"name": c.name, "key": c.key} for c in missing]

        def measured() -> list[Cell]:
            return [c for c in ready if has_losses(self.problem, c)]

        with (
            self.failed.noted("query-losses", "the others count", left=lambda: bool(measured())),
            self.stage("query-losses", n * len(wanted), n * len(missing), "losses") as done,
        ):
            done.add(run_shards(self.job, query_losses, named, {"subsets": subsets}))
        return measured()

    def _whole(self, sets: list[Trained], measured: Sequence[Cell]) -> list[Trained]:
        """The sets whose models of all seeds are `measured`; notes the others."""
        there = {(c.subset, c.seed) for c in measured}
        seeds = training_seeds(self.config)
        whole = [s for s in sets if all((s.name, seed) in there for seed in seeds)]
        kept = {s.name for s in whole}
        self.failed.unmeasured = [s.name for s in sets if s.name not in kept]
        return whole

    def _measure(self, sets: list[Trained], measured: list[Cell], values: dict[str, Float32]) -> Rows:
        measures, rows = Measures(self.problem, measured, sets), Rows()
        for s in subjects(self.config):
            if s.method in values:
                rows += measures.of_bank(s, values[s.method]) + measures.of_removals(s)
        self.agreement = measures.agreement()
        return rows

    def _publish(
        self, rows: Rows, sets: list[Trained], measured: list[Cell], subsets: str, planted: Planted | None
    ) -> dict[str, Any]:
        """Make the result visible, write its page, and gather what terminal and UI show."""
        models, losses = model_rows(self.problem, measured, sets, first_targets(self.problem))
        lost = tuple(dict.fromkeys(read_losses(self.problem, c).path for c in measured))
        views = {"attribution": rows, "attribution_models": models, "attribution_losses": losses}
        parents = tuple(dict.fromkeys([subsets, *lost, *self.made_from]))
        tables = {"subsets": subsets}
        for view, lines in views.items():
            filled = [{"run_id": self.run_id, **line} for line in lines]
            key = digest([view, self.run_id, self.attempt.number])
            tables[view] = self.publish_rows(view, key, filled, producer="audit", parents=parents)
        facts = self._facts(models, lost, planted)
        datasets = [*self.problem.datasets, *self.replaced, *self.planted]
        record = record_without_matrix(self.ws, datasets, self.run_id, "audit", tables, facts)
        self.attempt.publish_result(record)
        report = self.report()
        self._artifact(rows)
        return {
            "run_id": self.run_id, "attempt": self.attempt.number, "workspace": self.ws.address,
            "report": str(self.ws.root / report), "facts": facts, "measures": rows,
            "costs": self.attempt.costs(),
        }  # fmt: skip

    def _facts(self, models: Rows, lost: tuple[str, ...], planted: Planted | None) -> dict[str, Any]:
        return {
            "pool_rows": len(self.problem.pool.example_ids),
            "queries": len(queries(self.problem)),
            **loss_facts(models),
            **about(self.config),
            "default_finetune": self.default_finetune,
            "seed_agreement": self.agreement,
            "planted_wrong": len(planted.wrong) if planted else 0,
            "planted_copies": len(planted.copies) if planted else 0,
            "queries_in_pool": planted.shared if planted else 0,
            "failed": self.failed.told(),
            "command": self.command,
            **sum_counts(self.ws.root, lost),
        }

    def _artifact(self, rows: Rows) -> None:
        names = ("method", "metric", "target_task", "share", "value", "lower", "upper", "n")
        shown = [
            {k: round(v, 4) if isinstance(v := r[k], float) else "n/a" if v is None else v for k in names}
            for r in rows if r["target_task"] == "all"
        ]  # fmt: skip
        if shown:
            create_table_artifact(
                shown[:400], key=f"audit-{self.run_id}",
                description="Values against models trained on subsets, and against planted rows",
            )  # fmt: skip


def _with(job: Job, role: str, refs: list[DatasetRef]) -> Job:
    """`job` with `refs` in the place of its data sets of one role, in the order of roles."""
    others = [d for d in job.datasets if d.role != role]
    mixed = [*refs, *others] if role == "pool" else [*others, *refs]
    return job.model_copy(update={"datasets": tuple(mixed)})
