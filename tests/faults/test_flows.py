"""Faults of whole runs against a live server; tests/flows/test_kills.py has more moments of a killed flow.

After each: the rerun ends complete and bit-equal, what was finished is not computed again, nothing is left,
and every task run of a finished shard has a record with an end.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import free_port

from faults.harness import SEED
from faults.kinds import waits
from faults.live import Live, kill, kill_server, until

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(sys.platform != "linux", reason="processes are looked up in /proc"),
]
BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory, prefect_env: dict[str, str]) -> Live:
    """A run that nobody disturbed."""
    live = Live(tmp_path_factory.mktemp("unbroken"), prefect_env)
    live.finish(live.start())
    return live


@pytest.fixture
def live(tmp_path: Path, prefect_env: dict[str, str], unbroken: Live) -> Live:
    """The same job in a workspace of its own."""
    return Live(tmp_path / "project", prefect_env, unbroken.ws.calibration_file)


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """Random numbers of this seed and test."""
    print(f"repeat with NNCIFT_FAULT_SEED={SEED} and -k {request.node.name}")
    return random.Random(f"{SEED}/{request.node.name}")


def whole(live: Live, unbroken: Live, result: dict[str, Any]) -> None:
    """Assert that nothing is lost, nothing is stored twice, nothing is left."""
    assert live.values("exact") == unbroken.values("exact")
    assert live.values("estimates") == unbroken.values("estimates")
    assert (
        Path(result["subset"]).read_text() == next(unbroken.ws.root.glob("runs/*/subset.jsonl")).read_text()
    )
    live.clean()


def rerun(live: Live, unbroken: Live) -> dict[str, dict[str, Any]]:
    """Run again: what is there is reused, all of it; returns the costs by stage."""
    kept = live.exact_files()
    known = len(live.values("exact"))
    result = live.project.run()
    costs = live.project.costs(result)
    exact = costs["exact-influence"]
    assert (exact["reused"], exact["computed"]) == (known, exact["items"] - known)
    now = live.exact_files()
    assert all(now[name] == seen for name, seen in kept.items()), "a finished tile was written again"
    whole(live, unbroken, result)
    return costs


def test_a_killed_flow(live: Live, unbroken: Live, rng: random.Random) -> None:
    process = live.start()
    live.at_random_within_exact(process, rng)
    kill(process)
    (run,) = live.flow_runs()
    finished = {run["id"]: len(live.exact_files())}
    assert finished[run["id"]] >= 1
    live.clean()
    rerun(live, unbroken)
    live.settled(finished)
    assert [r["state_type"] for r in live.flow_runs()] == ["CRASHED", "COMPLETED"]


def test_a_killed_shard_is_tried_again_in_the_same_run(
    live: Live, unbroken: Live, rng: random.Random
) -> None:
    process = live.start()
    live.at_random_within_exact(process, rng)
    (worker,) = until("a worker process", live.processes, 10)
    os.kill(worker, signal.SIGKILL)
    result = live.finish(process)
    exact = live.project.costs(result)["exact-influence"]
    # Where the worker died between storing a tile and saying so, the next try finds it.
    assert exact["items"] - exact["computed"] in {0, *live.sizes("exact")}
    whole(live, unbroken, result)
    (run,) = live.flow_runs()
    live.settled({run["id"]: len(live.exact_files())})
    assert [t["run_count"] for t in live.task_runs(run, "exact-influence") if t["run_count"] > 1] == [2]


def test_a_run_goes_on_when_its_server_is_killed_and_comes_back(
    tmp_path: Path, unbroken: Live, prefect_env: dict[str, str], rng: random.Random
) -> None:
    env = {**prefect_env, "PREFECT_HOME": str(tmp_path / "home"), "NNCIFT_SERVER_PORT": str(free_port())}
    with server(env):
        live = Live(tmp_path / "project", env, unbroken.ws.calibration_file)
        process = live.start()
        live.at_random_within_exact(process, rng)
        kill_server(env)
        subprocess.run([BIN / "nncift", "server", "start"], env=env, check=True, capture_output=True)
        _, err = process.communicate(timeout=180)
        assert process.returncode == 0, err[-3000:]
        stored = len(live.exact_files())
        rerun(live, unbroken)
        first, *_ = live.flow_runs()
        live.settled({first["id"]: stored})


class server:
    """A server of one's own, on its own database."""

    def __init__(self, env: dict[str, str]) -> None:
        self.env = env

    def __enter__(self) -> None:
        Path(self.env["PREFECT_HOME"]).mkdir()
        subprocess.run([BIN / "nncift", "server", "start"], env=self.env, check=True, capture_output=True)

    def __exit__(self, *_: object) -> None:
        subprocess.run([BIN / "nncift", "server", "stop"], env=self.env, check=True, capture_output=True)


