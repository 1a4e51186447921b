"""The valuation flow: from pool and target to a completed matrix and a subset."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from prefect import Flow, State, Task, flow
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import BaseModel, ConfigDict

from flows import artifacts
from flows.provenance import versions
from flows.server import connected
from nncift_core.config import Config, load_config, parse_config, run_key
from nncift_core.errors import NncifError, RunError
from nncift_core.hashing import digest
from nncift_core.pipeline.embed import embeddings_needed, plan_embed
from nncift_core.pipeline.estimate import estimator_key, find_estimator, plan_estimate, quality_table
from nncift_core.pipeline.exact import ExactPlan, plan_exact
from nncift_core.pipeline.inputs import read_inputs
from nncift_core.pipeline.problem import keys_of
from nncift_core.pipeline.result import result_record
from nncift_core.store.files import now
from nncift_core.store.references import DatasetRef, EstimatorRef
from nncift_core.store.runs import Attempt, Cost, attempt, intact, publish_table
from nncift_core.store.segments import SegmentStore
from nncift_core.store.workspace import DEFAULT, Workspace
from tasks import stages
from tasks.job import Job, slots
from tasks.progress import reporter, say


class ValuationResult(BaseModel):
    """What a finished valuation hands back; everything else is in the workspace's views."""

    model_config = ConfigDict(frozen=True)

    run_id: str
    attempt: int
    workspace: str
    subset: str
    selected: int
    pool_rows: int
    target_rows: int
    ui_url: str | None
    quality: list[dict[str, Any]]
    costs: list[dict[str, Any]]
    facts: dict[str, Any]


def value_pool(
    config: Config | Mapping[str, Any] | str | Path, workspace: str | Path = DEFAULT
) -> ValuationResult:
    """Value a pool: the Python call behind `nncift run`.

    config: a `Config`, a plain dict of the TOML's shape, or the path of a TOML file. Reads and checks
    the data before anything is started or written; starts a local Prefect server when none answers.
    Raises UserError for wrong input and RunError when the run fails.
    """
    resolved = _resolve(config)
    inputs = read_inputs(resolved)
    keys_of(resolved)
    slots(resolved)
    ws = Workspace.create(workspace)
    rows = {role: sum(len(i.examples) for i in inputs if i.role == role) for role in ("pool", "target")}
    target = f"{rows['target']:,} target rows" if rows["target"] else "itself"
    job = f"{rows['pool']:,} pool rows against {target} with {resolved.influence.function}"
    with connected(say) as ui_url:
        say(f"valuing {job}; watch it at {ui_url}")
        result = _call(resolved, ws)
    return ValuationResult(ui_url=ui_url, **result)


def _call(config: Config, ws: Workspace) -> dict[str, Any]:
    """Run the flow; what fails there is in the server's logs with its traceback."""
    try:
        result: Any = _configured(config)(
            config=config.model_dump(mode="json"), workspace=str(ws.root), base_dir=config.base_dir
        )
    except NncifError:
        raise
    except Exception as e:
        raise RunError(
            f"the run failed ({type(e).__name__}: {e}). Finished shards are kept; run again to go on. "
            "The run's page in the UI has the traceback"
        ) from e
    found: dict[str, Any] = result
    return found


def _resolve(config: Config | Mapping[str, Any] | str | Path) -> Config:
    if isinstance(config, Config):
        return config
    if isinstance(config, Mapping):
        return parse_config(dict(config))
    return load_config(config)


def _configured(config: Config) -> Flow[..., Any]:
    """The flow with one thread per device."""
    workers = max(1, len(slots(config).devices))
    runner: Any = ThreadPoolTaskRunner(max_workers=workers)
    configured: Flow[..., Any] = valuation.with_options(task_runner=runner)
    return configured


@flow(
    name="valuation", flow_run_name="valuation {workspace}", persist_result=False, validate_parameters=False
)
def valuation(config: dict[str, Any], workspace: str, base_dir: str = "") -> dict[str, Any]:
    """Value the pool of `config` in `workspace`; every stage reuses what the workspace holds."""
    resolved = parse_config(config, base_dir=base_dir or None)
    ws = Workspace.create(workspace)
    keys = keys_of(resolved)
    job = Job(
        workspace=str(ws.root),
        config_json=resolved.model_dump_json(),
        base_dir=resolved.base_dir,
        encoder_key=keys.encoder,
        function_key=keys.function,
    )
    started = time.monotonic()
    refs = _ingest(job, resolved)
    ingest_seconds = time.monotonic() - started
    job = job.model_copy(update={"datasets": tuple(r for r, _ in refs)})
    data = {f"{r.role}:{r.dataset}": r.version for r, _ in refs}
    run_id = run_key(resolved, data, {"encoder": keys.encoder, "function": keys.function})
    with attempt(ws, run_id, resolved.model_dump(mode="json"), versions()) as current:
        rows, new = sum(r.rows for r, _ in refs), sum(r.new_rows for r, fresh in refs if fresh)
        current.cost(Cost("ingest", "cpu", rows, new, rows - new, ingest_seconds, _peak_mb()))
        return _Valuation(job, current).run()


