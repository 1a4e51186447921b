"""A worker process seen from its parent: start, one shard at a time, notice death and silence, end."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO, Any, Protocol

from nncift_core.execution.failures import WorkerLost, ending, unpacked
from nncift_core.execution.models import Slot
from nncift_core.execution.work import Progress, Request
from nncift_core.execution.worker import message_of
from nncift_core.finetune.process import child_env

# Seconds between two looks at whether the run was stopped meanwhile.
_LOOK = 0.5
_GRACE = 10.0
_COMMAND = (sys.executable, "-m", "nncift_core.execution.worker")


class Worker:
    """A process that owns its slot's devices; it keeps its models from one shard to the next."""

    def __init__(self, slot: Slot, *, masked: bool, threads: int | None = None) -> None:
        """Start it. masked: the slot's GPUs are the only ones it sees (under the names "cuda:0", ...);
        threads: of its arithmetic, unless the environment says how many; None: every core."""
        self.slot, self.masked = slot, masked
        # A device that stands twice in a slot is one to be seen.
        seen = list(dict.fromkeys(slot.devices)) if masked and slot.device.startswith("cuda") else []
        devices = [f"cuda:{seen.index(d)}" if d in seen else d for d in slot.devices]
        end, self._lifeline = os.pipe()
        self._errors: IO[bytes] = tempfile.TemporaryFile()
        try:
            self._process = subprocess.Popen(
                [*_COMMAND, str(slot.number), ",".join(devices), str(end)],
                env=_threads_env(threads) | child_env(*seen),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                text=True,
                pass_fds=(end,),
                # A Ctrl-C of the terminal is for the parent, which ends this process with its children.
                start_new_session=True,
            )
        finally:
            os.close(end)
        self._lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def serve(self, request: Request, progress: Progress, hang_after: float) -> dict[str, Any]:
        """Have a shard computed; returns its counts. progress: told of every step, and asked now and then.

        hang_after: seconds without progress after which the process counts as hanging and is ended.
        Raises WorkerLost when it died or hung, the shard's own error (`failures.unpacked`) when it failed,
        and whatever `progress` raises; then the process is no longer usable.
        """
        message = message_of(request)
        # A pipe holds less than a large shard, and a process that hangs reads none of it.
        threading.Thread(target=self._send, args=(message,), daemon=True).start()
        last = time.monotonic()
        while True:
            try:
                line = self._lines.get(timeout=min(_LOOK, hang_after))
            except queue.Empty:
                progress.advance(0)
                if time.monotonic() - last > hang_after:
                    self.kill()
                    raise WorkerLost(
                        f"the worker process made no progress for {hang_after:.0f} s and was ended "
                        "(execution.hang_after)"
                    ) from None
                continue
            if line is None:
                raise WorkerLost(self._ending())
            last = time.monotonic()
            try:
                found = json.loads(line)
            except ValueError:
                # It died in the middle of a line.
                raise WorkerLost(self._ending()) from None
            if "advance" in found:
                progress.advance(found["advance"])
            elif "to" in found:
                progress.to(*found["to"])
            elif "error" in found:
                raise unpacked(found["error"])
            else:
                done: dict[str, Any] = found["done"]
                return done

    def _send(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            print(json.dumps(message), file=self._process.stdin, flush=True)
        except (OSError, ValueError):
            # The process has died, or was ended meanwhile.
            self._lines.put(None)

    def _ending(self) -> str:
        """Why the process has ended, once it is gone for good."""
        try:
            code = self._process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            code = self._process.wait()
        self._errors.seek(0)
        return ending(code, self._errors.read().decode("utf-8", "replace"))

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def kill(self) -> None:
        """End it at once, with all that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1
        for stream in (self._process.stdin, self._errors):
            with contextlib.suppress(OSError):
                if stream is not None:
                    stream.close()


def _threads_env(threads: int | None) -> dict[str, str]:
    return {} if threads is None else {"OMP_NUM_THREADS": str(threads)}


class AnyWorker(Protocol):
    """What computes the shards of a slot: a process of this machine, or one elsewhere."""

    slot: Slot
    masked: bool

    @property
    def pid(self) -> int:
        """Process id, on its machine."""

    @property
    def alive(self) -> bool:
        """Whether it can be given a shard."""

    def serve(self, request: Request, progress: Progress, hang_after: float) -> dict[str, Any]:
        """Have a shard computed; see `Worker.serve`."""

    def kill(self) -> None:
        """End it at once."""


@dataclass
class Held:
    """The worker of a slot, if it has one; start: makes one for a slot, masked or not."""

    start: Callable[[Slot, bool], AnyWorker]
    worker: AnyWorker | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def get(self, slot: Slot, *, masked: bool) -> AnyWorker:
        """The worker, started when there is none that lives and sees what this work may see."""
        with self.lock:
            if self.worker is None or not self.worker.alive or self.worker.masked != masked:
                self._drop()
                self.worker = self.start(slot, masked)
            return self.worker

    def drop(self) -> None:
        """End the worker."""
        with self.lock:
            self._drop()

    def _drop(self) -> None:
        if self.worker is not None:
            self.worker.kill()
            self.worker = None
