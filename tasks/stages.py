"""The cached tasks of a valuation. Each is one call into `nncift_core.pipeline`.

Every task takes `key`, the content identity of its work, which is its Prefect cache key; `job` says
where and how and never enters the key.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from prefect import Task
from prefect.cache_policies import CacheKeyFnPolicy
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import exponential_backoff

from nncift_core.config import DatasetConfig
from nncift_core.errors import UserError
from nncift_core.pipeline.assess import assess_estimator
from nncift_core.pipeline.choose import choose, scores_table, selection_table, write_subset
from nncift_core.pipeline.embed import EmbedShard, embed_shard
from nncift_core.pipeline.estimate import EstimateShard, estimate_shard, train
from nncift_core.pipeline.estimator_features import ForwardShard, compute_estimator_features
from nncift_core.pipeline.exact import ExactShard, compute_exact, plan_exact
from nncift_core.pipeline.features import FeatureShard, compute_features
from nncift_core.pipeline.inputs import Role, read_input
from nncift_core.pipeline.overview import best_table, histogram_table
from nncift_core.pipeline.result import members_table
from nncift_core.pipeline.state import fit_state, plan_state
from nncift_core.store.datasets import store_dataset
from nncift_core.store.references import EstimatorRef
from nncift_core.store.runs import publish_table
from nncift_core.text import one_line
from tasks import job as jobs
from tasks.interrupts import interrupts
from tasks.job import Job


def _key(_: Any, parameters: dict[str, Any]) -> str:
    return str(parameters["key"])


class Interrupted(Exception):
    """The person has stopped the run: work in flight ends at its next progress."""


def _worth_retrying(_: Task[..., Any], __: TaskRun, state: State[Any]) -> bool:
    """Wrong input stays wrong, and a stop is meant: only other failures are tried again."""
    if interrupts.seen:
        return False
    try:
        state.result()
    except (UserError, ValueError, Interrupted):
        return False
    except Exception:
        return True
    return True


def stage_task(name: str, run_name: str) -> Callable[[Callable[..., Any]], Task[..., Any]]:
    """A cached, retried task named `name` in the UI; its runs are called `run_name`, filled with parameters.

    Names of data sets are the user's: what would steer a page is shown as a sign, what is long is cut.
    """

    def named(parameters: dict[str, Any]) -> str:
        return one_line(run_name.format(**parameters), 80)

    def wrap(fn: Callable[..., Any]) -> Task[..., Any]:
        made: Task[..., Any] = Task(
            fn,
            name=name,
            task_run_name=cast(Any, named),
            cache_policy=CacheKeyFnPolicy(cache_key_fn=_key),
            persist_result=True,
            result_serializer="json",
            retries=2,
            retry_delay_seconds=exponential_backoff(backoff_factor=2),
            retry_jitter_factor=0.5,
            retry_condition_fn=_worth_retrying,
        )
        return made

    return wrap


@stage_task("ingest", "ingest {role} {name}")
def ingest(key: str, job: Job, role: Role, name: str, dataset: dict[str, Any]) -> dict[str, Any]:
    """Read, validate and store one data set; returns its reference."""
    found = read_input(role, DatasetConfig.model_validate(dataset), job.base_dir)
    ref = store_dataset(
        job.ws,
        found.examples,
        dataset=found.name,
        role=role,
        block_rows=job.config.shards.columns if role == "target" else job.config.shards.rows,
        fingerprint=found.fingerprint,
    )
    report = found.report
    extra = {"duplicates": report.duplicates, "dropped": report.dropped, "note": report.note}
    return ref.model_copy(update=extra).model_dump(mode="json")


@stage_task("embed", "embed {shard[name]}")
def embed(key: str, job: Job, shard: dict[str, Any]) -> dict[str, Any]:
    """Embed one shard on a free device."""
    with jobs.slots(job.config).take() as slot, jobs.encoder(job, slot) as (encoder, device):
        computed = embed_shard(job.problem(), encoder, EmbedShard(**shard), current.advance)
    return {"computed": computed, "device": device}


@stage_task("prepare-function", "prepare-function")
def prepare_function(key: str, job: Job) -> dict[str, Any]:
    """One-time work of the influence function on a sample of the pool (LESS: warm-up training)."""
    problem = job.problem()
    with jobs.slots(job.config).take() as slot, jobs.function(job, slot) as (function, device):
        files = fit_state(problem, function, plan_state(problem), lambda done, total: current.to(done, total))
    return {"files": files, "device": device}


@stage_task("features", "features {shard[name]}")
def features(key: str, job: Job, shard: dict[str, Any]) -> dict[str, Any]:
    """The influence function's features of some rows on a free device."""
    with jobs.slots(job.config).take() as slot, jobs.function(job, slot) as (function, device):
        computed = compute_features(job.problem(), function, FeatureShard(**shard), current.advance)
    return {"computed": computed, "device": device}


