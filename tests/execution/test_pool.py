"""Worker processes: one device each; a shard's death, silence or error is that shard's alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stored_jobs import exact_job

from nncift_core.config import parse_config
from nncift_core.errors import UserError
from nncift_core.execution.failures import ShardError, Stopped, WorkerLost
from nncift_core.execution.job import Job
from nncift_core.execution.pool import DevicePool, pool_of
from nncift_core.execution.work import Request
from nncift_core.pipeline.exact import plan_exact


class Steps:
    """Progress that notes what it was told, and does something when it is asked."""

    def __init__(self, then: Callable[[], None] = lambda: None) -> None:
        self.items, self.then = 0, then

    def advance(self, items: int) -> None:
        self.items += items
        self.then()

    def to(self, done: int, total: int) -> None:
        self.advance(0)


def exact_request(job: Job, number: int = 0) -> Request:
    """The shard `number` of the job's exact values."""
    shards = plan_exact(job.problem()).shards
    return Request("exact-influence", job, asdict(shards[number]), {})


@pytest.fixture
def pool() -> Iterator[DevicePool]:
    made = DevicePool(["cpu"], "process")
    yield made
    made.close()


def gone(pid: int, seconds: float = 10) -> bool:
    """Whether a process (not a child's zombie) ends in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


@pytest.mark.heavy
def test_a_worker_keeps_its_process_and_computes_what_threads_compute(
    tmp_path: Path, pool: DevicePool
) -> None:
    job = exact_job(tmp_path)
    steps = Steps()
    first = pool.run("a", exact_request(job, 0), steps)
    pids = pool.pids()
    second = pool.run("b", exact_request(job, 1), Steps())
    assert pool.pids() == pids and len(pids) == 1
    assert first["computed"] == second["computed"] == steps.items == 8 * 12
    assert first["device"] == "cpu" and first["peak_rss_mb"] > 50
    problem = job.problem()
    problem.look_again()
    apart = problem.exact_store.coverage(problem.rows, problem.columns).sum()
    assert apart == 2 * 8 * 12
    assert pool.run("a", exact_request(job, 0), Steps())["computed"] == 0, "what is stored is not computed"

    (tmp_path / "threads").mkdir()
    other = exact_job(tmp_path / "threads")
    here = DevicePool(["cpu"], "thread")
    for number in range(3):
        here.run("t", exact_request(other, number), Steps())
        pool.run(f"p{number}", exact_request(job, number), Steps())
    files = [sorted(Path(j.workspace).glob("exact/*/*.parquet")) for j in (job, other)]
    assert [f.name for f in files[0]] == [f.name for f in files[1]]
    problem.look_again()
    values = []
    for j in (job, other):
        p = j.problem()
        p.look_again()
        out = np.zeros((len(p.rows), len(p.columns)), np.float32)
        p.exact_store.fill(p.rows, p.columns, out)
        values.append(out)
    assert np.array_equal(*values), "bit-equal"


@pytest.mark.heavy
def test_a_killed_worker_fails_its_shard_and_the_next_gets_a_new_process(
    tmp_path: Path, pool: DevicePool
) -> None:
    request = exact_request(exact_job(tmp_path))
    pool.run("warm", request, Steps())
    (pid,) = pool.pids()
    more = exact_request(request.job, 1)

    def kill() -> None:
        if pool.pids() == [pid]:
            os.kill(pid, signal.SIGKILL)

    with pytest.raises(WorkerLost, match="SIGKILL .*memory"):
        pool.run("x", more, Steps(kill))
    assert pool.pids() == []
    assert pool.run("x", more, Steps())["computed"] in (0, 96)
    assert pool.pids() != [pid]


@pytest.mark.heavy
def test_a_worker_without_progress_is_ended(tmp_path: Path) -> None:
    job = exact_job(tmp_path, hang_after=3.0)
    pool = DevicePool(["cpu"], "process")
    stopped: list[int] = []

    def stop() -> None:
        for pid in pool.pids():
            if not stopped:
                stopped.append(pid)
                os.kill(pid, signal.SIGSTOP)

    with pytest.raises(WorkerLost, match="no progress for 3 s"):
        pool.run("x", exact_request(job), Steps(stop))
    assert gone(stopped[0]), "a process that does not react is ended all the same"
    pool.close()


@pytest.mark.heavy
def test_wrong_input_is_told_as_in_one_process(tmp_path: Path, pool: DevicePool) -> None:
    job = exact_job(tmp_path)
    request = exact_request(job)
    broken = job.model_copy(update={"config_json": job.config_json.replace("tiny-lm", "no-such-lm")})
    with pytest.raises(UserError, match="language_model.model") as e:
        pool.run("x", Request(request.work, broken, request.shard, {}), Steps())
    assert e.value.mend
    with pytest.raises(ShardError, match="KeyError") as fault:
        pool.run("x", Request("no-such-work", job, request.shard, {}), Steps())
    assert fault.value.permanent and "in the worker process" in fault.value.__notes__[0]


@pytest.mark.heavy
def test_a_worker_that_does_not_even_read_is_ended(tmp_path: Path) -> None:
    """A request larger than a pipe holds, to a process that is stopped before it reads."""
    job = exact_job(tmp_path)
    pool = DevicePool(["cpu"], "process")
    request = exact_request(job)
    pool.run("warm", request, Steps())
    os.kill(pool.pids()[0], signal.SIGSTOP)
    hasty = job.model_copy(
        update={"config_json": job.config_json.replace('"hang_after":900.0', '"hang_after":2.0')}
    )
    large = Request(request.work, hasty, {**request.shard, "name": "x" * (1 << 20)}, {})
    with pytest.raises(WorkerLost, match="no progress for 2 s"):
        pool.run("x", large, Steps())
    pool.close()


@pytest.mark.heavy
def test_a_stop_ends_the_worker(tmp_path: Path, pool: DevicePool) -> None:
    def stop() -> None:
        raise Stopped

    with pytest.raises(Stopped):
        pool.run("x", exact_request(exact_job(tmp_path)), Steps(stop))
    assert pool.pids() == []


def failing(pool: DevicePool, key: str, tried: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """One try of a shard that fails on every slot."""

    def fail(request: Request, slot: Any, progress: Any) -> dict[str, Any]:
        tried.append(slot.number)
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(pool, "_compute", fail)
    request: Any = None
    with pytest.raises(RuntimeError):
        pool.run(key, request, Steps())


def test_a_shard_is_tried_again_on_another_device(monkeypatch: pytest.MonkeyPatch) -> None:
    pool, tried = DevicePool(["cuda:0", "cuda:1", "cuda:2"], "process"), list[int]()
    for _ in range(4):
        failing(pool, "shard", tried, monkeypatch)
    assert sorted(tried[:3]) == [0, 1, 2], "a second try on the same device only when there is no other"


def test_it_waits_for_another_device_rather_than_take_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    pool, tried = DevicePool(["cuda:0", "cuda:1"], "process"), list[int]()
    failing(pool, "shard", tried, monkeypatch)
    other = next(s for s in pool.slots if s.number != tried[0])
    with pool._changed:
        pool._free.remove(other)
    thread = threading.Thread(target=failing, args=(pool, "shard", tried, monkeypatch))
    thread.start()
    time.sleep(0.3)
    assert len(tried) == 1
    with pool._changed:
        pool._free.append(other)
        pool._changed.notify_all()
    thread.join(10)
    assert tried[1] == other.number


def test_a_device_on_which_shards_fail_one_after_another_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool, tried = DevicePool(["cuda:0", "cuda:1"], "process"), list[int]()
    for key in ("a", "b", "c"):
        failing(pool, key, tried, monkeypatch)
    assert len(pool.retired) <= 1
    pool, tried = DevicePool(["cuda:0", "cuda:1"], "process"), []
    with pool._changed:
        busy = pool._free.pop()
    for key in ("a", "b", "c"):
        failing(pool, key, tried, monkeypatch)
    assert tried == [0, 0, 0] and [s.number for s in pool.retired] == [0]
    with pool._changed:
        pool._free.append(busy)
    failing(pool, "d", tried, monkeypatch)
    assert tried[-1] == 1, "and never the last one, however often it fails"
    for key in ("e", "f", "g"):
        failing(pool, key, tried, monkeypatch)
    assert tried[-1] == 1 and len(pool.retired) == 1
    pool.close()
    assert pool.retired == []


def test_a_slot_takes_as_many_devices_as_one_copy_of_the_teacher() -> None:
    pool = DevicePool([f"cuda:{k}" for k in range(5)], "process", 2)
    assert [slot.devices for slot in pool.slots] == [("cuda:0", "cuda:1"), ("cuda:2", "cuda:3")]
    assert pool.devices == ["cuda:0", "cuda:2"] and pool.where == "cuda:0+cuda:1,cuda:2+cuda:3"
    assert pool.unused == "cuda:4: not used, for a slot takes 2 devices (language_model.devices)"
    assert DevicePool(["cpu", "cpu"], "process").unused == ""
    assert DevicePool(["cpu", "cpu"], "process", 2)._threads is None, "one slot has all cores"
    with pytest.raises(UserError, match="takes 3 devices"):
        DevicePool(["cpu", "cpu"], "process", 3)


def test_jobs_with_other_devices_for_a_teacher_have_other_slots() -> None:
    section = {"pool": {"source": "builtin:pool"}, "execution": {"devices": ["cpu", "cpu"]}}
    pools = [pool_of(parse_config(section | {"language_model": {"devices": n}})) for n in (1, 2, 2)]
    assert [len(pool.slots) for pool in pools] == [2, 1, 1] and pools[1] is pools[2]
    with pytest.raises(UserError, match="language_model.devices"):
        pool_of(parse_config(section | {"language_model": {"devices": 3}}))


@pytest.mark.heavy
def test_a_teacher_over_two_devices_of_a_worker_gives_the_same_values(tmp_path: Path) -> None:
    found = []
    for each in (1, 2):
        (tmp_path / str(each)).mkdir()
        job = exact_job(tmp_path / str(each))
        text = job.config_json.replace('"devices":1', f'"devices":{each}', 1)
        job = job.model_copy(update={"config_json": text})
        assert job.config.language_model.devices == each
        pool = DevicePool(["cpu"] * each, "process", each)
        for number in range(len(plan_exact(job.problem()).shards)):
            pool.run(str(number), exact_request(job, number), Steps())
        pool.close()
        problem = job.problem()
        problem.look_again()
        out = np.zeros((len(problem.rows), len(problem.columns)), np.float32)
        problem.exact_store.fill(problem.rows, problem.columns, out)
        found.append((problem.keys, out))
    assert found[0][0] == found[1][0] and np.array_equal(found[0][1], found[1][1]) and found[0][1].any()


PARENT = """
import sys, time
from pathlib import Path
from nncift_core.execution.models import Slot
from nncift_core.execution.process import Worker
workers = [Worker(Slot(k, "cpu"), masked=True) for k in range(2)]
print(*(w.pid for w in workers), flush=True)
time.sleep(60)
"""


@pytest.mark.heavy
@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's signal is Linux's")
def test_workers_end_with_their_parent_even_when_they_cannot_react() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pids = [int(p) for p in parent.stdout.readline().split()]
    # Past their start: a signal before it would find no lifeline yet.
    time.sleep(1.5)
    os.kill(pids[1], signal.SIGSTOP)
    parent.kill()
    parent.wait()
    assert all(gone(pid) for pid in pids)