def _ingest(job: Job, config: Config) -> list[tuple[DatasetRef, bool]]:
    """References of all data sets, and whether each was stored now (not taken from the cache)."""
    refs = []
    for found in read_inputs(config):
        size = config.shards.columns if found.role == "target" else config.shards.rows
        key = digest(["ingest", 1, found.role, found.name, found.fingerprint, size])
        value, fresh = _cached(
            job,
            stages.ingest,
            key,
            lambda v: intact(job.ws, v["path"]),
            job,
            found.role,
            found.name,
            found.config.model_dump(mode="json"),
        )
        refs.append((DatasetRef.model_validate(value), fresh))
        for place in refs[-1][0].dropped[:10]:
            say(f"dropped {place}")
    return refs


def _cached(
    job: Job, task: Task[..., Any], key: str, check: Callable[[Any], bool], *args: Any
) -> tuple[Any, bool]:
    """Call a cached task; a cached answer whose files are gone or damaged is computed anew.

    Returns the answer and whether it was computed now.
    """
    bound = task.with_options(result_storage=job.ws.prefect_dir, retries=job.config.execution.retries)
    state: State[Any] = _state(bound, key, *args)
    value = state.result()
    if state.name == "Cached" and not check(value):
        state = _state(bound.with_options(refresh_cache=True), key, *args)
        value = state.result()
    return value, state.name != "Cached"


def _state(task: Task[..., Any], *args: Any) -> State[Any]:
    """Run a task in this thread and return its final state."""
    state: Any = task(*args, return_state=True)
    final: State[Any] = state
    return final


def _peak_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1024.0 if sys.platform != "darwin" else 1024.0**2), 1)


