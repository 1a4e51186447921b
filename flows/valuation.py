"""The valuation flow: from pool and target to a completed matrix and a subset."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from prefect import Flow, flow
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import BaseModel, ConfigDict

from flows import artifacts
from flows.provenance import versions
from flows.server import connected
from nncift_core.config import Config, load_config, parse_config, run_key
from nncift_core.errors import NnciftError, RunError
from nncift_core.hashing import digest
from nncift_core.pipeline.assess import assessed
from nncift_core.pipeline.embed import embeddings_needed, plan_embed
from nncift_core.pipeline.estimate import estimator_key, find_estimator, plan_estimate, quality_table
from nncift_core.pipeline.exact import ExactPlan, plan_exact
from nncift_core.pipeline.inputs import check_devices, forget_inputs, read_inputs
from nncift_core.pipeline.problem import keys_of
from nncift_core.pipeline.result import result_record, run_facts
from nncift_core.store.datasets import is_stored
from nncift_core.store.files import read_manifest
from nncift_core.store.references import DatasetRef, EstimatorRef
from nncift_core.store.runs import Attempt, Cost, attempt, intact, publish_table
from nncift_core.store.workspace import DEFAULT, Workspace
from tasks import stages
from tasks.job import Job, forget_indices, slots
from tasks.progress import reporter, say
from tasks.running import cached, run_shards


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
    check_devices(resolved)
    Workspace.check_usable(workspace)
    rows = {role: sum(len(i.examples) for i in inputs if i.role == role) for role in ("pool", "target")}
    target = f"{rows['target']:,} target rows" if rows["target"] else "itself"
    work = f"{rows['pool']:,} pool rows against {target} with {resolved.influence.function}"
    with connected(say) as ui_url:
        ws = Workspace.create(workspace)
        say(f"valuing {work}; watch it at {ui_url}")
        result = _call(resolved, ws)
    return ValuationResult(ui_url=ui_url, **result)


def _call(config: Config, ws: Workspace) -> dict[str, Any]:
    """Run the flow; what fails there is in the server's logs with its traceback."""
    try:
        result: Any = _configured(config)(
            config=config.model_dump(mode="json"), workspace=str(ws.root), base_dir=config.base_dir
        )
    except NnciftError:
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
    forget_indices()
    resolved = parse_config(config, base_dir=base_dir or None)
    read_inputs(resolved)
    keys = keys_of(resolved)
    ws = Workspace.create(workspace)
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
        key = digest(["ingest", 2, found.role, found.name, found.fingerprint, size])
        dataset = found.config.model_dump(mode="json")
        value, fresh = cached(
            job, stages.ingest, key, lambda v: is_stored(job.ws, v), found.role, found.name, dataset
        )
        ref = DatasetRef.model_validate(value)
        refs.append((ref, fresh))
        _report_reading(ref)
    forget_inputs()
    return refs


def _report_reading(ref: DatasetRef) -> None:
    """Say what reading dropped, found twice or passed over."""
    shown = 10
    for place in ref.dropped[:shown]:
        say(f"{ref.role}: dropped {place}")
    if len(ref.dropped) > shown:
        say(f"{ref.role}: {len(ref.dropped):,} rows dropped in all; the run's result.json names each")
    if ref.note:
        say(f"{ref.role}: {ref.note}")


def _peak_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1024.0 if sys.platform != "darwin" else 1024.0**2), 1)


class _Valuation:
    """The stages after ingest, in order; each records its cost as soon as it is over."""

    def __init__(self, job: Job, current: Attempt) -> None:
        self.job, self.attempt = job, current
        self.config, self.ws = job.config, job.ws
        self.problem = job.problem()

    def run(self) -> dict[str, Any]:
        """All stages; returns the fields of `ValuationResult`."""
        if embeddings_needed(self.config):
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
            try:
                yield
            finally:
                stages.current.stage = None
        seconds = time.monotonic() - start
        self.attempt.cost(Cost(name, devices, items, missing, items - missing, seconds, _peak_mb()))
        reused = f", {items - missing:,} reused" if items > missing else ""
        say(f"{name}: {missing:,} {unit} computed{reused} in {seconds:.1f} s")

    def _embed(self) -> None:
        shards, total = plan_embed(self.problem)
        missing = sum(len(s.content_ids) for s in shards)
        with self._stage("embed", total, missing, "texts"):
            run_shards(self.job, stages.embed, [asdict(s) for s in shards])
        self.problem.vectors.refresh()

    def _exact(self) -> ExactPlan:
        plan = plan_exact(self.problem)
        with self._stage("exact-influence", plan.pairs, plan.missing, "pairs"):
            run_shards(self.job, stages.exact_influence, [asdict(s) for s in plan.shards if s.missing])
        return plan_exact(self.problem)

    def _estimate(self, plan: ExactPlan) -> tuple[EstimatorRef, list[dict[str, Any]]]:
        key = estimator_key(self.problem, plan)
        ref = find_estimator(self.problem, key)
        with self._stage("train-influence-network", 1, 0 if ref else 1, "network"):
            if ref is None:
                value, _ = cached(
                    self.job,
                    stages.train_influence_network,
                    key,
                    lambda v: find_estimator(self.problem, key) is not None,
                )
                ref = EstimatorRef.model_validate(value)
        shards = plan_estimate(self.problem, ref)
        missing = sum(s.missing for s in shards)
        total = len(self.problem.rows) * len(self.problem.columns)
        reference = ref.model_dump(mode="json")
        with self._stage("estimate-influence", total, missing, "pairs"):
            wanted = [asdict(s) for s in shards if s.missing]
            run_shards(self.job, stages.estimate_influence, wanted, reference)
        assess_key = digest(["assess", 2, key, *assessed(self.problem, plan)])
        quality, _ = cached(self.job, stages.assess, assess_key, lambda v: True, reference)
        return ref, quality

    def _select(self, ref: EstimatorRef | None) -> dict[str, Any]:
        run_id = self.attempt.run_id
        exact = self.problem.exact_store.files(self.problem.rows)
        key = digest(["select", 2, run_id, ref.key if ref else None, exact])
        start = time.monotonic()

        def there(value: dict[str, Any]) -> bool:
            subset = read_manifest(self.ws.root / value["subset"])
            files = [*value["tables"].values(), value["subset"]]
            return subset is not None and subset.key == key and all(intact(self.ws, f) for f in files)

        reference = ref.model_dump(mode="json") if ref else None
        chosen, fresh = cached(self.job, stages.select, key, there, run_id, reference)
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
        table = quality_table(run_id, quality)
        tables = dict(chosen["tables"])
        tables["estimator_quality"] = publish_table(
            self.ws,
            run_id,
            "estimator_quality",
            digest([run_id, quality]),
            table,
            producer="assess-estimator",
            parents=(ref.path,) if ref else (),
        )
        facts = {**chosen["facts"], **run_facts(self.problem, plan, chosen["facts"]["exact_pairs_used"])}
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
