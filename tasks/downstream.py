"""The cached tasks after selection that give one answer: which rows rivals hold, and the report."""

from __future__ import annotations

from nncift_core.execution.job import Job
from nncift_core.pipeline.choose import selected_rows
from nncift_core.pipeline.downstream import draw_subsets
from nncift_core.pipeline.report import write_report
from nncift_core.store.runs import publish_table
from tasks.caching import stage_task


@stage_task("draw-subsets", "draw-subsets")
def draw(key: str, job: Job, run_id: str, selection: str) -> str:
    """Which rows the subset and its rivals hold; returns the path of the table."""
    problem = job.problem()
    table = draw_subsets(problem, run_id, selected_rows(problem, selection))
    return publish_table(
        problem.ws, run_id, "subsets", key, table, producer="draw-subsets", parents=(selection,)
    )


@stage_task("report", "report")
def report(key: str, job: Job, run_id: str) -> str:
    """Write the page of the run, or of the sweep, from its views; returns its path."""
    return write_report(job.ws, run_id)
