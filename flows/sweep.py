"""The sweep flow: studies of estimators on one exact matrix of the job."""

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
from flows.sweep_stages import Sweep
from flows.valuation import _ingest, _resolve
from nncift_core.config import Config, parse_config
from nncift_core.errors import NnciftError, RunError
from nncift_core.pipeline.inputs import check_devices, check_teacher, read_inputs
from nncift_core.pipeline.problem import keys_of
from nncift_core.pipeline.sweep import check_study, study_config, sweep_key
from nncift_core.store.runs import Cost, attempt
from nncift_core.store.workspace import DEFAULT, Workspace
from nncift_core.text import one_line
from tasks.job import Job, forget_indices, slots
from tasks.progress import say
from tasks.sweep import forget_material


class SweepResult(BaseModel):
    """What a finished sweep hands back; every number of it is in the view `sweep`.

    summary: rows of the tables that the terminal shows, by table; failed: fits that were not possible.
    """

    model_config = ConfigDict(frozen=True)

    run_id: str
    attempt: int
    study: str
    workspace: str
    report: str
    ui_url: str | None
    facts: dict[str, Any]
    summary: dict[str, list[dict[str, Any]]]
    failed: list[dict[str, Any]]
    costs: list[dict[str, Any]]


def study_estimators(
    config: Config | Mapping[str, Any] | str | Path, study: str = "figures", workspace: str | Path = DEFAULT
) -> SweepResult:
    """Study the estimators of a job: the Python call behind `nncift sweep`.

    config: as for `value_pool`; study: "figures" or "estimators". Reads and checks everything before
    anything is started or written. Raises UserError for wrong input and RunError when the sweep fails.
    """
    resolved = _resolve(config)
    checked = check_study(resolved, study)
    asked = study_config(resolved)
    inputs = read_inputs(asked)
    keys_of(asked)
    check_devices(asked)
    Workspace.check_usable(workspace)
    check_teacher(asked, fetch=True)
    pool = sum(len(i.examples) for i in inputs if i.role == "pool")
    with connected(say) as ui_url:
        ws = Workspace.create(workspace)
        function = resolved.influence.function
        say(f"studying {checked} of {function} on a part of {pool:,} pool rows; watch it at {ui_url}")
        return SweepResult(ui_url=ui_url, **_call(resolved, ws, study))


def _call(config: Config, ws: Workspace, study: str) -> dict[str, Any]:
    """Run the flow with one thread per device; what fails there is in the server's logs."""
    runner: Any = ThreadPoolTaskRunner(max_workers=max(1, len(slots(config).devices)))
    configured: Flow[..., Any] = sweep.with_options(task_runner=runner)
    try:
        result: Any = configured(
            config=config.model_dump(mode="json"),
            workspace=str(ws.root),
            base_dir=config.base_dir,
            study=study,
        )
    except NnciftError:
        raise
    except Exception as e:
        raise RunError(
            f"the sweep failed ({type(e).__name__}: {e}). What is finished is kept; run again to go on. "
            "The run's page in the UI has the traceback"
        ) from e
    found: dict[str, Any] = result
    return found


def _run_name() -> str:
    """Which study of what, and the workspace's last folder."""
    p = flow_run.parameters
    pool, function = p["config"]["pool"], p["config"]["influence"]["function"]
    name = pool.get("name") or Path(pool["source"]).name
    return one_line(f"{p['study']} of {function}: {name}, {Path(p['workspace']).name}", 120)


@flow(name="sweep", flow_run_name=_run_name, persist_result=False, validate_parameters=False)
def sweep(
    config: dict[str, Any], workspace: str, base_dir: str = "", study: str = "figures"
) -> dict[str, Any]:
    """Make the studies of `config` in `workspace`; values and fits that are kept there are reused."""
    forget_indices()
    forget_material()
    resolved = parse_config(config, base_dir=base_dir or None)
    checked = check_study(resolved, study)
    asked = study_config(resolved)
    read_inputs(asked)
    keys = keys_of(asked)
    ws = Workspace.create(workspace)
    job = Job(
        workspace=str(ws.root), config_json=asked.model_dump_json(), base_dir=asked.base_dir, identity=keys
    )
    started = time.monotonic()
    refs = _ingest(job, asked)
    seconds = time.monotonic() - started
    job = job.model_copy(update={"datasets": tuple(r for r, _ in refs)})
    data = {f"{r.role}:{r.dataset}": r.version for r, _ in refs}
    run_id = sweep_key(resolved, checked, data, keys.models())
    recorded = {**resolved.model_dump(mode="json"), "study": study}
    with attempt(ws, run_id, recorded, versions()) as current:
        rows, new = sum(r.rows for r, _ in refs), sum(r.new_rows for r, fresh in refs if fresh)
        current.cost(Cost("ingest", "cpu", rows, new, rows - new, seconds, peak_mb()))
        return Sweep(job, current, resolved, checked).run()
