"""The valuation flow: from pool and target to a completed matrix and a subset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow
from prefect.runtime import flow_run
from pydantic import BaseModel, ConfigDict

from flows.server import connected
from flows.start import AnyConfig, call_flow, ingest, resolve
from flows.valuation_stages import Valuation
from nncift_core.config import Config, parse_config, run_key
from nncift_core.pipeline.downstream import check_student
from nncift_core.pipeline.inputs import Input, check_devices, check_teacher, read_inputs
from nncift_core.pipeline.problem import keys_of
from nncift_core.store.workspace import DEFAULT, Workspace
from nncift_core.text import one_line
from tasks.job import forget_indices
from tasks.progress import say


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


def value_pool(config: AnyConfig, workspace: str | Path = DEFAULT, command: str = "") -> ValuationResult:
    """Value a pool: the Python call behind `nncift run`.

    config: a `Config`, a plain dict of the TOML's shape, or the path of a TOML file; command: what a
    person typed to get here, for the report. Reads and checks
    the data before anything is started or written; starts a local Prefect server when none answers.
    Raises UserError for wrong input and RunError when the run fails.
    """
    resolved = resolve(config)
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
        result = call_flow(valuation, "run", resolved, ws, command=command)
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
    stored = ingest(resolved, workspace)
    run_id = run_key(resolved, stored.versions, stored.job.identity.models())
    with stored.attempt(run_id, resolved.model_dump(mode="json")) as current:
        return Valuation(stored.job, current, command).run()
