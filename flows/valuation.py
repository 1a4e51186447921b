"""The valuation flow: from pool and target to a completed matrix and a subset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import Flow, flow
from prefect.runtime import flow_run
from pydantic import BaseModel, ConfigDict

from flows.start import AnyConfig, Ingested, at_work, call_flow, checked, ingest, ready, resolve
from flows.upkeep import end_crashed
from flows.valuation_stages import Valuation
from nncift_core.config import Config, parse_config, run_key, series_key
from nncift_core.errors import UserError
from nncift_core.pipeline.inputs import Input
from nncift_core.store.workspace import DEFAULT
from nncift_core.text import one_line
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
    return called(valuation, ("run", "valuing"), config, workspace, command)


def called(
    flow: Flow[..., Any], names: tuple[str, str], config: AnyConfig, workspace: str | Path, command: str
) -> ValuationResult:
    """Check a job and run `flow` on it; names: what its failure is called, and what it is said to do."""
    resolved = resolve(config)
    work = work_of(resolved, checked(resolved, workspace))
    with ready(resolved, workspace) as (ui_url, ws):
        say(f"{names[1]} {work}; watch it at {ui_url}")
        result = call_flow(flow, names[0], resolved, ws, command=command)
    return ValuationResult(ui_url=ui_url, **result)


def work_of(config: Config, inputs: list[Input]) -> str:
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
    if config.evaluation.trains or not rows["test"]:
        work += f", then fine-tuning on {models} subsets x {len(config.training_seeds())} seeds"
    return f"{work} and comparing on {rows['test']:,} held-out rows" if rows["test"] else work


def run_name() -> str:
    """What is valued, for whom, and the workspace's last folder: no paths, no steering characters.

    Of a config as a person may have written it for a deployment, with nothing in it checked yet.
    """
    p = flow_run.parameters
    try:
        name = _named(parse_config(p["config"]))
    except UserError:
        name = "a config that cannot be used"
    return one_line(f"{name}, {Path(str(p['workspace'])).name}", 120)


def _named(config: Config) -> str:
    targets = config.target.datasets()
    pool, *others = [d.name or Path(d.source).name for d in (config.pool, *targets)]
    more = f" and {len(others) - 1} more" if len(others) > 1 else ""
    return f"{config.influence.function}: {pool} for {others[0] if others else 'itself'}{more}"


def identities(config: Config, stored: Ingested) -> tuple[str, str]:
    """`run_id` of a job on its stored data, and the series that it belongs to."""
    given = config, stored.versions, stored.job.identity.models()
    return run_key(*given), series_key(*given)


@flow(
    name="valuation",
    flow_run_name=run_name,
    persist_result=False,
    validate_parameters=False,
    on_crashed=[end_crashed],
)
def valuation(
    config: dict[str, Any], workspace: str, base_dir: str = "", command: str = ""
) -> dict[str, Any]:
    """Value the pool of `config` in `workspace`; every stage reuses what the workspace holds."""
    resolved = parse_config(config, base_dir=base_dir or None)
    checked(resolved, workspace)
    with at_work(workspace):
        stored = ingest(resolved, workspace)
        run_id, series = identities(resolved, stored)
        with stored.attempt(run_id, resolved.model_dump(mode="json"), series) as current:
            return Valuation(stored.job, current, command).run()
