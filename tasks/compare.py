"""The cached tasks of a comparison of methods that give one answer."""

from __future__ import annotations

from typing import Any

from nncift_core.execution.job import Job
from nncift_core.execution.models import Slot, function
from nncift_core.execution.pool import pool_of
from nncift_core.pipeline.choose import choose, selected_rows, selection_table
from nncift_core.pipeline.compare import draw_compared, method_table
from nncift_core.pipeline.exact import plan_exact
from nncift_core.pipeline.state import state_list
from nncift_core.store.references import EstimatorRef
from nncift_core.store.runs import publish_table
from tasks.caching import stage_task
from tasks.current import current


@stage_task("select", "select {method}")
def select_method(
    key: str, job: Job, run_id: str, method: str, estimator: dict[str, Any] | None
) -> dict[str, Any]:
    """Pick the subset of a method; returns the path of its selection, and what to tell of it."""
    problem = job.problem()
    ref = EstimatorRef(**estimator) if estimator else None
    with function(job, Slot(0, pool_of(job.config).devices[0])) as (valued, _):
        choice = choose(problem, valued, ref, current.advance)
    table = method_table(selection_table(run_id, choice, problem.pool), method)
    made_of = (plan_exact(problem).design.ref.path, *state_list(problem), *problem.valued)
    parents = (*([ref.path] if ref else []), *made_of)
    path = publish_table(
        problem.ws, run_id, "selection_of_method", key, table, producer="select", parents=parents
    )
    return {"selection": path, "facts": choice.facts}


@stage_task("draw-subsets", "draw-subsets")
def draw_methods(key: str, job: Job, run_id: str, selections: dict[str, str]) -> str:
    """Which rows each method and each rival trains on; selections: method -> path. Returns a path."""
    problem = job.problem()
    chosen = {name: selected_rows(problem, path) for name, path in selections.items()}
    table = draw_compared(problem, run_id, chosen)
    parents = tuple(selections.values())
    return publish_table(problem.ws, run_id, "subsets", key, table, producer="draw-subsets", parents=parents)
