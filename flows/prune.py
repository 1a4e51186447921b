"""The prune flow: scores, prunes and stress-tests labelled classification data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.runtime import flow_run
from pydantic import BaseModel, ConfigDict

from flows.prune_stages import PruneStages
from flows.start import Ingested, at_work, call_flow, ingested, ready, report_reading
from flows.upkeep import end_crashed
from nncift_core.config_prune import PruneConfig, load_prune_config, parse_prune_config
from nncift_core.errors import UserError
from nncift_core.hashing import digest
from nncift_core.pipeline.inputs import Input
from nncift_core.pruning.job import (
    PruneJob,
    forget_problems,
    prune_keys,
    prune_run_key,
    prune_series_key,
)
from nncift_core.pruning.overview import checked
from nncift_core.store.datasets import is_stored
from nncift_core.store.references import DatasetRef
from nncift_core.store.workspace import DEFAULT, Workspace
from nncift_core.text import one_line
from tasks.caching import cached
from tasks.progress import say
from tasks.prune import ingest_labelled

AnyPruneConfig = PruneConfig | Mapping[str, Any] | str | Path


class PruneResult(BaseModel):
    """What a finished prune run hands back; every number of it is in the views.

    facts: what a person should know, the recommendation among it; summary: rows of `pruning_summary`;
    findings, detection: rows of the views of those names; costs: of this attempt.
    """

    model_config = ConfigDict(frozen=True)

    run_id: str
    attempt: int
    workspace: str
    report: str
    ui_url: str | None
    facts: dict[str, Any]
    summary: list[dict[str, Any]]
    detection: list[dict[str, Any]]
    findings: list[dict[str, Any]]
    costs: list[dict[str, Any]]


def resolve_prune(config: AnyPruneConfig) -> PruneConfig:
    """The checked config from a `PruneConfig`, a dict of the TOML's shape, or the path of a TOML file."""
    if isinstance(config, PruneConfig):
        return config
    if isinstance(config, Mapping):
        return parse_prune_config(dict(config))
    return load_prune_config(config)


def prune_data(config: AnyPruneConfig, workspace: str | Path = DEFAULT, command: str = "") -> PruneResult:
    """Score and prune labelled data: the Python call behind `nncift prune`.

    Reads and checks everything before anything is started or written. Raises UserError for wrong input and
    RunError when the run fails; finished trainings are kept, and the same call goes on from them.
    """
    resolved = resolve_prune(config)
    inputs = checked(resolved, workspace)
    rows, classes = len(inputs[0].examples), len({e.label for e in inputs[0].examples})
    with ready(resolved, workspace) as (ui_url, ws):
        say(f"pruning {rows:,} rows of {classes:,} classes ({resolved.training.mode} encoder); "
            f"watch it at {ui_url}")  # fmt: skip
        result = call_flow(prune, "prune run", resolved, ws, command=command)
    return PruneResult(ui_url=ui_url, **result)


def _run_name() -> str:
    """What is pruned, and the workspace's last folder."""
    p = flow_run.parameters
    try:
        data = parse_prune_config(p["config"]).data
        name = f"prune: {data.name or Path(data.source).name}"
    except UserError:
        name = "prune: a config that cannot be used"
    return one_line(f"{name}, {Path(str(p['workspace'])).name}", 120)


@flow(
    name="prune",
    flow_run_name=_run_name,
    persist_result=False,
    validate_parameters=False,
    on_crashed=[end_crashed],
)
def prune(config: dict[str, Any], workspace: str, base_dir: str = "", command: str = "") -> dict[str, Any]:
    """Score and prune the labelled data of `config` in `workspace`; trainings that are kept are reused."""
    resolved = parse_prune_config(config, base_dir=base_dir or None)
    inputs = checked(resolved, workspace)
    with at_work(workspace):
        forget_problems()
        stored = _ingest(resolved, inputs, workspace)
        keys = prune_keys(resolved)
        run_id = prune_run_key(resolved, stored.versions, keys)
        series = prune_series_key(resolved, stored.versions, keys)
        with stored.attempt(run_id, {**resolved.model_dump(mode="json"), "kind": "prune"}, series) as current:
            return PruneStages(stored.job, current, command).run()


def _ingest(config: PruneConfig, inputs: list[Input], workspace: str) -> Ingested:
    job = PruneJob(
        workspace=Workspace.create(workspace).address,
        config_json=config.model_dump_json(),
        base_dir=config.base_dir,
        identity=prune_keys(config),
    )

    def store() -> list[tuple[DatasetRef, bool]]:
        refs = []
        for i in inputs:
            key = digest(["ingest-labelled", 1, i.role, i.name, i.fingerprint])
            rows = i.config.model_dump(mode="json")
            value, fresh = cached(
                job, ingest_labelled, key, lambda v: is_stored(job.ws, v), i.role, i.name, rows
            )
            refs.append((DatasetRef.model_validate(value), fresh))
            report_reading(refs[-1][0])
        return refs

    return ingested(job, store)