@stage_task("estimator-features", "estimator-features {shard[name]}")
def estimator_features(key: str, job: Job, shard: dict[str, Any]) -> dict[str, Any]:
    """Forward-pass features of some contents, for estimators, on a free device."""
    with jobs.slots(job.config).take() as slot, jobs.language_model(job, slot) as (model, device):
        computed = compute_estimator_features(job.problem(), model, ForwardShard(**shard), current.advance)
    return {"computed": computed, "device": device}


@stage_task("exact-influence", "exact-influence {shard[name]}")
def exact_influence(key: str, job: Job, shard: dict[str, Any]) -> dict[str, Any]:
    """Exact values of one shard on a free device."""
    with jobs.slots(job.config).take() as slot, jobs.function(job, slot) as (function, device):
        computed = compute_exact(job.problem(), function, ExactShard(**shard), current.advance)
    return {"computed": computed, "device": device}


@stage_task("train-influence-network", "train-influence-network")
def train_influence_network(key: str, job: Job, architecture: str | None = None) -> dict[str, Any]:
    """Fit the configured estimator on the labels, or `architecture`; returns its reference."""
    problem = job.problem()
    plan = plan_exact(problem)
    ref = train(problem, plan, key, architecture, lambda done, total: current.to(done, total))
    return ref.model_dump(mode="json")


@stage_task("assess-estimator", "assess-estimator")
def assess(key: str, job: Job, estimator: dict[str, Any]) -> dict[str, Any]:
    """What the audit says of the estimates, beside the baselines."""
    problem = job.problem()
    plan = plan_exact(problem)
    return assess_estimator(problem, plan, EstimatorRef(**estimator))


@stage_task("estimate-influence", "estimate-influence {shard[name]}")
def estimate_influence(
    key: str, job: Job, estimator: dict[str, Any], shard: dict[str, Any]
) -> dict[str, Any]:
    """Estimates of one block of rows."""
    ref = EstimatorRef(**estimator)
    computed = estimate_shard(job.problem(), ref, EstimateShard(**shard), current.advance)
    return {"computed": computed, "device": "cpu"}


@stage_task("select", "select")
def select(key: str, job: Job, run_id: str, estimator: dict[str, Any] | None) -> dict[str, Any]:
    """Score every row, pick the subset, write the tables behind `selection`, `scores` and `influence`."""
    problem = job.problem()
    ref = EstimatorRef(**estimator) if estimator else None
    plan = plan_exact(problem)
    with jobs.slots(job.config).take() as slot, jobs.function(job, slot) as (function, _):
        choice = choose(problem, function, ref, current.advance)
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


class _Current:
    """The stage whose progress tasks of this process advance (stages follow one another)."""

    def __init__(self) -> None:
        self.stage: Any = None
        self.stopped = False

    def start(self, stage: Any) -> None:
        """`stage` runs from now on."""
        self.stage, self.stopped = stage, False

    def stop(self) -> None:
        """Let the tasks that still run end at their next progress, instead of at the end of their work."""
        self.stopped = True

    def advance(self, items: int) -> None:
        """`items` more are done; raises Interrupted after `stop` or Ctrl-C."""
        self._go_on()
        if self.stage is not None:
            self.stage.advance(items)

    def to(self, done: int, total: int) -> None:
        """`done` of `total` items are done; raises Interrupted after `stop` or Ctrl-C."""
        self._go_on()
        if self.stage is not None:
            self.stage.total = total
            self.stage.advance(done - self.stage.done)

    def _go_on(self) -> None:
        if self.stopped or interrupts.seen:
            raise Interrupted


current = _Current()
