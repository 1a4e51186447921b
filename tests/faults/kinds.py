"""What is done to runs and files: each kind injects a fault, has the run go on, asserts that nothing is lost.

A kind is a function of (world, name of a folder that is not there yet, random numbers).
"""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from faults import writer
from faults.driver import RUN
from faults.world import At, Child, Trial, World, free_locks, no_half_written, no_orphans
from nncift_core.execution.pool import pool_of
from nncift_core.store.files import is_intact, manifest_path
from nncift_core.store.runs import read_attempts
from nncift_core.store.segments import SegmentStore
from nncift_core.store.shards import readable
from nncift_core.store.workspace import Workspace

Kind = Callable[[World, str, random.Random], None]
_WAIT = 180.0
# Above what a tile and its manifest take is the rest of the file system.
_DISK = 4 << 20


def until(what: str, ready: Callable[[], bool]) -> None:
    """Wait for `ready`."""
    deadline = time.monotonic() + _WAIT
    while not ready():
        assert time.monotonic() < deadline, f"waited {_WAIT:.0f} s in vain for {what}"
        time.sleep(0.005)


def waits(pid: int) -> bool:
    """Whether a process stands before the lock of a shard, or holds it."""
    with suppress(FileNotFoundError):
        names = [os.readlink(f) for f in Path(f"/proc/{pid}/fd").iterdir()]
        return any(Path(name).name.startswith("shard-") for name in names)
    return False


def worker_of(trial: Trial) -> int:
    """The worker process of this process's pool, once there is one."""
    pool = pool_of(trial.job.config)
    until("a worker process", lambda: bool(pool.pids()))
    return pool.pids()[0]


def moment(rng: random.Random, trial: Trial, action: Callable[[], object], last: float = 0.7) -> At:
    """A random moment: at the start of a run, or once up to `last` of what `trial` lacks are done."""
    missing = trial.total - trial.pairs()
    return At(rng.uniform(-0.3, last) * missing, rng.uniform(0, 0.3), action)


def _survived(trial: Trial, at: At, kept: dict[str, tuple[int, int]]) -> None:
    """A run that tries the shard again by itself, and so ends complete."""
    missing = trial.total - trial.pairs()
    computed = trial.drive(at)
    at.over()
    # A tile whose process died between storing it and saying so is found there by the next try.
    unsaid = [name for name, pairs in computed.items() if not pairs]
    assert len(unsaid) <= 1
    assert sum(computed.values()) == missing or unsaid
    trial.whole(kept)


def worker_killed(world: World, name: str, rng: random.Random) -> None:
    """SIGKILL the worker process, as the kernel does when memory runs out."""
    trial = world.trial(name, rng.randint(3, 5), rng)
    _survived(trial, moment(rng, trial, lambda: os.kill(worker_of(trial), signal.SIGKILL)), trial.finished())


def worker_hangs(world: World, name: str, rng: random.Random) -> None:
    """SIGSTOP the worker process: it does not react any more."""
    # Above what a worker takes to start and load its model, during which it tells nothing.
    trial = world.trial(name, 3, rng, hang_after=20, retries=4)
    _survived(trial, moment(rng, trial, lambda: os.kill(worker_of(trial), signal.SIGSTOP)), trial.finished())


