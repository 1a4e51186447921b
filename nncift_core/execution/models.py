"""Models that shards share: loaded once per process and slot, the newest of a kind only."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from nncift_core.config import LanguageModelConfig
from nncift_core.devices import pick
from nncift_core.encoders import Encoder, load_encoder
from nncift_core.execution.job import BaseJob, Job
from nncift_core.influence.contract import InfluenceFunction
from nncift_core.influence.registry import create
from nncift_core.language_models import LanguageModel, language_model_key, load_language_model
from nncift_core.store.remote.mirrors import bring


@dataclass(frozen=True)
class Slot:
    """A place to compute: several slots may stand on one device.

    devices: all of the slot's, `device` the first; a teacher may be spread over them
    (`language_model.devices`), whatever else computes takes the first.
    """

    number: int
    device: str
    devices: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "devices", self.devices or (self.device,))

    @property
    def where(self) -> str:
        """Its devices as one text."""
        return "+".join(self.devices)


@dataclass(frozen=True)
class _Shared:
    """A loaded model, and who may use it now: models take hooks and keep counts, so one task at a time."""

    model: Any
    lock: threading.Lock


_LOCK = threading.Lock()
_MODELS: dict[tuple[str, str, str], _Shared] = {}


@contextmanager
def _shared(
    kind: str, key: str, setting: str, slot: Slot, make: Callable[[str], Any]
) -> Iterator[tuple[Any, str]]:
    """A model loaded once per process and slot, and its device; only the newest of a kind is kept.

    setting: the section's `device`; where it names one, all slots share the one model there, in turns.
    """
    device = pick(setting, slot.device, f"{kind}.device")
    place = f"{slot.number} {slot.where}" if setting == "auto" else device
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


def _spread(section: LanguageModelConfig, slot: Slot) -> tuple[str, ...]:
    """The devices that a teacher is spread over in this slot; none where it lies on one."""
    return slot.devices if section.devices > 1 else ()


@contextmanager
def encoder(job: BaseJob, slot: Slot) -> Iterator[tuple[Encoder, str]]:
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
        return load_language_model(section, device, config.base_dir, _spread(section, slot))

    key = f"teacher/{section.devices}/{language_model_key(section, config.base_dir)}"
    with _shared("language_model", key, section.device, slot, make) as found:
        yield found


@contextmanager
def function(job: Job, slot: Slot) -> Iterator[tuple[InfluenceFunction, str]]:
    """The job's influence function for this slot, with its state once the job knows it, and its device.

    Its models load when values are asked for.
    """
    section = job.config.language_model

    def make(device: str) -> InfluenceFunction:
        fresh = create(job.config, device, *_spread(section, slot)[1:])
        if job.identity.state is not None:
            folder = job.ws.state_dir(job.identity.state)
            bring(folder, folder.glob("*"))
            fresh.load_state(folder)
        return fresh

    key = f"{job.identity.values}/{section.batch_tokens}/{section.devices}"
    with _shared("language_model", key, section.device, slot, make) as found:
        yield found
