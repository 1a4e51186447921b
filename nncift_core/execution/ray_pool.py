"""The slots of a Ray cluster, with the same promises as those of this machine."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable
from typing import Any

from nncift_core import __version__
from nncift_core.config_execution import RayConfig
from nncift_core.errors import UserError
from nncift_core.execution.failures import NoRoom, Unfit, WorkerLost, unpacked
from nncift_core.execution.models import Slot
from nncift_core.execution.pool import DevicePool
from nncift_core.execution.ray_cluster import Cluster
from nncift_core.execution.work import Progress, Request
from nncift_core.execution.worker import message_of

# Seconds between two looks at how far a shard is, and that an actor may take for a short answer.
_LOOK, _ANSWER = 0.5, 30.0
# Seconds that a slot is given to be placed before its shard may go to another one; until waiting is told.
_PLACED, _PATIENT = 5.0, 60.0
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_LOG = logging.getLogger("nncift.execution")


class RayWorker:
    """An actor seen from the flow: like `process.Worker`, on some machine of the cluster."""

    def __init__(self, cluster: Cluster, slot: Slot, is_room: Callable[[], bool]) -> None:
        """is_room: whether a slot that has its place is free."""
        self._is_room = is_room
        self.slot, self.masked, self.alive, self.pid = slot, True, True, 0
        self._ray, self._cluster = cluster.ray, cluster
        self._actor = cluster.actor(slot.number)
        self.known = False
        self._asked: Any = None

    def serve(self, request: Request, progress: Progress, hang_after: float) -> dict[str, Any]:
        """As `process.Worker.serve`. Waiting for room in the cluster is no hanging."""
        if not self.known:
            self._meet(request, progress)
        answer = self._actor.serve.remote(json.dumps(message_of(request)))
        last, signs = time.monotonic(), 0
        while not self._ready(answer):
            heard = self._heard()
            progress.advance(heard.get("advance", 0))
            if heard.get("to"):
                progress.to(*heard["to"])
            if heard.get("signs", signs) != signs:
                last, signs = time.monotonic(), heard["signs"]
            if time.monotonic() - last > hang_after:
                self.kill()
                raise WorkerLost(
                    f"the Ray worker made no progress for {hang_after:.0f} s and was ended "
                    "(execution.hang_after)"
                )
        found = json.loads(self._get(answer))
        progress.advance(self._heard().get("advance", 0))
        if "error" in found:
            raise unpacked(found["error"])
        done: dict[str, Any] = found["done"]
        return done

    def _meet(self, request: Request, progress: Progress) -> None:
        """Wait until the actor is placed, and see that it can do the work at all.

        Raises NoRoom once a slot that has its place is free: the cluster may never have room for more.
        """
        ws = request.job.ws
        with ws.marked() as mark:
            answer = self._actor.about.remote(ws.address, mark)
            begun, told = time.monotonic(), False
            while not self._ready(answer):
                progress.advance(0)
                waited = time.monotonic() - begun
                if waited > _PLACED and self._is_room():
                    raise NoRoom
                if waited > _PATIENT and not told:
                    told = True
                    _LOG.warning("slot %d waits for room in the Ray cluster", self.slot.number)
            found = json.loads(self._get(answer))
        self.pid = found["pid"]
        if "error" in found:
            raise _unfit(unpacked(found["error"]), found["host"])
        if found["version"] != __version__:
            wrong = UserError(
                f"{found['host']} has nncift {found['version']}, this machine {__version__}",
                field="execution.ray",
                mend="Install the same version on all machines of the cluster.",
            )
            raise Unfit(wrong)
        if not found["sees"]:
            wrong = UserError(
                f"{found['host']} does not see the workspace {ws.address}",
                field="--workspace",
                mend="Give a folder that all machines of the cluster share under this path.",
            )
            raise Unfit(wrong)
        self.known = True

    def _ready(self, answer: Any) -> bool:
        done, _ = self._ray.wait([answer], timeout=_LOOK)
        return bool(done)

    def _get(self, answer: Any) -> str:
        """What a call gave; raises WorkerLost where the actor or its machine is gone."""
        try:
            text: str = self._ray.get(answer, timeout=_ANSWER)
            return text
        except self._ray.exceptions.RayError as e:
            self.alive = False
            # The reason stands at the end of a traceback.
            said = " ".join(_COLOURS.sub("", str(e)).split())[-400:]
            raise WorkerLost(f"the Ray worker was lost: {said}") from None

    def _heard(self) -> dict[str, Any]:
        """Progress since the last look; nothing where the actor does not answer just now."""
        # One question at a time: an actor that hangs shall not find a heap of them.
        asked = self._asked if self._asked is not None else self._actor.told.remote()
        done, _ = self._ray.wait([asked], timeout=_LOOK)
        self._asked = None if done else asked
        if not done:
            return {}
        found: dict[str, Any] = json.loads(self._get(asked))
        return found

    def kill(self) -> None:
        """End the actor at once, or its request for room."""
        self.alive = False
        if self._ray.is_initialized():
            try:
                self._ray.kill(self._actor, no_restart=True)
            except (self._ray.exceptions.RayError, ConnectionError) as e:
                # With the connection the cluster ends it, too.
                _LOG.warning("slot %d could not be ended (%s)", self.slot.number, type(e).__name__)


def _unfit(error: Exception, host: str) -> Exception:
    """What another machine may not lack; e.g. credentials."""
    if not isinstance(error, UserError):
        return error
    where = UserError(
        f"{host}: {error.what}", file=error.file, line=error.line, field=error.field, mend=error.mend
    )
    return Unfit(where)


class RayPool(DevicePool):
    """One slot for each share of the cluster; `devices`: of this process, which computes no shard."""

    leaves = True

    def __init__(self, config: RayConfig) -> None:
        self.cluster = Cluster(config)
        super().__init__(["ray"] * self.cluster.slots, "process")

    @property
    def devices(self) -> list[str]:
        """Where this process does what is no shard."""
        return ["cpu"]

    @property
    def where(self) -> str:
        """What costs are booked on."""
        return f"ray: {len(self.slots)} x {self.cluster.resources.told()}"

    def _start(self, slot: Slot, masked: bool) -> RayWorker:
        return RayWorker(self.cluster, slot, self._is_room)

    def _is_room(self) -> bool:
        with self._changed:
            workers = [self._workers[slot.number].worker for slot in self._free if slot not in self.retired]
        return any(isinstance(w, RayWorker) and w.known and w.alive for w in workers)

    def leave(self) -> None:
        """End the actors and the connection."""
        self.close()
        self.cluster.disconnect()
