"""The sweep flow: studies of estimators on one exact matrix of the job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow
from prefect.runtime import flow_run
from pydantic import BaseModel, ConfigDict

from flows.start import AnyConfig, at_work, call_flow, checked, ingest, ready, resolve
from flows.sweep_stages import Sweep
from flows.upkeep import end_crashed
from nncift_core.config import parse_config
from nncift_core.pipeline.sweep import check_study, study_config, sweep_key
from nncift_core.store.workspace import DEFAULT
from nncift_core.text import one_line
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
    config: AnyConfig, study: str = "figures", workspace: str | Path = DEFAULT
) -> SweepResult:
    """Study the estimators of a job: the Python call behind `nncift sweep`.

    config: as for `value_pool`; study: "figures" or "estimators". Reads and checks everything before
    anything is started or written. Raises UserError for wrong input and RunError when the sweep fails.
    """
    resolved = resolve(config)
    what = check_study(resolved, study)
    inputs = checked(study_config(resolved), workspace)
    pool = sum(len(i.examples) for i in inputs if i.role == "pool")
    with ready(resolved, workspace) as (ui_url, ws):
        function = resolved.influence.function
        say(f"studying {what} of {function} on a part of {pool:,} pool rows; watch it at {ui_url}")
        return SweepResult(ui_url=ui_url, **call_flow(sweep, "sweep", resolved, ws, study=study))


def _run_name() -> str:
    """Which study of what, and the workspace's last folder."""
    p = flow_run.parameters
    pool, function = p["config"]["pool"], p["config"]["influence"]["function"]
    name = pool.get("name") or Path(pool["source"]).name
    return one_line(f"{p['study']} of {function}: {name}, {Path(p['workspace']).name}", 120)


@flow(
    name="sweep",
    flow_run_name=_run_name,
    persist_result=False,
    validate_parameters=False,
    on_crashed=[end_crashed],
)
def sweep(
    config: dict[str, Any], workspace: str, base_dir: str = "", study: str = "figures"
) -> dict[str, Any]:
    """Make the studies of `config` in `workspace`; values and fits that are kept there are reused."""
    resolved = parse_config(config, base_dir=base_dir or None)
    what = check_study(resolved, study)
    with at_work(workspace):
        forget_material()
        stored = ingest(study_config(resolved), workspace)
        run_id = sweep_key(resolved, what, stored.versions, stored.job.identity.models())
        with stored.attempt(run_id, {**resolved.model_dump(mode="json"), "study": study}) as current:
            return Sweep(stored.job, current, resolved, what).run()
