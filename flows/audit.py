"""The audit flow: values of a pool tested against what training on parts of it does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow
from prefect.runtime import flow_run
from pydantic import BaseModel, ConfigDict

from flows.audit_stages import Audit
from flows.start import AnyConfig, at_work, call_flow, ingest, ready, resolve
from flows.upkeep import end_crashed
from nncift_core.config import Config, parse_config
from nncift_core.errors import UserError
from nncift_core.pipeline.attribution import audit_config, audit_key, method_names, model_counts
from nncift_core.pipeline.attribution_plan import check_audit
from nncift_core.store.workspace import DEFAULT
from nncift_core.text import one_line
from tasks.progress import say


class AuditResult(BaseModel):
    """What a finished audit hands back; every number of it is in the views.

    measures: rows of the view `attribution`, without run_id; costs: of this attempt.
    """

    model_config = ConfigDict(frozen=True)

    run_id: str
    attempt: int
    workspace: str
    report: str
    ui_url: str | None
    facts: dict[str, Any]
    measures: list[dict[str, Any]]
    costs: list[dict[str, Any]]


def audit_values(config: AnyConfig, workspace: str | Path = DEFAULT, command: str = "") -> AuditResult:
    """Test the values of a job: the Python call behind `nncift audit`.

    config: as for `value_pool`; models are trained by its [finetune], or by that section's defaults. Reads
    and checks everything before anything is started or written. Raises UserError for wrong input and RunError
    when a part fails; what is finished is kept, and the same call goes on from it.
    """
    resolved = resolve(config)
    own = audit_config(resolved)
    inputs = check_audit(own, workspace, fetch=True)
    pool = sum(len(i.examples) for i in inputs if i.role == "pool")
    with ready(resolved, workspace) as (ui_url, ws):
        methods, models = len(method_names(own)), sum(model_counts(own).values())
        say(f"auditing {methods} methods on {pool:,} pool rows with at most {models:,} models; watch it at "
            f"{ui_url}")  # fmt: skip
        if resolved.finetune is None:
            say("no section [finetune]: models are trained with its defaults")
        result = call_flow(audit, "audit", resolved, ws, command=command)
    return AuditResult(ui_url=ui_url, **result)


def _run_name() -> str:
    """What is audited, and the workspace's last folder."""
    p = flow_run.parameters
    try:
        config = parse_config(p["config"])
        functions = ", ".join(config.audit.functions or [config.influence.function])
        name = f"audit {functions}: {config.pool.name or Path(config.pool.source).name}"
    except UserError:
        name = "audit: a config that cannot be used"
    return one_line(f"{name}, {Path(str(p['workspace'])).name}", 120)


@flow(
    name="audit",
    flow_run_name=_run_name,
    persist_result=False,
    validate_parameters=False,
    on_crashed=[end_crashed],
)
def audit(config: dict[str, Any], workspace: str, base_dir: str = "", command: str = "") -> dict[str, Any]:
    """Test the values of `config` in `workspace`; values and models that are kept there are reused."""
    given: Config = parse_config(config, base_dir=base_dir or None)
    resolved = audit_config(given)
    check_audit(resolved, workspace, fetch=True)
    with at_work(workspace):
        stored = ingest(resolved, workspace)
        run_id = audit_key(resolved, stored.versions)
        series = audit_key(resolved, dict.fromkeys(stored.versions, ""))
        recorded = {**given.model_dump(mode="json"), "kind": "audit"}
        with stored.attempt(run_id, recorded, series) as current:
            missing = given.finetune is None
            return Audit(stored.job, current, command, default_finetune=missing).run()