def file_limit(world: World, name: str, rng: random.Random) -> None:
    """The worker process may write only some hundred bytes to a file: no manifest, no payload fits."""
    trial = world.trial(name, rng.randint(3, 5), rng)
    size = rng.randint(0, 500)

    def limit() -> None:
        resource.prlimit(worker_of(trial), resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    _survived(trial, moment(rng, trial, limit), trial.finished())


def _child_at_random(trial: Trial, rng: random.Random) -> Child:
    """A process that drives the trial, at a random moment: before, while and after its worker starts."""
    child, before = trial.child(), len(trial.finished())
    enough = rng.choice([0, rng.randint(1, trial.lacking - 2)])
    child.go()
    until("tiles of the child", lambda: len(trial.finished()) - before >= enough)
    time.sleep(rng.uniform(0, 0.4 if enough else 5))
    return child


def _after_death(trial: Trial) -> None:
    """What holds at once after the process that drove the trial was killed, and after a rerun."""
    no_orphans(trial.world)
    free_locks(trial.root)
    assert [a["status"] for a in read_attempts(trial.job.ws) if a["run_id"] == RUN][-1] == "killed"
    trial.rerun(trial.finished())


def driver_killed(world: World, name: str, rng: random.Random) -> None:
    """SIGKILL the process that drives the run."""
    trial = world.trial(name, rng.randint(4, 6), rng)
    _child_at_random(trial, rng).kill()
    _after_death(trial)


def driver_killed_worker_stopped(world: World, name: str, rng: random.Random) -> None:
    """SIGKILL the process that drives the run while its worker cannot react."""
    trial = world.trial(name, rng.randint(4, 6), rng)
    child = trial.child()
    child.go()
    until("a worker of the child", lambda: bool(world.processes("nncift_core.execution.worker")))
    # Past the first lines of its program: before, it has no lifeline yet.
    time.sleep(rng.uniform(1.5, 5))
    for pid in world.processes("nncift_core.execution.worker"):
        os.kill(pid, signal.SIGSTOP)
    child.kill()
    _after_death(trial)


def holder_killed(world: World, name: str, rng: random.Random) -> None:
    """SIGKILL one of two runs while the other one waits for the lock of its shard."""
    trial = world.trial(name, rng.randint(3, 5), rng)
    before = len(trial.finished())
    holder = trial.child()
    holder.go()
    until("a first tile", lambda: len(trial.finished()) > before)
    held = _stop_within_a_shard(trial)
    waiting = trial.child(rng.randint(0, 1 << 30))
    waiting.go()
    for _ in range(2):
        # Twice: between two shards of its own it looks alike for a moment.
        until("the other run to wait", lambda: waits(waiting.process.pid) and trial.in_flight() == [held])
        time.sleep(rng.uniform(0.4, 1))
    kept = trial.finished()
    holder.kill()
    assert waiting.result()[held] > 0
    trial.whole(kept)


def _stop_within_a_shard(trial: Trial) -> str:
    """Stop the child's worker while it computes; the name of its shard, the lock of which stays held."""
    for _ in range(100):
        workers = trial.world.processes("nncift_core.execution.worker")
        for pid in workers:
            os.kill(pid, signal.SIGSTOP)
        if workers and (held := trial.in_flight()):
            return held[0]
        for pid in workers:
            os.kill(pid, signal.SIGCONT)
        time.sleep(0.02)
    raise AssertionError("the worker was never seen within a shard")


def two_runs(world: World, name: str, rng: random.Random) -> None:
    """Two runs at once: what one computes, the other one waits for."""
    trial = world.trial(name, 6, rng)
    kept, missing = trial.finished(), trial.total - trial.pairs()
    children = [trial.child(rng.randint(1, 1 << 30)) for _ in range(2)]
    for child in children:
        child.go()
        time.sleep(rng.uniform(0, 0.5))
    computed = [sum(child.result().values()) for child in children]
    assert sum(computed) == missing, f"{computed} pairs were computed for {missing}"
    trial.whole(kept)


def _writer_lost(world: World, root: Path, child: Child) -> None:
    """Whatever the writer has stored is whole; the rest is written now."""
    folder = SegmentStore(Workspace.create(root), "exact", writer.KEY).folder
    kept = readable(folder)
    for name in kept:
        assert is_intact(folder / name)
    assert writer.write_missing(root) == writer.TILES - len(kept)
    store = SegmentStore(Workspace.open(root), "exact", writer.KEY)
    for n in range(writer.TILES):
        out = np.full((4, len(writer.COLUMNS)), np.nan, np.float32)
        store.fill(writer.rows_of(n), writer.COLUMNS, out)
        assert out.tobytes() == writer.values_of(n).tobytes(), f"tile {n} differs"
    now = readable(folder)
    assert all(now[name] == seen for name, seen in kept.items()) and len(now) == writer.TILES
    free_locks(root)
    no_half_written(root)


def writer_killed(world: World, name: str, rng: random.Random) -> None:
    """SIGKILL a process that writes many small tiles, at any moment."""
    root = world.folder / name
    child = world.child("faults.writer", str(root), "0").ready()
    time.sleep(rng.uniform(0, 0.25))
    child.kill()
    _writer_lost(world, root, child)


def writer_killed_at_a_rename(world: World, name: str, rng: random.Random) -> None:
    """The same, just before or after payload or manifest take their names."""
    root = world.folder / name
    at = rng.choice([-1, 1]) * rng.randint(2, writer.TILES)
    child = world.child("faults.writer", str(root), str(at)).ready()
    assert child.process.wait(_WAIT) == -signal.SIGKILL
    _writer_lost(world, root, child)


def truncated(path: Path, rng: random.Random) -> None:
    """Lose the end of a file."""
    os.truncate(path, rng.randrange(1, path.stat().st_size))


def flipped(path: Path, rng: random.Random) -> None:
    """Turn one bit of a file over."""
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def emptied(path: Path, rng: random.Random) -> None:
    """Lose all of a file but its name."""
    os.truncate(path, 0)


def deleted(path: Path, rng: random.Random) -> None:
    """Lose a file."""
    path.unlink()


def damaged(how: Callable[[Path, random.Random], None], manifest: bool) -> Kind:
    """Damage a finished tile, or its manifest, at a random moment of a run."""

    def kind(world: World, name: str, rng: random.Random) -> None:
        trial = world.trial(name, 2, rng)
        chosen = trial.folder / rng.choice(sorted(trial.finished()))
        path = manifest_path(chosen) if manifest else chosen
        held = path.read_bytes()

        def damage() -> None:
            how(path, rng)
            while is_intact(chosen):
                # A manifest's bit that nobody checks, in a date for example: another one.
                path.write_bytes(held)
                how(path, rng)

        at = moment(rng, trial, damage)
        trial.drive(at)
        at.over()
        kept = trial.finished()
        assert chosen.name not in kept and trial.pairs() < trial.total
        trial.rerun(kept)

    return kind


@contextmanager
def _small_disk(place: Path) -> Iterator[bool]:
    """A small file system at `place`; False where this user may not mount one."""
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={_DISK}", "tmpfs", str(place)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(place)], check=True)


def may_mount(folder: Path) -> bool:
    """Whether a full disk can be made here."""
    with _small_disk(folder) as mounted:
        return mounted


def disk_full(world: World, name: str, rng: random.Random) -> None:
    """The disk fills up at a random moment; later there is room again."""
    place = world.folder / f"{name}-disk"
    with _small_disk(place) as mounted:
        assert mounted, "this user may not mount a file system"
        trial = world.trial(name, 3, rng, place=place, retries=0)
        ballast = place / "ballast"
        left = rng.choice([0, 1, 2, 3]) * 4096

        def fill() -> None:
            with suppress(OSError), ballast.open("wb", buffering=0) as f:
                while f.write(bytes(4096)):
                    pass
            os.truncate(ballast, max(0, ballast.stat().st_size - left))

        before, at = trial.finished(), moment(rng, trial, fill, last=0.3)
        try:
            computed = trial.drive(at)
        except OSError as e:
            assert "space" in str(e)
        except Exception as e:
            assert "space" in str(e) or "ENOSPC" in str(e), f"the failure does not say why: {e}"
        else:
            assert left, f"all of {computed} was stored on a full disk"
        at.over()
        no_half_written(trial.root)
        kept = trial.finished()
        assert all(kept[n] == seen for n, seen in before.items())
        ballast.unlink()
        trial.rerun(kept)


KINDS: dict[str, Kind] = {
    "worker killed": worker_killed,
    "worker hangs": worker_hangs,
    "worker may not write": file_limit,
    "driver killed": driver_killed,
    "driver killed, worker stopped": driver_killed_worker_stopped,
    "one of two runs killed": holder_killed,
    "two runs at once": two_runs,
    "writer killed": writer_killed,
    "writer killed at a rename": writer_killed_at_a_rename,
    **{
        f"{'manifest' if manifest else 'tile'} {how.__name__}": damaged(how, manifest)
        for manifest in (False, True)
        for how in (truncated, flipped, emptied, deleted)
    },
    "disk full": disk_full,
}
