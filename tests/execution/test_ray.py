"""Slots of a Ray cluster: two nodes on this machine, a fake GPU on each."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Project, free_port
from execution.test_pool import Steps, exact_request
from ray_nodes import two_nodes
from stored_jobs import exact_job

from nncift_core.config_execution import RayConfig
from nncift_core.devices import usable_cores
from nncift_core.errors import UserError
from nncift_core.execution.failures import Stopped, Unfit, WorkerLost, is_permanent
from nncift_core.execution.job import Job
from nncift_core.execution.pool import DevicePool
from nncift_core.pipeline.exact import plan_exact
from nncift_core.store.workspace import Workspace

pytestmark = pytest.mark.heavy
ray = pytest.importorskip("ray", reason="Ray is not installed (pip install 'nncift[ray]')")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    yield from two_nodes()


@pytest.fixture
def pool(cluster: Any) -> Iterator[Any]:
    from nncift_core.execution.ray_pool import RayPool

    made = RayPool(RayConfig(address=cluster.address))
    assert len(made.slots) == 2 and "1 GPU, 1 CPU" in made.where
    yield made
    made.leave()
    assert not ray.is_initialized()


def sides(job: Job) -> tuple[Any, Any]:
    """Rows and columns of a job, whose stores have looked again."""
    p = job.problem()
    p.look_again()
    return p.rows, p.columns


def values(job: Job) -> Any:
    """All exact values of a job [rows, columns]; NaN where there is none."""
    sides(job)
    p = job.problem()
    out = np.full((len(p.rows), len(p.columns)), np.nan, np.float32)
    p.exact_store.fill(p.rows, p.columns, out)
    return out


def test_shards_on_a_cluster_are_bit_equal_to_local_ones(tmp_path: Path, pool: Any) -> None:
    assert len(pool.slots) == 2 and "1 GPU, 1 CPU" in pool.where
    for name in ("there", "here"):
        (tmp_path / name).mkdir()
    there, here = exact_job(tmp_path / "there"), exact_job(tmp_path / "here")
    # As many threads as Ray gives an actor with one CPU: sums of other ones differ in their last bits.
    local, steps = DevicePool(["cpu"] * usable_cores(), "process"), Steps()
    for number in range(3):
        request = exact_request(there, number)
        done = pool.run(f"r{number}", request, steps)
        assert done["computed"] == request.shard["missing"] > 0
        assert done["device"].endswith("/cpu") and done["peak_rss_mb"] > 50
        local.run(f"l{number}", exact_request(here, number), Steps())
    local.close()
    assert steps.items == there.problem().exact_store.coverage(*sides(there)).sum()
    assert np.array_equal(values(there), values(here), equal_nan=True)
    assert pool.run("r0", exact_request(there, 0), Steps())["computed"] == 0, "what is stored is not computed"
    assert len(pool.pids()) == 1, "one slot was enough, and keeps its process"


def test_a_cluster_is_reached_from_elsewhere_by_its_client_address(tmp_path: Path, cluster: Any) -> None:
    from nncift_core.execution.ray_pool import RayPool

    pool = RayPool(RayConfig(address=cluster.client_address))
    try:
        assert len(pool.slots) == 2
        assert pool.run("x", exact_request(exact_job(tmp_path)), Steps())["computed"] == 96
    finally:
        pool.leave()
    assert not ray.is_initialized()


def test_a_killed_actor_fails_its_shard_and_the_next_gets_another(tmp_path: Path, pool: Any) -> None:
    job = exact_job(tmp_path)
    pool.run("warm", exact_request(job), Steps())
    (pid,) = pool.pids()
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(WorkerLost, match="Ray worker was lost"):
        pool.run("x", exact_request(job, 1), Steps())
    assert pool.pids() == []
    assert pool.run("x", exact_request(job, 1), Steps())["computed"] in (0, 96)
    assert pool.pids() != [pid]


def test_an_actor_without_progress_is_ended(tmp_path: Path, pool: Any) -> None:
    for name in ("warm", "hangs"):
        (tmp_path / name).mkdir()
    # The first shard waits for the imports of its process.
    pool.run("warm", exact_request(exact_job(tmp_path / "warm")), Steps())
    job = exact_job(tmp_path / "hangs", hang_after=4.0)
    (pid,) = pool.pids()
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(WorkerLost, match="no progress for 4 s"):
        pool.run("x", exact_request(job, 1), Steps())
    assert pool.run("y", exact_request(exact_job(tmp_path), 1), Steps())["computed"] == 96


def test_a_stop_ends_the_shard(tmp_path: Path, pool: Any) -> None:
    def stop() -> None:
        raise Stopped

    with pytest.raises(Stopped):
        pool.run("x", exact_request(exact_job(tmp_path)), Steps(stop))
    assert pool.pids() == []


def test_a_cluster_that_runs_on_is_left_as_it_was(cluster: Any, pool: Any, tmp_path: Path) -> None:
    pool.run("x", exact_request(exact_job(tmp_path)), Steps())
    pool.leave()
    assert not ray.is_initialized()
    ray.init(address=cluster.address, log_to_driver=False)
    try:
        assert sum(n["Alive"] for n in ray.nodes()) == 2
        deadline = time.monotonic() + 20
        while ray.available_resources().get("GPU", 0) < 2 and time.monotonic() < deadline:
            time.sleep(0.2)
        assert ray.available_resources()["GPU"] == 2, "what the slots reserved is free again"
    finally:
        ray.shutdown()


def test_a_workspace_that_a_machine_does_not_see_is_told(
    tmp_path: Path, pool: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def elsewhere(self: Workspace) -> Iterator[str]:
        yield "seen-on-another-machine"

    monkeypatch.setattr(Workspace, "marked", elsewhere)
    with pytest.raises(Unfit, match="does not see the workspace") as told:
        pool.run("x", exact_request(exact_job(tmp_path)), Steps())
    assert not is_permanent(told.value), "another machine may"


def test_resources_that_no_machine_has_are_told_at_once(cluster: Any) -> None:
    from nncift_core.execution.ray_pool import RayPool

    for config, told in (
        ({"num_gpus": 2}, "no machine of the Ray cluster has 2 GPU, 1 CPU for one slot .the most: 1 GPU"),
        ({"memory_gb": 10_000}, "10000 GB"),
    ):
        with pytest.raises(UserError, match=told):
            RayPool(RayConfig(address=cluster.address, **config))
        assert not ray.is_initialized()
    waits = RayPool(RayConfig(address=cluster.address, num_gpus=2, slots=3))
    assert len(waits.slots) == 3, "with a number of slots the run waits for machines that come"
    waits.leave()


def test_shards_whose_slots_find_no_room_go_to_those_that_have_it(
    tmp_path: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More slots than the cluster has room for, as while another job holds the rest."""
    from nncift_core.execution import ray_pool

    monkeypatch.setattr(ray_pool, "_PLACED", 0.2)
    pool = ray_pool.RayPool(RayConfig(address=cluster.address, slots=3))
    job = exact_job(tmp_path)
    numbers = range(min(6, len(plan_exact(job.problem()).shards)))
    try:
        with ThreadPoolExecutor(3) as threads:
            asked = [threads.submit(pool.run, f"s{n}", exact_request(job, n), Steps()) for n in numbers]
            done = [a.result(timeout=240) for a in asked]
        assert all(d["computed"] > 0 for d in done)
        assert len(pool.pids()) <= 2 and not pool._without_room
    finally:
        pool.leave()


def test_what_a_machine_lacks_is_told_as_it_is(tmp_path: Path, pool: Any) -> None:
    job = exact_job(tmp_path)
    away = job.model_copy(update={"workspace": "nosuch://bucket/ws"})

    worker = pool._start(pool.slots[0], True)
    answer = json.loads(ray.get(worker._actor.about.remote(away.workspace, "mark")))
    assert "cannot be read here" in answer["error"]["what"] and answer["host"]
    worker.kill()
    assert pool.run("x", exact_request(job), Steps())["computed"] == 96


def test_a_wrong_address_ends_before_any_work(make_project: Any) -> None:
    project: Project = make_project("p")
    address = f"127.0.0.1:{free_port()}"
    project.configure(execution={"runner": "ray"}, **{"execution.ray": {"address": address}})
    done = project.call("run", "job.toml", "--workspace", str(project.workspace), check=2)
    assert f"no Ray cluster at {address}" in done.stderr and "execution.ray.address" in done.stderr
    assert not project.workspace.exists()
