"""The device slots of a machine: one shard at a time on each, in a process of its own.

A shard that failed is given another slot than before, where there is one; a slot on which several shards in a
row failed is no longer used while others stand.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from nncift_core.config import Config
from nncift_core.config_execution import ExecutionConfig, WorkersConfig
from nncift_core.devices import resolve_devices, usable_cores
from nncift_core.execution import models
from nncift_core.execution.failures import NoRoom, is_permanent
from nncift_core.execution.job import AnyConfig
from nncift_core.execution.models import Slot
from nncift_core.execution.process import AnyWorker, Held, Worker
from nncift_core.execution.work import Progress, Request, perform
from nncift_core.finetune import settings
from nncift_core.placement import slot_groups

Isolation = Literal["process", "thread"]
# Shards that fail one after another on a device before it is left alone.
_BAD_AFTER = 3
_LOOK = 0.5


class DevicePool:
    """The slots of `[execution] devices`; several may stand on one device, or one on several."""

    def __init__(self, devices: list[str], isolation: Isolation, each: int = 1) -> None:
        """each: devices of a slot, taken in order; those that are left over make none, and `unused` says so.
        Raises UserError where there are fewer."""
        groups, left = slot_groups(devices, each)
        self.unused = ""
        if left:
            names = ", ".join(left)
            self.unused = f"{names}: not used, for a slot takes {each} devices (language_model.devices)"
        self.slots = [Slot(number, group[0], group) for number, group in enumerate(groups)]
        self.isolation = isolation
        self.retired: list[Slot] = []
        self._free = list(self.slots)
        self._changed = threading.Condition()
        self._without_room: set[int] = set()
        self._failed_on: dict[str, set[int]] = defaultdict(set)
        self._in_a_row: dict[int, set[str]] = defaultdict(set)
        self._workers = {slot.number: Held(self._start) for slot in self.slots}
        on_cpu = self.devices.count("cpu")
        # Slots that share the cores would each start as many threads as there are cores.
        self._threads = max(1, usable_cores() // on_cpu) if on_cpu > 1 else None

    @property
    def devices(self) -> list[str]:
        """The first device of each slot, in order."""
        return [slot.device for slot in self.slots]

    @property
    def where(self) -> str:
        """What costs are booked on."""
        return ",".join(slot.where for slot in self.slots)

    def _start(self, slot: Slot, masked: bool) -> AnyWorker:
        return Worker(slot, masked=masked, threads=self._threads)

    def run(self, key: str, request: Request, progress: Progress) -> dict[str, Any]:
        """Compute a shard on a free slot; returns its counts and its device.

        key: of the shard, the same for every try. Raises what the shard raised, and WorkerLost when its
        process died or hung; a new process then takes its place.
        """
        while True:
            with self._taken(key, progress) as slot:
                try:
                    done = self._compute(request, slot, progress)
                except NoRoom:
                    self._without_room.add(slot.number)
                    continue
                except Exception as e:
                    self._note_failure(slot, key, e)
                    raise
                self._in_a_row[slot.number].clear()
                return {"device": slot.device, **done}

    def _compute(self, request: Request, slot: Slot, progress: Progress) -> dict[str, Any]:
        if self.isolation == "thread":
            return {"computed": perform(request, slot, progress)}
        held = self._workers[slot.number]
        try:
            worker = held.get(slot, masked=_masks(request))
            return worker.serve(request, progress, request.job.config.execution.hang_after)
        except BaseException:
            # After an error a device may be in any state: the next shard gets a process without a past.
            held.drop()
            raise

    @contextmanager
    def _taken(self, key: str, progress: Progress) -> Iterator[Slot]:
        """Wait for a slot on which this shard has not failed yet, if there is any, and hold it."""
        with self._changed:
            while (slot := self._fitting(key)) is None:
                if not self._changed.wait(_LOOK):
                    progress.advance(0)
            self._free.remove(slot)
        try:
            yield slot
        finally:
            with self._changed:
                # The one that was used last is the next: its process has its models loaded.
                at = len(self._free) if slot.number in self._without_room else 0
                self._without_room.discard(slot.number)
                self._free.insert(at, slot)
                self._changed.notify_all()

    def _fitting(self, key: str) -> Slot | None:
        good = [s for s in self.slots if s not in self.retired]
        others = [s for s in good if s.number not in self._failed_on[key]]
        return next((s for s in self._free if s in (others or good)), None)

    def _note_failure(self, slot: Slot, key: str, error: Exception) -> None:
        if is_permanent(error):
            return
        with self._changed:
            self._failed_on[key].add(slot.number)
            self._in_a_row[slot.number].add(key)
            left = [s for s in self.slots if s not in self.retired and s != slot]
            if len(self._in_a_row[slot.number]) >= _BAD_AFTER and left and slot not in self.retired:
                self.retired.append(slot)
                self._changed.notify_all()

    def pids(self) -> list[int]:
        """Process ids of the workers that live, on whichever machine they are."""
        return [h.worker.pid for h in self._workers.values() if h.worker is not None and h.worker.alive]

    # Whether `leave` makes the pool unusable.
    leaves = False

    def leave(self) -> None:
        """The job is over."""
        self.close()

    def close(self) -> None:
        """End the worker processes and free the models: their memory is needed elsewhere. The pool stays
        usable, and every slot gets another chance."""
        for held in self._workers.values():
            held.drop()
        models.forget_models()
        with self._changed:
            self.retired.clear()
            self._failed_on.clear()
            self._in_a_row.clear()


class Places(DevicePool):
    """Places for groups of shards that Prefect workers compute: this process only waits for them."""

    def __init__(self, workers: WorkersConfig) -> None:
        super().__init__(["cpu"] * workers.slots, "thread")
        self.deployment = workers.deployment

    @property
    def where(self) -> str:
        """What costs are booked on."""
        return f"prefect: {len(self.slots)} x {self.deployment}"


def _masks(request: Request) -> bool:
    """Whether a worker may see its slot's GPUs alone: no section names a GPU of its own, and this is no
    training that takes several."""
    config = request.job.config
    if request.work == "fine-tune" and settings(config).devices > 1:
        return False
    return not any(device.startswith("cuda") for device in config.named_devices)


_LOCK = threading.Lock()
_POOLS: dict[Any, DevicePool] = {}


def pool_of(config: AnyConfig) -> DevicePool:
    """This process's pool for `[execution]` of `config`.

    Raises UserError for a device that this machine lacks, fewer devices than one slot takes, and for a Ray
    cluster that cannot be used.
    """
    e: ExecutionConfig = config.execution
    # Whatever the function is: jobs of other functions beside this one have the same slots.
    each = config.language_model.devices if isinstance(config, Config) else 1
    devices = tuple(resolve_devices(e.devices)) if e.runner == "local" else ()
    where = {
        "local": (devices, e.isolation, each),
        "ray": e.cluster.for_teacher(each),
        "prefect": e.workers,
    }[e.runner]
    with _LOCK:
        if where not in _POOLS:
            _POOLS[where] = _pool(e, list(devices), each)
        return _POOLS[where]


def _pool(execution: ExecutionConfig, devices: list[str], each: int) -> DevicePool:
    if execution.runner == "prefect":
        return Places(execution.workers)
    if execution.runner == "ray":
        # Ray is an extra.
        from nncift_core.execution.ray_pool import RayPool

        return RayPool(execution.cluster.for_teacher(each))
    return DevicePool(devices, execution.isolation, each)


def close_pools() -> None:
    """End every worker process of this process."""
    with _LOCK:
        pools = list(_POOLS.values())
    for pool in pools:
        pool.close()


def leave_pools() -> None:
    """The same at the end of a job, with the connections to other machines."""
    with _LOCK:
        pools = list(_POOLS.items())
        for where, pool in pools:
            if pool.leaves:
                del _POOLS[where]
    for _, pool in pools:
        pool.leave()
