"""Runs that share a workspace: each in an order of its own, and what another computes is left for last."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections import Counter
from contextlib import ExitStack
from typing import Any

import pytest

from nncift_core.execution.job import Job
from nncift_core.store.alive import alive, others_alive
from nncift_core.store.files import write_for
from tasks import sharing
from tasks.shards import compute_group, shard_key, shard_task
from tasks.sharing import Others, Taken, alone

SHARDS = [{"name": f"block {n}", "rows": [n], "missing": 1} for n in range(40)]


def key(job: Job, n: int) -> str:
    return shard_key("test-sharing", job, SHARDS[n], {})


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What runs were told; every look at who else is there is a new one."""
    found: list[str] = []
    monkeypatch.setattr(sharing, "say", found.append)
    monkeypatch.setattr(sharing, "_COUNTS", 0.0)
    return found


def test_beside_another_run_the_order_is_ones_own(job: Job, told: list[str]) -> None:
    write_for(job.ws.root, "run/0001")
    with alive(job.ws, "run/0001"):
        assert Others(job).ordered(SHARDS) == SHARDS, "alone: as planned"
        with alive(job.ws, "other/0003"):
            mixed = Others(job).ordered(SHARDS)
            assert mixed != SHARDS and Counter(map(str, mixed)) == Counter(map(str, SHARDS))
            assert Others(job).ordered(SHARDS) == mixed
            assert Others(job).ordered(SHARDS[:1]) == SHARDS[:1]
            write_for(job.ws.root, "other/0003")
            assert Others(job).ordered(SHARDS) not in (mixed, SHARDS)
            write_for(job.ws.root, "run/0001")
        assert Others(job).ordered(SHARDS) == SHARDS
    write_for(job.ws.root, "")
    assert len(told) == 2 and "another run is going on" in told[0], "each attempt is told once"


def test_the_next_shard_is_one_that_nobody_computes(job: Job, told: list[str]) -> None:
    write_for(job.ws.root, "first/0001")
    keys = [key(job, n) for n in range(3)]
    others = Others(job)
    with alive(job.ws, "first/0001"), ExitStack() as held:
        held.enter_context(alone(job, keys[0]))
        assert others.first_free(keys) == 0, "no other run: its own turn is no reason"
        held.enter_context(alive(job.ws, "other/0001"))
        assert others.first_free(keys) == 1, "also one that began later is seen"
        held.enter_context(alone(job, keys[1]))
        assert others.first_free(keys) == 2
        held.enter_context(alone(job, keys[2]))
        assert others.first_free(keys) == 0, "each is taken: one must be waited for"
    write_for(job.ws.root, "")
    assert len(told) == 1


def test_who_else_is_there_is_looked_up_now_and_then(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[str] = []
    monkeypatch.setattr(sharing, "others_alive", lambda ws, own: looks.append(own) or 0)
    others, keys = Others(job), [key(job, n) for n in range(3)]
    others.ordered(SHARDS)
    assert [others.first_free(keys) for _ in range(5)] == [0] * 5 and len(looks) == 1
    monkeypatch.setattr(sharing.time, "monotonic", lambda: 1e12)
    others.first_free(keys)
    assert len(looks) == 2


def test_a_group_leaves_what_another_computes_for_last_and_waits_for_it(job: Job) -> None:
    order: list[str] = []
    computing, free = threading.Event(), threading.Event()

    def compute(key: str, job: Job, shard: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
        order.append(shard["name"])
        if shard["name"] == "block 2":
            free.set()
        return {"computed": 1, "device": "cpu"}

    def other() -> None:
        with alone(job, key(job, 0)):
            computing.set()
            assert free.wait(30)
            order.append("other's block 0")

    shard_task("test-sharing", compute)
    thread = threading.Thread(target=other)
    thread.start()
    assert computing.wait(30)
    found = compute_group("test-sharing", "a group", job, SHARDS[:3], {})
    thread.join()
    assert order == ["block 1", "block 2", "other's block 0", "block 0"]
    assert found["computed"] == 3


def test_a_turn_that_is_taken_is_told_without_waiting(job: Job) -> None:
    with alone(job, key(job, 0)), pytest.raises(Taken), alone(job, key(job, 0), wait=False):
        raise AssertionError("two have the turn")
    with alone(job, key(job, 0), wait=False):
        pass


KILLED = """
import os, signal, sys
from nncift_core.store.alive import alive
from nncift_core.store.workspace import Workspace
with alive(Workspace(sys.argv[1]), "other/0001"):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_run_is_no_other_run(job: Job) -> None:
    subprocess.run([sys.executable, "-c", KILLED, str(job.ws.root)], check=False)
    assert [p.name for p in job.ws.root.glob("locks/alive/*")] == ["other-0001"]
    assert others_alive(job.ws, "run/0001") == 0
    assert not list(job.ws.root.glob("locks/alive/*")), "and what it left is gone"
