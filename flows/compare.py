"""The compare flow: methods of valuing a pool beside each other, by what their subsets train."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow
from prefect.runtime import flow_run
from pydantic import BaseModel, ConfigDict

from flows.compare_stages import Compare
from flows.start import AnyConfig, at_work, call_flow, checked, ingest, ready, resolve
from flows.upkeep import end_crashed
from nncift_core.config import Config, parse_config
from nncift_core.errors import UserError
from nncift_core.pipeline.compare import check_compare, compare_key, compare_series
from nncift_core.pipeline.inputs import Input
from nncift_core.pipeline.methods import check_methods
from nncift_core.store.workspace import DEFAULT
from nncift_core.text import one_line
from tasks.progress import say


class CompareResult(BaseModel):
    """What a finished comparison hands back; every number of it is in the views.

    methods, summary, method_costs: rows of the views `methods`, `compare_summary` and `method_costs`; costs:
    of this attempt.
    """

    model_config = ConfigDict(frozen=True)

    run_id: str
    attempt: int
    workspace: str
    report: str
    ui_url: str | None
    facts: dict[str, Any]
    methods: list[dict[str, Any]]
    summary: list[dict[str, Any]]
    method_costs: list[dict[str, Any]]
    costs: list[dict[str, Any]]


def compare_methods(config: AnyConfig, workspace: str | Path = DEFAULT, command: str = "") -> CompareResult:
    """Compare ways to value a pool: the Python call behind `nncift compare`.

    config: as for `value_pool`, with [finetune] and target.test. Reads and checks everything before anything
    is started or written. Raises UserError for wrong input and RunError when a part fails; what is finished
    is kept and shown, and the same call goes on from it.
    """
    resolved = resolve(config)
    inputs = checked_methods(resolved, workspace)
    rows = {
        role: sum(len(i.examples) for i in inputs if i.role == role) for role in ("pool", "target", "test")
    }
    methods = check_compare(resolved)
    with ready(resolved, workspace) as (ui_url, ws):
        say(f"comparing {len(methods)} methods on {rows['pool']:,} pool rows, {rows['target']:,} target rows "
            f"and {rows['test']:,} held-out rows; watch it at {ui_url}")  # fmt: skip
        result = call_flow(compare, "comparison", resolved, ws, command=command)
    return CompareResult(ui_url=ui_url, **result)


def checked_methods(config: Config, workspace: str | Path) -> list[Input]:
    """Everything that a comparison reads, checked for every method; nothing is started or written."""
    methods = check_compare(config)
    inputs = checked(config, workspace)
    check_methods(config, methods, fetch=True)
    return inputs


def _run_name() -> str:
    """What is compared, and the workspace's last folder."""
    p = flow_run.parameters
    try:
        config = parse_config(p["config"])
        functions = ", ".join(config.compare.functions or [config.influence.function])
        name = f"compare {functions}: {config.pool.name or Path(config.pool.source).name}"
    except UserError:
        name = "compare: a config that cannot be used"
    return one_line(f"{name}, {Path(str(p['workspace'])).name}", 120)


@flow(
    name="compare",
    flow_run_name=_run_name,
    persist_result=False,
    validate_parameters=False,
    on_crashed=[end_crashed],
)
def compare(config: dict[str, Any], workspace: str, base_dir: str = "", command: str = "") -> dict[str, Any]:
    """Value the pool by every method, train on every subset, evaluate; what the workspace holds is reused."""
    resolved = parse_config(config, base_dir=base_dir or None)
    checked_methods(resolved, workspace)
    with at_work(workspace):
        stored = ingest(resolved, workspace)
        keys = stored.job.identity
        run_id = compare_key(resolved, stored.versions, keys)
        series = compare_series(resolved, stored.versions, keys)
        recorded = {**resolved.model_dump(mode="json"), "kind": "compare"}
        with stored.attempt(run_id, recorded, series) as current:
            return Compare(stored.job, current, command).run()