@pytest.fixture
def process_worker(live: Live) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """Starts workers of the pool "faults"; those that are left are ended."""
    started: list[subprocess.Popen[bytes]] = []
    env = {**live.project.env, "PREFECT_API_URL": live.api}

    def start() -> subprocess.Popen[bytes]:
        command = [
            BIN / "prefect",
            "worker",
            "start",
            "--pool",
            "faults",
            "--type",
            "process",
            "--limit",
            "1",
        ]
        with (live.project.folder / "worker.log").open("ab") as log:
            made = subprocess.Popen(command, cwd=live.project.folder, env=env, stdout=log, stderr=log)
        started.append(made)
        return made

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.exhaustive
def test_a_killed_worker_with_its_flow(
    live: Live,
    unbroken: Live,
    rng: random.Random,
    process_worker: Callable[[], subprocess.Popen[bytes]],
) -> None:
    env = {**live.project.env, "PREFECT_API_URL": live.api}
    deploy = ["deploy", "job.toml", "--workspace", str(live.ws.root), "--pool", "faults", "--json"]
    live.project.env["PREFECT_API_URL"] = live.api
    live.project.call(*deploy)
    worker = process_worker()
    subprocess.run(
        [BIN / "prefect", "deployment", "run", "valuation/valuation"],
        env=env,
        check=True,
        capture_output=True,
    )
    enough = rng.randint(1, 4)
    until("exact tiles", lambda: len(live.exact_files()) >= enough)
    family = [psutil.Process(worker.pid), *psutil.Process(worker.pid).children(recursive=True)]
    for process in family:
        process.kill()
    psutil.wait_procs(family, timeout=10)
    live.clean()
    (run,) = live.flow_runs()
    assert run["state_type"] == "RUNNING", "nobody noticed yet"
    finished = {run["id"]: len(live.exact_files())}
    rerun(live, unbroken)
    live.settled(finished)


def test_two_runs_at_once_compute_everything_once(live: Live, unbroken: Live) -> None:
    results = [live.finish(p) for p in [live.start(), live.start()]]
    costs = [live.project.costs(r) for r in results]
    for stage in ("embed", "exact-influence", "estimate-influence"):
        computed, items = [c[stage]["computed"] for c in costs], costs[0][stage]["items"]
        assert sum(computed) == items, f"{stage}: {computed} of {items}"
        assert [c[stage]["computed"] + c[stage]["reused"] for c in costs] == [items, items]
    whole(live, unbroken, results[0])
    live.settled()
    assert [r["state_type"] for r in live.flow_runs()] == ["COMPLETED"] * 2


@pytest.mark.exhaustive
def test_one_of_two_runs_is_killed_while_the_other_waits(
    live: Live, unbroken: Live, rng: random.Random
) -> None:
    first = live.start()
    live.at_random_within_exact(first, rng)
    workers = live.processes()
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    second = live.start()
    kept, seen = live.exact_files(), [0.0, time.monotonic()]

    def stands() -> bool:
        # Before the lock of the stopped worker's shard: nothing new for longer than a shard takes.
        if (count := len(live.exact_files())) != seen[0]:
            seen[:] = count, time.monotonic()
        return waits(second.pid) and time.monotonic() - seen[1] > 3

    until("the second run to wait", stands)
    kill(first)
    result = live.finish(second)
    assert live.project.costs(result)["exact-influence"]["computed"] > 0
    now = live.exact_files()
    assert all(now[name] == found for name, found in kept.items())
    whole(live, unbroken, result)
    rerun(live, unbroken)
    live.settled()


def test_lost_cache_and_damaged_tiles(live: Live, unbroken: Live, rng: random.Random) -> None:
    shutil.copytree(unbroken.ws.root, live.ws.root, dirs_exist_ok=True)
    shutil.rmtree(live.ws.root / "prefect")
    hit: dict[str, Path] = {}
    for kind in ("exact", "estimates"):
        hit[kind] = rng.choice(sorted((live.ws.root / kind).glob("*/*.parquet")))
        data = bytearray(hit[kind].read_bytes())
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        hit[kind].write_bytes(data)
    costs = rerun(live, unbroken)
    assert 0 < costs["exact-influence"]["computed"] < costs["exact-influence"]["items"]
    assert 0 < costs["estimate-influence"]["computed"] < costs["estimate-influence"]["items"]
    assert costs["embed"]["computed"] == 0
    live.settled()
