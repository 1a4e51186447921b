"""A small real job, its undisturbed result, and workspaces of it to be damaged and looked at afterwards."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from stored_jobs import exact_job

from faults.driver import drive
from nncift_core.execution.job import Job
from nncift_core.execution.pool import close_pools, pool_of
from nncift_core.pipeline.exact import plan_exact
from nncift_core.store.files import MANIFEST_SUFFIX, delete, read_manifest
from nncift_core.store.segments import SegmentStore
from nncift_core.store.shards import Signature, readable
from tasks.current import current
from tasks.shards import exact_influence, shard_key

# Marks every process that a world has started, and those that these start.
MARK = "NNCIFT_FAULTS"
TESTS = Path(__file__).parent.parent
REPEAT = 3


def make_job(folder: Path) -> Job:
    """A stored job, every pair of which is to be computed exactly: 69 pool rows x 12 targets, 9 shards."""
    job = exact_job(folder, REPEAT, devices=["cpu"], retries=2, retry_seconds=0.2)
    plan_exact(job.problem())
    return job


class World:
    """The job, what an undisturbed run of it stores, and a folder for trials."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mark = uuid.uuid4().hex
        self.children: list[Child] = []
        os.environ[MARK] = self.mark
        (folder / "job").mkdir(parents=True)
        self.job = make_job(folder / "job")
        whole = self.copy("whole", self.job.ws.root)
        assert sum(drive(whole.job).values()) == whole.total
        self.whole, self.values = whole, whole.stored()

    def close(self) -> None:
        """End the worker processes."""
        self.end_children()
        close_pools()
        os.environ.pop(MARK, None)

    def copy(self, name: str, source: Path, place: Path | None = None, **execution: Any) -> Trial:
        """A workspace of its own, as `source` is; execution: keys of the config that differ."""
        root = (place or self.folder) / name
        shutil.copytree(source, root)
        config = json.loads(self.job.config_json)
        config["execution"] |= execution
        changed = {"workspace": str(root), "config_json": json.dumps(config)}
        return Trial(self, self.job.model_copy(update=changed))

    def trial(self, name: str, missing: int, rng: random.Random, **given: Any) -> Trial:
        """A workspace in which `missing` tiles are still to be computed."""
        trial = replace(self.copy(name, self.whole.root, **given), lacking=missing)
        for path in rng.sample(trial.tiles(), missing):
            delete(path)
        return trial

    def processes(self, module: str) -> list[int]:
        """Process ids of `python -m MODULE` that this world started, this process's own workers left out."""
        own = pool_of(self.job.config).pids()
        return [pid for pid in marked(f"{MARK}={self.mark}", module) if pid not in own]

    def child(self, *args: str) -> Child:
        """`python -m ARGS`, marked, with these tests in its path."""
        path = os.pathsep.join([str(TESTS), str(TESTS.parent)])
        self.children.append(Child(args, {**os.environ, "PYTHONPATH": path}))
        return self.children[-1]

    def end_children(self) -> None:
        """Kill the processes that are left of a trial that failed."""
        for child in self.children:
            child.process.kill()
            child.process.wait()
        self.children.clear()


