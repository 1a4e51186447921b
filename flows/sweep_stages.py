"""The stages of a sweep in order: the corner's inputs and exact values, the fits, the result and its page."""

from __future__ import annotations

from typing import Any

from prefect.artifacts import create_table_artifact

from flows.exact_stages import ExactStages
from nncift_core.config import Config
from nncift_core.execution.job import Job
from nncift_core.execution.pool import close_pools
from nncift_core.hashing import digest
from nncift_core.pipeline.problem import SIDES
from nncift_core.pipeline.sweep import Corner, grid_of, studied_rule
from nncift_core.pipeline.sweep_fits import Scope, plan_fits, sweep_rows
from nncift_core.report.sweep_queries import DESIGNS, GROUPS, SELECTED, SUMMARY, tournament
from nncift_core.store.query import rows
from nncift_core.store.runs import Attempt
from nncift_core.store.sweeps import publish_sweep
from nncift_core.studies import Cell, Grid, Study
from tasks import sweep as tasks


class Sweep(ExactStages):
    """A valuation's stages up to exact values, on the corner of its matrix, and then the fits of a study.

    job: under `study_config`; config: the job's own.
    """

    def __init__(self, job: Job, attempt: Attempt, config: Config, study: Study) -> None:
        super().__init__(job, attempt)
        self.own, self.study = config, study

    def run(self) -> dict[str, Any]:
        """All stages; returns the fields of `SweepResult`."""
        self.prepare()
        corner = Corner.of(self.job.problem())
        self.problem = corner
        grid = grid_of(self.own, corner)
        self.embed()
        self.estimator_features()
        self._refresh()
        self.problem = Corner.of(self.job.problem(), exact=True)
        self.exact()
        close_pools()
        scope, cells = Scope.of(corner), grid.cells(self.study)
        total, computed = self._fits(scope, cells)
        found = sweep_rows(scope, self.run_id, self.config.influence.function, self.study, cells)
        return self._publish(grid, found, total, computed)

    def _refresh(self) -> None:
        """Let the problem that tasks share see the vectors that they have stored meanwhile."""
        shared = self.job.problem()
        for side in SIDES:
            for store in (shared.vectors(side), shared.response_vectors(side)):
                store.refresh()

    def _fits(self, scope: Scope, cells: list[Cell]) -> tuple[int, int]:
        shards, total = plan_fits(scope, cells)
        missing = sum(len(s.fits) for s in shards)
        self.shards("study-fits", tasks.study_fits, shards, (total, missing, "fits"))
        tasks.forget_material()
        return total, missing

    def _publish(self, grid: Grid, found: list[dict[str, Any]], total: int, computed: int) -> dict[str, Any]:
        """Make the result visible, write its page, and gather what the terminal and the UI show."""
        facts = {
            "rows": len(self.problem.rows), "columns": len(self.problem.columns),
            "rule": studied_rule(self.own), "default": grid.default, "design": grid.design,
            "budget": grid.budget, "share": grid.share, "fits": total, "fits_computed": computed,
        }  # fmt: skip
        key = digest([self.run_id, found])
        path = self.publish_rows("sweep", key, found, producer="sweep", parents=self.problem.valued)
        shared = {"run_id": self.run_id, "study": self.study}
        publish_sweep(
            self.attempt,
            {**shared, "function": self.config.influence.function, "tables": {"sweep": path}, "facts": facts},
        )
        report = self.report()
        summary = self._summary()
        self._artifact(summary)
        failed = [{k: r[k] for k in ("setting", "design", "predictor", "u", "seed", "note")} for r in found
                  if r["metric"] == "failed"]  # fmt: skip
        return {
            **shared, "attempt": self.attempt.number, "workspace": self.ws.address,
            "report": str(self.ws.root / report), "facts": facts, "summary": summary, "failed": failed,
            "costs": self.attempt.costs(),
        }  # fmt: skip

    def _summary(self) -> dict[str, list[dict[str, Any]]]:
        """Means over draws: by table, the rows that the terminal shows."""

        def ask(sql: str) -> list[dict[str, Any]]:
            return rows(self.ws, sql, self.run_id)

        if self.study == "figures":
            return {"labels": ask(SUMMARY), "subsets": ask(SELECTED)}
        by_design = {row["design"]: ask(tournament(row["design"])) for row in ask(DESIGNS)}
        return {**by_design, "groups": ask(GROUPS)}

    def _artifact(self, summary: dict[str, list[dict[str, Any]]]) -> None:
        lines = [{"table": name, **row} for name, table in summary.items() for row in table]
        shown = [{k: round(v, 4) if isinstance(v, float) else v for k, v in line.items()} for line in lines]
        if shown:
            create_table_artifact(
                shown[:400],
                key=f"sweep-{self.run_id}",
                description=f"Study of {self.study}: means over draws",
            )
