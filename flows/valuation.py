"""The valuation flow: from pool and target to a completed matrix and a subset."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect import Flow, flow
from prefect.runtime import flow_run
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import BaseModel, ConfigDict

from flows.provenance import versions
from flows.server import connected
from flows.stages import peak_mb
from flows.valuation_stages import Valuation
from nncift_core.config import Config, load_config, parse_config, run_key, settled
from nncift_core.errors import NnciftError, RunError
from nncift_core.hashing import digest
from nncift_core.pipeline.downstream import check_student
from nncift_core.pipeline.inputs import Input, check_devices, check_teacher, forget_inputs, read_inputs
from nncift_core.pipeline.problem import keys_of
from nncift_core.store.datasets import is_stored
from nncift_core.store.references import DatasetRef
from nncift_core.store.runs import Cost, attempt
from nncift_core.store.workspace import DEFAULT, Workspace
from nncift_core.text import one_line
from tasks import stages
from tasks.job import Job, forget_indices, slots
from tasks.progress import say
from tasks.running import cached


class ValuationResult(BaseModel):
    """What a finished valuation hands back; everything else is in the workspace's views."""

    model_config = ConfigDict(frozen=True)

    run_id: str
    attempt: int
    workspace: str
    subset: str
    report: str
    adapter: str | None
    selected: int
    pool_rows: int
    target_rows: int
    ui_url: str | None
    quality: list[dict[str, Any]]
    comparison: list[dict[str, Any]]
    costs: list[dict[str, Any]]
    facts: dict[str, Any]


def value_pool(
    config: Config | Mapping[str, Any] | str | Path, workspace: str | Path = DEFAULT, command: str = ""
) -> ValuationResult:
    """Value a pool: the Python call behind `nncift run`.

    config: a `Config`, a plain dict of the TOML's shape, or the path of a TOML file; command: what a
    person typed to get here, for the report. Reads and checks
    the data before anything is started or written; starts a local Prefect server when none answers.
    Raises UserError for wrong input and RunError when the run fails.
    """
    resolved = _resolve(config)
    inputs = read_inputs(resolved)
    keys_of(resolved)
    check_devices(resolved)
    Workspace.check_usable(workspace)
    check_teacher(resolved, fetch=True)
    check_student(resolved, fetch=True)
    work = _work(resolved, inputs)
    with connected(say) as ui_url:
        ws = Workspace.create(workspace)
        say(f"valuing {work}; watch it at {ui_url}")
        result = _call(resolved, ws, command)
    return ValuationResult(ui_url=ui_url, **result)


def _work(config: Config, inputs: list[Input]) -> str:
    """The line that says what will happen."""
    rows = {
        role: sum(len(i.examples) for i in inputs if i.role == role) for role in ("pool", "target", "test")
    }
    target = f"{rows['target']:,} target rows" if rows["target"] else "itself"
    against = "" if config.pointwise else f" against {target}"
    work = f"{rows['pool']:,} pool rows{against} with {config.influence.function}"
    if config.finetune is None:
        return f"{work} (target.test waits for a [finetune] section)" if config.target.test else work
    models = 1 + len(set(config.evaluation.subsets) - {"base"}) if rows["test"] else 1
    work += f", then fine-tuning on {models} subsets x {len(config.training_seeds())} seeds"
    return f"{work} and comparing on {rows['test']:,} held-out rows" if rows["test"] else work


def _call(config: Config, ws: Workspace, command: str) -> dict[str, Any]:
    """Run the flow; what fails there is in the server's logs with its traceback."""
    try:
        result: Any = _configured(config)(
            config=config.model_dump(mode="json"),
            workspace=str(ws.root),
            base_dir=config.base_dir,
            command=command,
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
        return settled(config)
    if isinstance(config, Mapping):
        return parse_config(dict(config))
    return load_config(config)


def _configured(config: Config) -> Flow[..., Any]:
    """The flow with one thread per device."""
    workers = max(1, len(slots(config).devices))
    runner: Any = ThreadPoolTaskRunner(max_workers=workers)
    configured: Flow[..., Any] = valuation.with_options(task_runner=runner)
    return configured


def _run_name() -> str:
    """What is valued, for whom, and the workspace's last folder: no paths, no steering characters."""
    p = flow_run.parameters
    pool, target = p["config"]["pool"], p["config"]["target"]
    sources = [target["source"]] if isinstance(target["source"], str) else target["source"]
    names = [d.get("name") or Path(d["source"]).name for d in (pool, {**target, "source": sources[0]})]
    others = f" and {len(sources) - 1} more" if len(sources) > 1 else ""
    function = p["config"]["influence"]["function"]
    name = f"{function}: {names[0]} for {names[1]}{others}, {Path(p['workspace']).name}"
    return one_line(name, 120)


@flow(name="valuation", flow_run_name=_run_name, persist_result=False, validate_parameters=False)
def valuation(
    config: dict[str, Any], workspace: str, base_dir: str = "", command: str = ""
) -> dict[str, Any]:
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
        identity=keys,
    )
    started = time.monotonic()
    refs = _ingest(job, resolved)
    ingest_seconds = time.monotonic() - started
    job = job.model_copy(update={"datasets": tuple(r for r, _ in refs)})
    data = {f"{r.role}:{r.dataset}": r.version for r, _ in refs}
    run_id = run_key(resolved, data, keys.models())
    with attempt(ws, run_id, resolved.model_dump(mode="json"), versions()) as current:
        rows, new = sum(r.rows for r, _ in refs), sum(r.new_rows for r, fresh in refs if fresh)
        current.cost(Cost("ingest", "cpu", rows, new, rows - new, ingest_seconds, peak_mb()))
        return Valuation(job, current, command).run()


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