class _Valuation:
    """The stages after ingest, in order; each records its cost as soon as it is over."""

    def __init__(self, job: Job, current: Attempt) -> None:
        self.job, self.attempt = job, current
        self.config, self.ws = job.config, job.ws
        self.problem = job.problem()
        self.counters: dict[str, int] = {}

    def run(self) -> dict[str, Any]:
        """All stages; returns the fields of `ValuationResult`."""
        if embeddings_needed(self.problem):
            self._embed()
        plan = self._exact()
        estimator, quality = (None, []) if self.problem.all_exact else self._estimate(plan)
        chosen = self._select(estimator)
        return self._publish(plan, estimator, quality, chosen)

    @contextmanager
    def _stage(self, name: str, items: int, missing: int, unit: str) -> Iterator[None]:
        """Progress and cost of one stage."""
        start = time.monotonic()
        devices = ",".join(slots(self.config).devices)
        with reporter.stage(name, items, unit, done=items - missing) as shown:
            stages.current.stage = shown
            yield
            stages.current.stage = None
        seconds = time.monotonic() - start
        self.attempt.cost(Cost(name, devices, items, missing, items - missing, seconds, _peak_mb()))
        reused = f", {items - missing:,} reused" if items > missing else ""
        say(f"{name}: {missing:,} {unit} computed{reused} in {seconds:.1f} s")

    def _shards(self, task: Task[..., Any], shards: list[dict[str, Any]], *args: Any) -> None:
        """Submit the shards that planning found missing, and wait; all are tried before one fails the run.

        Planning says these are not stored, so a cached answer under their key is stale and refreshed.
        """
        bound = task.with_options(
            result_storage=self.ws.prefect_dir, refresh_cache=True, retries=self.config.execution.retries
        )
        keys = [
            digest([task.name, self.job.function_key, self.job.encoder_key, *map(str, args), s])
            for s in shards
        ]
        futures = [bound.submit(k, self.job, *args, s) for k, s in zip(keys, shards, strict=True)]
        for future in futures:
            future.wait()
        for future in futures:
            done = future.result()
            for name, value in done.items():
                if name not in ("computed", "device"):
                    self.counters[name] = self.counters.get(name, 0) + value

    def _embed(self) -> None:
        shards, total = plan_embed(self.problem)
        missing = sum(len(s.content_ids) for s in shards)
        with self._stage("embed", total, missing, "texts"):
            self._shards(stages.embed, [asdict(s) for s in shards])
        self.problem.vectors.refresh()

    def _exact(self) -> ExactPlan:
        plan = self._plan_exact()
        with self._stage("exact-influence", plan.pairs, plan.missing, "pairs"):
            self._shards(stages.exact_influence, [asdict(s) for s in plan.shards if s.missing])
        return self._plan_exact()

    def _plan_exact(self) -> ExactPlan:
        return plan_exact(self.problem, SegmentStore(self.ws, "exact", self.problem.keys.function))

    def _estimate(self, plan: ExactPlan) -> tuple[EstimatorRef, list[dict[str, Any]]]:
        key = estimator_key(self.problem, plan)
        known = find_estimator(self.problem, key)
        with self._stage("train-influence-network", 1, 0 if known else 1, "network"):
            value, _ = _cached(
                self.job,
                stages.train_influence_network,
                key,
                lambda v: find_estimator(self.problem, key) is not None,
                self.job,
            )
        ref = EstimatorRef.model_validate(value)
        shards = plan_estimate(self.problem, ref)
        missing = sum(s.missing for s in shards)
        total = len(self.problem.rows) * len(self.problem.columns)
        with self._stage("estimate-influence", total, missing, "pairs"):
            self._shards(
                stages.estimate_influence,
                [asdict(s) for s in shards if s.missing],
                ref.model_dump(mode="json"),
            )
        names = [s.name for s in plan.shards], plan.audit_rows.tolist(), plan.audit_columns.tolist()
        labels = [[s.rows, s.columns] for s in plan.shards if s.layout == "tile"]
        assess_key = digest(["assess", 1, key, names, labels, self.problem.task_names])
        quality, _ = _cached(
            self.job, stages.assess, assess_key, lambda v: True, self.job, ref.model_dump(mode="json")
        )
        return ref, quality

    def _select(self, ref: EstimatorRef | None) -> dict[str, Any]:
        run_id = self.attempt.run_id
        exact = SegmentStore(self.ws, "exact", self.problem.keys.function).files(self.problem.rows)
        key = digest(["select", 1, run_id, ref.key if ref else None, exact])
        start = time.monotonic()
        chosen, fresh = _cached(
            self.job,
            stages.select,
            key,
            lambda v: all(intact(self.ws, p) for p in [*v["tables"].values(), v["subset"]]),
            self.job,
            run_id,
            ref.model_dump(mode="json") if ref else None,
        )
        rows, seconds = len(self.problem.pool.content_ids), time.monotonic() - start
        computed = rows if fresh else 0
        self.attempt.cost(Cost("select", "cpu", rows, computed, rows - computed, seconds, _peak_mb()))
        facts = chosen["facts"]
        say(f"select: {facts['budget']:,} of {rows:,} rows by {facts['rule']} in {seconds:.1f} s")
        result: dict[str, Any] = chosen
        return result

    def _publish(
        self, plan: ExactPlan, ref: EstimatorRef | None, quality: list[dict[str, Any]], chosen: dict[str, Any]
    ) -> dict[str, Any]:
        run_id = self.attempt.run_id
        tables = dict(chosen["tables"])
        key = digest([run_id, quality])
        parents = (ref.path,) if ref else ()
        tables["estimator_quality"] = publish_table(
            self.ws,
            run_id,
            "estimator_quality",
            key,
            quality_table(run_id, quality),
            producer="assess-estimator",
            parents=parents,
        )
        facts = {
            **chosen["facts"],
            **self.counters,
            "labelled_rows": plan.design.ref.rows,
            "labelled_columns": plan.design.ref.columns,
            "labels_kept_from_earlier_run": plan.design.ref.reused,
            "finished_at": now(),
        }
        record = result_record(self.problem, run_id, ref, tables, facts)
        self.attempt.publish_result({**record, "subset": chosen["subset"]})
        costs = self.attempt.costs()
        artifacts.publish(self.problem, self.attempt, record, quality, costs)
        return {
            "run_id": run_id,
            "attempt": self.attempt.number,
            "workspace": str(self.ws.root),
            "subset": str(self.ws.root / chosen["subset"]),
            "selected": chosen["facts"]["budget"],
            "pool_rows": len(self.problem.pool.content_ids),
            "target_rows": len(self.problem.target_contents),
            "quality": quality,
            "costs": costs,
            "facts": facts,
        }
