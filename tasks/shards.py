"""The cached tasks that compute shards, and how they are submitted: grouped, shared between runs, retried.

Each takes `key`, the content identity of its work, which is its Prefect cache key; `job` says where and how,
and never enters the key.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from typing import Any

from prefect import Task

from nncift_core.errors import UserError
from nncift_core.execution.failures import Stopped, is_permanent
from nncift_core.execution.job import BaseJob, Job
from nncift_core.execution.pool import pool_of
from nncift_core.execution.work import Request, estimate
from nncift_core.hashing import digest
from tasks.caching import stage_task
from tasks.current import current
from tasks.elsewhere import Group, compute_elsewhere
from tasks.sharing import Taken, alone

Compute = Callable[[str, Any, dict[str, Any], dict[str, Any]], dict[str, Any]]


# By task: what its failed tries had finished.
_BEFORE: Counter[str] = Counter()


# How a shard is computed in this process, by the name of its task.
_COMPUTE: dict[str, Compute] = {}


def shard_task(name: str, compute: Compute) -> Task[..., Any]:
    """The task that computes a group of shards by `compute(key, job, shard, given)`, here or on a Prefect
    worker elsewhere."""
    _COMPUTE[name] = compute

    def run(key: str, job: BaseJob, shards: list[dict[str, Any]], given: dict[str, Any]) -> dict[str, Any]:
        if job.config.execution.runner == "prefect":
            return _elsewhere(Group(name, key, job, shards, given))
        return compute_group(name, key, job, shards, given)

    run.__name__ = name.replace("-", "_")
    run.__doc__ = f"Compute shards of the stage {name}."
    return stage_task(name, lambda p: f"{name} {group_name(p['shards'])}")(run)


def _elsewhere(group: Group) -> dict[str, Any]:
    """A group on a Prefect worker; what failed tries of it had finished counts."""
    try:
        found = compute_elsewhere(group, group_name(group.shards))
    except Exception as e:
        _BEFORE[group.key] += getattr(e, "computed", 0)
        raise
    return {**found, "computed": found["computed"] + _BEFORE.pop(group.key, 0)}


def compute_group(
    name: str, key: str, job: BaseJob, shards: list[dict[str, Any]], given: dict[str, Any]
) -> dict[str, Any]:
    """Compute shards of the task `name` one after another: items computed, peak memory, devices.

    A shard that fails lets the others go first, unless the input is wrong or the run stopped. So does one
    that another run computes at this moment.
    """
    peak, devices = 0.0, set[str]()
    failed: Exception | None = None
    queue = deque((shard, len(shards) == 1) for shard in shards)
    while queue:
        shard, wait = queue.popleft()
        own = shard_key(name, job, shard, given)
        try:
            with alone(job, own, wait):
                found = _COMPUTE[name](own, job, shard, given)
        except Taken:
            queue.append((shard, True))
            continue
        except (Stopped, UserError):
            raise
        except Exception as e:
            if len(shards) > 1:
                e.add_note(f"shard {shard['name']}")
            # One that may pass goes before one that stays: it is worth another try of the group.
            failed = e if failed is None or is_permanent(failed) else failed
            continue
        _BEFORE[key] += found["computed"]
        peak = max(peak, found.get("peak_rss_mb", 0.0))
        devices.add(found["device"])
    if failed is not None:
        raise failed
    return {"computed": _BEFORE.pop(key, 0), "peak_rss_mb": peak, "devices": sorted(devices)}


def computed_before(key: str) -> int:
    """Items that the tries of a task that failed had finished; asked once."""
    return _BEFORE.pop(key, 0)


def group_name(shards: list[dict[str, Any]]) -> str:
    """What a group of shards is called."""
    first = str(shards[0]["name"])
    return first if len(shards) == 1 else f"{first} and {len(shards) - 1} more"


def shard_key(name: str, job: BaseJob, shard: dict[str, Any], given: dict[str, Any]) -> str:
    """Identity of a shard's work, whatever of it was missing when it was planned."""
    what = {k: v for k, v in shard.items() if k != "missing"}
    return digest([name, job.identity.values, *job.identity.encoders, given, what])


def on_device(name: str) -> Task[..., Any]:
    """The task of shards that need a device: each takes a slot of the pool and its worker process."""

    def compute(key: str, job: BaseJob, shard: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
        return pool_of(job.config).run(key, Request(name, job, shard, given), current)

    return shard_task(name, compute)


def _estimate(key: str, job: Job, shard: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Estimates of one block of rows: memory and all cores of this process, or a slot of a cluster."""
    if job.config.execution.runner == "ray":
        return pool_of(job.config).run(key, Request("estimate-influence", job, shard, given), current)
    return {"computed": estimate(job, shard, given, current), "device": "cpu"}


embed = on_device("embed")
prepare_function = on_device("prepare-function")
features = on_device("features")
estimator_features = on_device("estimator-features")
exact_influence = on_device("exact-influence")
fine_tune = on_device("fine-tune")
evaluate = on_device("evaluate")
embed_texts = on_device("embed-texts")
train_scores = on_device("train-scores")
train_subsets = on_device("train-subsets")
estimate_influence = shard_task("estimate-influence", _estimate)
