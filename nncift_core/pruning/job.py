"""What every shard of a prune job needs to know."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import ClassVar

from nncift_core.config_prune import PruneConfig, parse_prune_config
from nncift_core.encoders import encoder_key
from nncift_core.execution.job import BaseJob
from nncift_core.hashing import digest
from nncift_core.pipeline.problem import Keys
from nncift_core.pruning.keys import read_settings
from nncift_core.pruning.problem import PruneProblem

# Raise this when the same job would give other values.
VERSION = 4


class PruneJob(BaseJob):
    """A job of `nncift prune`."""

    kind: ClassVar[str] = "prune"

    @property
    def config(self) -> PruneConfig:
        """The validated config."""
        return parse_prune_config(json.loads(self.config_json), base_dir=self.base_dir)

    def problem(self) -> PruneProblem:
        """The data of this job; its index is read once per process."""
        return _problem(self)


@lru_cache(maxsize=2)
def _problem(job: PruneJob) -> PruneProblem:
    return PruneProblem(job.ws, job.config, job.identity, job.datasets)


def forget_problems() -> None:
    """Make the next `problem()` look at the files again (called once per flow run)."""
    _problem.cache_clear()


def prune_keys(config: PruneConfig) -> Keys:
    """Key of the encoder; raises UserError when it cannot be found."""
    return Keys(encoder_key(config.encoder, config.base_dir), "prune")


def prune_run_key(config: PruneConfig, data: dict[str, str], keys: Keys) -> str:
    """`run_id`: hash of what decides the values. data: role and name -> version of the rows."""
    method = config.model_dump(mode="json", include={"seed", "scores", "study", "noise", "subset"})
    method["scores"]["names"].sort()
    method["training"] = read_settings(config.training, looks=True)
    return digest({"prune": VERSION, "method": method, "data": data, "encoder": keys.encoder})[:16]


def prune_series_key(config: PruneConfig, data: dict[str, str], keys: Keys) -> str:
    """What runs of one recurring job share: `prune_run_key` over names of data, whatever their versions."""
    return prune_run_key(config, dict.fromkeys(data, ""), keys)
