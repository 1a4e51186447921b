"""The refresh flow: the recurring job. What is new is valued with what is known, and checked by an audit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow

from flows.refresh_nothing import stands
from flows.refresh_stages import RefreshStages
from flows.start import AnyConfig, at_work, checked, ingest
from flows.upkeep import end_crashed
from flows.valuation import ValuationResult, called, identities, run_name
from nncift_core.config import parse_config
from nncift_core.pipeline.refresh import earlier_result
from nncift_core.store.workspace import DEFAULT


def refresh_pool(config: AnyConfig, workspace: str | Path = DEFAULT, command: str = "") -> ValuationResult:
    """Bring the newest result of a job up to date with its data: the Python call behind `nncift refresh`.

    Arguments and errors as of `value_pool`. Its facts say what was new, what the audit of it found and what
    was decided thereby (`refresh_decision`, `refresh_reason`).
    """
    return called(refresh, ("refresh", "refreshing"), config, workspace, command)


@flow(
    name="refresh",
    flow_run_name=run_name,
    persist_result=False,
    validate_parameters=False,
    on_crashed=[end_crashed],
)
def refresh(config: dict[str, Any], workspace: str, base_dir: str = "", command: str = "") -> dict[str, Any]:
    """Refresh the result of `config` in `workspace`; returns the fields of `ValuationResult`.

    A deployment calls it without the command line, so everything is checked here too.
    """
    resolved = parse_config(config, base_dir=base_dir or None)
    checked(resolved, workspace)
    with at_work(workspace) as ws:
        stored = ingest(resolved, workspace)
        run_id, series = identities(resolved, stored)
        earlier, complete = earlier_result(ws, series, run_id)
        with stored.attempt(run_id, resolved.model_dump(mode="json"), series) as current:
            if earlier is not None and complete:
                return stands(current, earlier)
            return RefreshStages(stored.job, current, command, earlier).run()
