"""What every task needs to know of the job, and the models that tasks of one process share."""

from __future__ import annotations

import gc
import json
import queue
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from pydantic import BaseModel, ConfigDict

from nncift_core.config import Config, parse_config
from nncift_core.devices import resolve_devices
from nncift_core.encoders import Encoder, load_encoder
from nncift_core.influence.contract import InfluenceFunction
from nncift_core.influence.registry import create
from nncift_core.pipeline.problem import Keys, Problem
from nncift_core.store.references import DatasetRef
from nncift_core.store.workspace import Workspace


class Job(BaseModel):
    """The resolved job: config, workspace folder, keys and the data sets once they are stored."""

    model_config = ConfigDict(frozen=True)

    workspace: str
    config_json: str
    base_dir: str
    identity: Keys
    datasets: tuple[DatasetRef, ...] = ()

    @property
    def config(self) -> Config:
        """The validated config."""
        return parse_config(json.loads(self.config_json), base_dir=self.base_dir)

    @property
    def ws(self) -> Workspace:
        """The workspace."""
        return Workspace(self.workspace)

    def problem(self) -> Problem:
        """The matrix of this job; its index is read once per process."""
        return _problem(self)


@lru_cache(maxsize=2)
def _problem(job: Job) -> Problem:
    return Problem.load(job.ws, job.config, job.identity, list(job.datasets))


def forget_indices() -> None:
    """Make the next `problem()` look at the files again (called once per flow run)."""
    _problem.cache_clear()


class DeviceSlots:
    """One slot per device; a task holds a slot while it computes."""

    def __init__(self, devices: list[str]) -> None:
        self.devices = devices
        self._free: queue.Queue[str] = queue.Queue()
        for d in devices:
            self._free.put(d)

    @contextmanager
    def take(self) -> Iterator[str]:
        """Wait for a free device and hold it."""
        device = self._free.get()
        try:
            yield device
        finally:
            self._free.put(device)


_LOCK = threading.Lock()
_MODELS: dict[tuple[str, str, str], Any] = {}
_SLOTS: dict[tuple[str, ...], DeviceSlots] = {}


def slots(config: Config) -> DeviceSlots:
    """The device slots of this process for `[execution] devices`.

    Raises UserError for a device that this machine lacks.
    """
    devices = tuple(resolve_devices(config.execution.devices))
    with _LOCK:
        return _SLOTS.setdefault(devices, DeviceSlots(list(devices)))


def _shared(kind: str, key: str, device: str, make: Callable[[], Any]) -> Any:
    """A model loaded once per process and device; only the newest of a kind is kept."""
    with _LOCK:
        if (kind, key, device) not in _MODELS:
            for old in [m for m in _MODELS if m[0] == kind and m[2] == device]:
                del _MODELS[old]
            _MODELS[kind, key, device] = make()
        return _MODELS[kind, key, device]


def forget_models() -> None:
    """Free the models that tasks share, and their device memory: training needs it."""
    with _LOCK:
        _MODELS.clear()
    gc.collect()
    free_device_memory()


def free_device_memory() -> None:
    """Give cached device memory back, so that other processes can have it."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def encoder(job: Job, device: str) -> Encoder:
    """The job's encoder on `device`."""
    key = job.identity.encoder
    loaded: Encoder = _shared(
        "encoder", key, device, lambda: load_encoder(job.config.encoder, device, job.base_dir)
    )
    return loaded


def function(job: Job, device: str) -> InfluenceFunction:
    """The job's influence function on `device`, with its state once the job knows it.

    Its models load when values are asked for.
    """
    key = f"{job.identity.values}/{job.config.language_model.batch_tokens}"

    def make() -> InfluenceFunction:
        fresh = create(job.config, device)
        if job.identity.state is not None:
            fresh.load_state(job.ws.state_dir(job.identity.state))
        return fresh

    made: InfluenceFunction = _shared("function", key, device, make)
    return made
