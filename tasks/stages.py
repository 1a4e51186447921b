"""The cached tasks of a valuation that give one answer. Each is one call into `nncift_core.pipeline`.

Every task takes `key`, the content identity of its work, which is its Prefect cache key; `job` says
where and how and never enters the key.
"""

from __future__ import annotations

from typing import Any

from nncift_core.config import DatasetConfig
from nncift_core.execution.job import Job
from nncift_core.execution.models import Slot, function
from nncift_core.execution.pool import pool_of
from nncift_core.pipeline.assess import assess_estimator
from nncift_core.pipeline.choose import choose, scores_table, selection_table, write_subset
from nncift_core.pipeline.estimate import find_estimator, train
from nncift_core.pipeline.exact import plan_exact
from nncift_core.pipeline.inputs import Role, read_input, store_input
from nncift_core.pipeline.overview import best_table, histogram_table
from nncift_core.pipeline.result import members_table
from nncift_core.store.references import EstimatorRef
from nncift_core.store.runs import publish_table
from tasks.caching import stage_task
from tasks.current import current


@stage_task("ingest", "ingest {role} {name}")
def ingest(key: str, job: Job, role: Role, name: str, dataset: dict[str, Any]) -> dict[str, Any]:
    """Read, validate and store one data set; returns its reference."""
    found = read_input(role, DatasetConfig.model_validate(dataset), job.base_dir)
    size = job.config.shards.columns if role == "target" else job.config.shards.rows
    return store_input(job.ws, found, size).model_dump(mode="json")


@stage_task("train-influence-network", "train-influence-network")
def train_influence_network(key: str, job: Job, architecture: str | None = None) -> dict[str, Any]:
    """Fit the configured estimator on the labels, or `architecture`; returns its reference."""
    problem = job.problem()
    # Another run may be fitting the same; whoever comes second takes what the first has stored.
    with job.ws.turn(f"fit-{key[:16]}"):
        ref = find_estimator(problem, key)
        if ref is None:
            ref = train(problem, plan_exact(problem), key, architecture, current.to)
    return ref.model_dump(mode="json")


@stage_task("assess-estimator", "assess-estimator")
def assess(key: str, job: Job, estimator: dict[str, Any]) -> dict[str, Any]:
    """What the audit says of the estimates, beside the baselines."""
    problem = job.problem()
    plan = plan_exact(problem)
    return assess_estimator(problem, plan, EstimatorRef(**estimator))


@stage_task("select", "select")
def select(key: str, job: Job, run_id: str, estimator: dict[str, Any] | None) -> dict[str, Any]:
    """Score every row, pick the subset, write the tables behind `selection`, `scores` and `influence`."""
    problem = job.problem()
    ref = EstimatorRef(**estimator) if estimator else None
    plan = plan_exact(problem)
    # Scores are made of values that are there: no model loads for it.
    with function(job, Slot(0, pool_of(job.config).devices[0])) as (valued, _):
        choice = choose(problem, valued, ref, current.advance)
    learned = ref is None or ref.learned
    origin = "estimated" if learned else "baseline"
    tables = {
        "members": members_table(problem, plan),
        "influence_histogram": histogram_table(run_id, problem, choice.overview, origin),
        "influence_best": best_table(run_id, problem, choice.overview),
        "scores": scores_table(run_id, problem, choice, learned=learned),
        "selection": selection_table(run_id, choice, problem.pool),
    }
    parents = (plan.design.ref.path, *([ref.path] if ref else []), *problem.valued)
    paths = {
        name: publish_table(problem.ws, run_id, name, key, table, producer="select", parents=parents)
        for name, table in tables.items()
    }
    subset = problem.ws.subset_file(run_id)
    write_subset(problem.ws, subset, problem.pool, choice, key=key, parents=(paths["selection"],))
    return {"tables": paths, "facts": choice.facts, "subset": problem.ws.relative(subset)}