def marked(mark: str, module: str) -> Iterator[int]:
    """Process ids of `python -m MODULE` that were started with `mark` in their environment."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            command = (folder / "cmdline").read_bytes().split(b"\0")
            if module.encode() in command and mark.encode() in (folder / "environ").read_bytes().split(b"\0"):
                yield int(folder.name)


class Child:
    """A process that says "ready" once its imports are done."""

    def __init__(self, args: tuple[str, ...], env: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", *args],
            cwd=TESTS, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def ready(self) -> Child:
        """Wait until it is."""
        assert self.process.stdout is not None and self.process.stdout.readline() == "ready\n"
        return self

    def go(self) -> None:
        """Let it go on."""
        assert self.process.stdin is not None
        print(file=self.process.stdin, flush=True)

    def kill(self) -> None:
        """SIGKILL; it must still run."""
        assert self.process.poll() is None, "it ended before it could be killed"
        self.process.kill()
        self.process.wait()

    def result(self, seconds: float = 120) -> dict[str, int]:
        """What it printed at its end."""
        said, _ = self.process.communicate(timeout=seconds)
        assert self.process.returncode == 0, f"it ended with {self.process.returncode}"
        found: dict[str, int] = json.loads(said)
        return found


class At:
    """A stage of which the progress sets something off: `action`, `delay` seconds after `items` are done."""

    def __init__(self, items: float, delay: float, action: Callable[[], object]) -> None:
        self.total, self.done, self._after = 0, 0, items
        self._timer = threading.Timer(delay, self._run)
        self._action, self._started = action, False
        self.happened: list[object] = []

    def advance(self, items: int) -> None:
        self.done += items
        if not self._started and self.done >= self._after:
            self._started = True
            self._timer.start()

    def _run(self) -> None:
        self.happened.append(self._action())

    def over(self) -> object:
        """What the action gave."""
        assert self._started, "the run ended before its moment came"
        self._timer.join()
        assert self.happened, "the fault was not injected"
        return self.happened[0]


@dataclass(frozen=True)
class Trial:
    """One workspace, and what must hold of it; lacking: tiles that it was made without."""

    world: World
    job: Job
    lacking: int = 0

    @property
    def root(self) -> Path:
        """Its folder."""
        return Path(self.job.workspace)

    @property
    def total(self) -> int:
        """All pairs of the job."""
        problem = self.job.problem()
        return len(problem.rows) * len(problem.columns)

    @property
    def folder(self) -> Path:
        """Where exact values are stored."""
        return self.job.ws.exact_dir(self.job.identity.values)

    def tiles(self) -> list[Path]:
        """Files of exact values, damaged or not."""
        return sorted(self.folder.glob("*.parquet"))

    def finished(self) -> dict[str, Signature]:
        """Tiles that count, and what tells each from one written later."""
        return readable(self.folder)

    def pairs(self) -> int:
        """Pairs of the tiles that count."""
        manifests = [read_manifest(self.folder / name) for name in self.finished()]
        return sum(m.rows for m in manifests if m is not None)

    def in_flight(self) -> list[str]:
        """Names of the shards that lack something and whose lock somebody holds."""
        problem = self.job.problem()
        problem.look_again()
        found = []
        for shard in [s for s in plan_exact(problem).shards if s.missing]:
            key = shard_key(exact_influence.name, self.job, asdict(shard), {})
            path = self.job.ws.lock(f"shard-{int(key[:8], 16) % 1024:04d}")
            if path.is_file() and is_held(path):
                found.append(shard.name)
        return found

    def stored(self) -> np.ndarray:
        """The values as a new reader finds them: float32 [rows, columns], NaN where there is none."""
        problem = self.job.problem()
        out = np.full((len(problem.rows), len(problem.columns)), np.nan, np.float32)
        SegmentStore(self.job.ws, "exact", self.job.identity.values).fill(problem.rows, problem.columns, out)
        return out

    def drive(self, stage: At | None = None) -> dict[str, int]:
        """A run in this process, its shards in worker processes; pairs computed by shard."""
        if stage is None:
            return drive(self.job)
        current.start(stage)
        stage.advance(0)
        try:
            return drive(self.job)
        finally:
            current.stage = None

    def child(self, order: int = 0) -> Child:
        """A process that drives this job, ready to go."""
        spec = self.root.with_name(f"{self.root.name}-{uuid.uuid4().hex[:6]}.json")
        spec.write_text(self.job.model_dump_json(), encoding="utf-8")
        return self.world.child("faults.driver", str(spec), str(order)).ready()

    def rerun(self, kept: dict[str, Signature]) -> None:
        """Run again: all that is missing is computed, nothing else, and all is as without the fault.

        kept: tiles finished before, which must stay as they are.
        """
        missing = self.total - self.pairs()
        computed = sum(self.drive().values())
        assert computed == missing, f"the rerun computed {computed} pairs, {missing} were missing"
        self.whole(kept)

    def whole(self, kept: dict[str, Signature]) -> None:
        """Assert that everything is there, bit-equal, once, and nothing is left behind."""
        stored = self.stored()
        assert not np.isnan(stored).any(), f"{int(np.isnan(stored).sum())} pairs are missing"
        assert stored.tobytes() == self.world.values.tobytes(), "values differ from the undisturbed run's"
        now = self.finished()
        again = [name for name, seen in kept.items() if now.get(name) != seen]
        assert not again, f"finished tiles were written again: {again}"
        assert [p.name for p in self.tiles()] == sorted(now), "a tile without a manifest is left"
        assert sum(self.drive().values()) == 0, "one more run found something to do"
        self.clean()

    def clean(self) -> None:
        """Assert that no process, no lock and no visible half-written file is left."""
        no_orphans(self.world)
        free_locks(self.root)
        no_half_written(self.root)


def no_orphans(world: World, seconds: float = 10) -> None:
    """Assert that no worker process is left whose parent is gone."""
    deadline = time.monotonic() + seconds
    while (left := world.processes("nncift_core.execution.worker")) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left, f"orphan worker processes: {left}"


def free_locks(root: Path) -> None:
    """Assert that nobody holds a lock of the workspace."""
    deadline = time.monotonic() + 10
    while True:
        locks = [*root.rglob("*.lock"), *root.glob("locks/alive/*")]
        held = [str(path.relative_to(root)) for path in locks if path.is_file() and is_held(path)]
        # A large process that was killed needs a moment to give back what it has.
        if not held or time.monotonic() > deadline:
            break
        time.sleep(0.05)
    assert not held, f"still held: {held}"


def is_held(path: Path) -> bool:
    """Whether somebody holds the lock `path`."""
    with path.open("rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def no_half_written(root: Path) -> None:
    """Assert that what was written aside is hidden, and that every manifest can be read."""
    aside = [p.name for p in root.rglob("*.part") if not p.name.startswith(".")]
    assert not aside, f"half-written files are visible: {aside}"
    for path in root.rglob("*" + MANIFEST_SUFFIX):
        payload = path.with_name(path.name.removesuffix(MANIFEST_SUFFIX))
        assert read_manifest(payload) is not None, f"{path.relative_to(root)} cannot be read"
