"""What every shard needs to know of the job: config, workspace, keys and the stored data sets."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from nncift_core.config import Config, parse_config
from nncift_core.config_prune import PruneConfig
from nncift_core.pipeline.problem import Keys, Problem
from nncift_core.store.references import DatasetRef, Refresh
from nncift_core.store.workspace import Workspace

AnyConfig = Config | PruneConfig


class BaseJob(BaseModel):
    """What jobs of every kind say: config, workspace folder, keys and the data sets once they are stored.

    kind: by which a worker process knows the job's class (`execution.work.JOBS`).
    """

    model_config = ConfigDict(frozen=True)

    kind: ClassVar[str]
    workspace: str
    config_json: str
    base_dir: str
    identity: Keys
    datasets: tuple[DatasetRef, ...] = ()

    @property
    def config(self) -> Any:
        """The validated config."""
        raise NotImplementedError

    def problem(self) -> Any:
        """What there is to compute; its index is read once per process."""
        raise NotImplementedError

    @property
    def ws(self) -> Workspace:
        """The workspace."""
        return Workspace(self.workspace)


class Job(BaseJob):
    """A valuation; refresh: the earlier run that a recurring one goes on from; own_values: see `Problem`."""

    kind: ClassVar[str] = "valuation"
    refresh: Refresh | None = None
    own_values: bool = False

    @property
    def config(self) -> Config:
        """The validated config."""
        return parse_config(json.loads(self.config_json), base_dir=self.base_dir)

    def problem(self) -> Problem:
        """The matrix of this job; its index is read once per process."""
        return _problem(self)


@lru_cache(maxsize=2)
def _problem(job: Job) -> Problem:
    return Problem.load(
        job.ws, job.config, job.identity, list(job.datasets), job.refresh, own_values=job.own_values
    )


def forget_indices() -> None:
    """Make the next `problem()` look at the files again (called once per flow run)."""
    _problem.cache_clear()
