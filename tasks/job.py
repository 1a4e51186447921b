"""What every task needs to know of the job, and the models that tasks of one process share."""

from __future__ import annotations

import gc
import json
import queue
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pydantic import BaseModel, ConfigDict

from nncift_core.config import Config, parse_config
from nncift_core.devices import pick, resolve_devices
from nncift_core.encoders import Encoder, load_encoder
from nncift_core.influence.contract import InfluenceFunction
from nncift_core.influence.registry import create
from nncift_core.language_models import LanguageModel, language_model_key, load_language_model
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


@dataclass(frozen=True)
class Slot:
    """A place to compute: several slots may stand on one device."""

    number: int
    device: str


class DeviceSlots:
    """The slots of `[execution] devices`; a task holds one while it computes."""

    def __init__(self, devices: list[str]) -> None:
        self.devices = devices
        self._free: queue.Queue[Slot] = queue.Queue()
        for number, device in enumerate(devices):
            self._free.put(Slot(number, device))

    @contextmanager
    def take(self) -> Iterator[Slot]:
        """Wait for a free slot and hold it."""
        slot = self._free.get()
        try:
            yield slot
        finally:
            self._free.put(slot)


@dataclass(frozen=True)
class _Shared:
    """A loaded model, and who may use it now: models take hooks and keep counts, so one task at a time."""

    model: Any
    lock: threading.Lock


_LOCK = threading.Lock()
_MODELS: dict[tuple[str, str, str], _Shared] = {}
_SLOTS: dict[tuple[str, ...], DeviceSlots] = {}


def slots(config: Config) -> DeviceSlots:
    """The device slots of this process for `[execution] devices`.

    Raises UserError for a device that this machine lacks.
    """
    devices = tuple(resolve_devices(config.execution.devices))
    with _LOCK:
        return _SLOTS.setdefault(devices, DeviceSlots(list(devices)))


@contextmanager
def _shared(
    kind: str, key: str, setting: str, slot: Slot, make: Callable[[str], Any]
) -> Iterator[tuple[Any, str]]:
    """A model loaded once per process and slot, and its device; only the newest of a kind is kept.

    setting: the section's `device`; where it names one, all slots share the one model there, in turns.
    """
    device = pick(setting, slot.device, f"{kind}.device")
    place = str(slot.number) if setting == "auto" else device
    with _LOCK:
        if (kind, key, place) not in _MODELS:
            for old in [m for m in _MODELS if m[0] == kind and m[2] == place]:
                del _MODELS[old]
            _MODELS[kind, key, place] = _Shared(make(device), threading.Lock())
        found = _MODELS[kind, key, place]
    with found.lock:
        yield found.model, device


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


@contextmanager
def encoder(job: Job, slot: Slot) -> Iterator[tuple[Encoder, str]]:
    """The job's encoder for this slot, and its device."""
    section = job.config.encoder

    def make(device: str) -> Encoder:
        return load_encoder(section, device, job.base_dir)

    with _shared("encoder", job.identity.encoder, section.device, slot, make) as found:
        yield found


@contextmanager
def language_model(job: Job, slot: Slot) -> Iterator[tuple[LanguageModel, str]]:
    """The model of `[language_model]` as it is for this slot, and its device.

    It takes the place of the slot's influence function, which may have wrapped its copy in adapters, so that
    a device holds one of them at a time.
    """
    config = job.config
    section = config.language_model

    def make(device: str) -> LanguageModel:
        return load_language_model(section, device, config.base_dir)

    key = f"teacher/{language_model_key(section, config.base_dir)}"
    with _shared("language_model", key, section.device, slot, make) as found:
        yield found


@contextmanager
def function(job: Job, slot: Slot) -> Iterator[tuple[InfluenceFunction, str]]:
    """The job's influence function for this slot, with its state once the job knows it, and its device.

    Its models load when values are asked for.
    """
    section = job.config.language_model

    def make(device: str) -> InfluenceFunction:
        fresh = create(job.config, device)
        if job.identity.state is not None:
            fresh.load_state(job.ws.state_dir(job.identity.state))
        return fresh

    key = f"{job.identity.values}/{section.batch_tokens}"
    with _shared("language_model", key, section.device, slot, make) as found:
        yield found
