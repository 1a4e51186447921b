"""What every flow over a job begins with: its config, one thread per device, its data in the workspace."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import Flow
from prefect.task_runners import ThreadPoolTaskRunner

from flows.one_at_a_time import alone_in
from flows.provenance import versions
from flows.server import connected
from flows.upkeep import begin
from nncift_core.config import Config, load_config, parse_config, settled
from nncift_core.config_prune import PruneConfig
from nncift_core.errors import NnciftError, RunError
from nncift_core.execution.job import BaseJob, Job, forget_indices
from nncift_core.execution.memory import peak_mb
from nncift_core.execution.pool import leave_pools, pool_of
from nncift_core.hashing import digest
from nncift_core.pipeline.downstream import check_student
from nncift_core.pipeline.inputs import Input, check_devices, check_teacher, forget_inputs, read_inputs
from nncift_core.pipeline.problem import keys_of
from nncift_core.store.datasets import is_stored
from nncift_core.store.references import DatasetRef
from nncift_core.store.runs import Attempt, Cost, attempt
from nncift_core.store.use import in_use
from nncift_core.store.workspace import Workspace
from tasks import stages
from tasks.caching import cached
from tasks.elsewhere import check_workers
from tasks.progress import say

AnyConfig = Config | Mapping[str, Any] | str | Path


def resolve(config: AnyConfig) -> Config:
    """The checked config from a `Config`, a dict of the TOML's shape, or the path of a TOML file.

    Raises UserError for what is wrong in it.
    """
    if isinstance(config, Config):
        return settled(config)
    if isinstance(config, Mapping):
        return parse_config(dict(config))
    return load_config(config)


def checked(config: Config, workspace: str | Path) -> list[Input]:
    """The data sets of a job, read and checked with all else that it needs; nothing is started or written.

    Raises UserError for rows, models, devices and a workspace that no run could use.
    """
    inputs = read_inputs(config)
    keys_of(config)
    check_devices(config)
    Workspace.check_usable(workspace)
    check_teacher(config, fetch=True)
    check_student(config, fetch=True)
    return inputs


@contextmanager
def ready(config: Config | PruneConfig, workspace: str | Path) -> Iterator[tuple[str | None, Workspace]]:
    """The server's address and the workspace, once everything that computes shards can be reached: nothing is
    written before.

    Raises UserError for a Ray cluster that cannot be used, and where the server lacks the deployment of
    Prefect workers.
    """
    execution = config.execution
    # A Ray cluster is met here.
    if unused := pool_of(config).unused:
        say(unused)
    with connected(say) as ui_url:
        if execution.runner == "prefect":
            check_workers(execution.workers.deployment)
        yield ui_url, Workspace.create(workspace)


def call_flow(
    flow: Flow[..., Any], what: str, config: Config | PruneConfig, ws: Workspace, **given: Any
) -> dict[str, Any]:
    """Run `flow` on `config` with one thread per device and return what it returns.

    what: what its failure is called. Raises RunError for an error that is not nncift's own; its traceback
    is in the server's logs.
    """
    runner: Any = ThreadPoolTaskRunner(max_workers=max(1, len(pool_of(config).slots)))
    configured: Flow[..., Any] = flow.with_options(task_runner=runner)
    try:
        result: Any = configured(
            config=config.model_dump(mode="json"), workspace=ws.address, base_dir=config.base_dir, **given
        )
    except NnciftError:
        raise
    except Exception as e:
        raise RunError(
            f"the {what} failed ({type(e).__name__}: {e}). Finished shards are kept; run again to go on. "
            "The run's page in the UI has the traceback"
        ) from e
    finally:
        leave_pools()
    found: dict[str, Any] = result
    return found


@contextmanager
def at_work(workspace: str) -> Iterator[Workspace]:
    """What a flow's body runs in: its turn in the workspace, of which nothing is collected meanwhile.

    What earlier flows of this process know of stored files is forgotten: they may be gone.
    """
    with alone_in(workspace), in_use(ws := Workspace.create(workspace)):
        forget_indices()
        yield ws


@dataclass(frozen=True)
class Ingested:
    """A job whose data sets are stored.

    versions: role and name -> version of the rows; cost: of storing them.
    """

    job: Any
    versions: dict[str, str]
    cost: Cost

    @contextmanager
    def attempt(self, run_id: str, recorded: dict[str, Any], series: str = "") -> Iterator[Attempt]:
        """The next attempt of a run over these data; recorded: its config, as `runs` shows it; series: as
        `config.series_key` gives it."""
        with attempt(self.job.ws, run_id, recorded, versions(), series) as current:
            begin(current, self.job.config, self.versions)
            current.cost(self.cost)
            yield current


def ingest(config: Config, workspace: str) -> Ingested:
    """Read, check and store the data sets of `config`; what is stored already stays.

    Raises UserError, before anything is written, for wrong rows and models.
    """
    read_inputs(config)
    keys = keys_of(config)
    ws = Workspace.create(workspace)
    job = Job(
        workspace=ws.address,
        config_json=config.model_dump_json(),
        base_dir=config.base_dir,
        identity=keys,
    )
    found = ingested(job, lambda: _stored(job, config))
    forget_inputs()
    return found


def ingested(job: BaseJob, store: Callable[[], list[tuple[DatasetRef, bool]]]) -> Ingested:
    """`job` over the data sets that `store` has stored; it says of each whether it was stored now."""
    started = time.monotonic()
    refs = store()
    seconds = time.monotonic() - started
    rows, new = sum(r.rows for r, _ in refs), sum(r.new_rows for r, fresh in refs if fresh)
    return Ingested(
        job.model_copy(update={"datasets": tuple(r for r, _ in refs)}),
        {f"{r.role}:{r.dataset}": r.version for r, _ in refs},
        Cost("ingest", "cpu", rows, new, rows - new, seconds, peak_mb()),
    )


def _stored(job: Job, config: Config) -> list[tuple[DatasetRef, bool]]:
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
        report_reading(ref)
    return refs


def report_reading(ref: DatasetRef) -> None:
    """Say what reading dropped, found twice or passed over."""
    shown = 10
    for place in ref.dropped[:shown]:
        say(f"{ref.role}: dropped {place}")
    if len(ref.dropped) > shown:
        say(f"{ref.role}: {len(ref.dropped):,} rows dropped in all; the run's result.json names each")
    if ref.note:
        say(f"{ref.role}: {ref.note}")
