"""Groups of shards on two Prefect workers, as two hosts would have them; beside Ray and local slots."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import Project
from native_stack import BIN
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowFilter, FlowFilterName
from prefect.settings import PREFECT_API_URL, temporary_settings
from ray_nodes import two_nodes

pytestmark = pytest.mark.heavy
WORKERS = 2


class Farm:
    """A server with the deployment of shard groups, and two workers in folders of their own."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        self.url = f"http://127.0.0.1:{env['NNCIFT_SERVER_PORT']}/api"
        # Values are bit-equal at the same number of threads: Ray gives a slot of one CPU one.
        self.env = {**env, "PREFECT_API_URL": self.url, "OMP_NUM_THREADS": "1"}
        self.folder = folder
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """One more worker, one group at a time."""
        own = self.folder / f"host-{len(self.processes)}"
        own.mkdir()
        log = (own / "log").open("wb")
        command = [BIN / "prefect", "worker", "start", "--pool", "nncift-shards", "--type", "process"]
        self.processes.append(
            subprocess.Popen(
                [*command, "--limit", "1", "--name", own.name], cwd=own, stdout=log, stderr=log, env=self.env
            )
        )

    def stop(self) -> None:
        """End all workers."""
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.wait(timeout=60)

    def runs(self) -> list[Any]:
        """Flow runs of shard groups, oldest first."""
        with temporary_settings({PREFECT_API_URL: self.url}), get_client(sync_client=True) as client:
            found = client.read_flow_runs(
                flow_filter=FlowFilter(name=FlowFilterName(any_=["compute-shards"])), limit=200
            )
        return sorted(found, key=lambda r: r.expected_start_time)


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory, prefect_env: dict[str, str]) -> Iterator[Farm]:
    made = Farm(tmp_path_factory.mktemp("farm"), prefect_env)
    project = Project(tmp_path_factory.mktemp("deploying"), made.env)
    project.call("deploy", "--workspace", str(project.workspace))
    for _ in range(WORKERS):
        made.start()
    yield made
    made.stop()


def farmed(folder: Path, farm: Farm, exact: bool = False, **execution: Any) -> Project:
    """A project whose shards go to the workers."""
    folder.mkdir()
    project = Project(folder, farm.env)
    prefect = {"execution.prefect": {"slots": WORKERS}}
    # Every pair exact: each group costs the start of a process, and these tests are of groups, not of stages.
    influence = {"influence": {"label_fraction": 1}} if exact else {}
    project.configure(execution={"runner": "prefect", **execution}, **prefect, **influence)
    return project


def valued(project: Project) -> tuple[Any, ...]:
    """Run id, values, subset and what was computed."""
    result = project.run()
    rows = project.ask(
        "SELECT train_id, target_id, origin, influence FROM influence ORDER BY train_id, target_id"
    )
    chosen = project.ask("SELECT rank, train_id FROM selection ORDER BY rank")
    computed = {c["stage"]: c["computed"] for c in result["costs"] if c["stage"] not in ("select", "report")}
    return result["run_id"], rows, chosen, computed


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    yield from two_nodes()


def test_one_config_three_ways(tmp_path: Path, farm: Farm, cluster: Any) -> None:
    """Local slots, a Ray cluster of two nodes, two Prefect workers: the same values, each tile once."""
    runners: dict[str, dict[str, Any]] = {
        "local": {"execution": {"runner": "local", "isolation": "process", "devices": ["cpu", "cpu"]}},
        "ray": {"execution": {"runner": "ray"}, "execution.ray": {"address": cluster.address}},
        "prefect": {"execution": {"runner": "prefect"}, "execution.prefect": {"slots": WORKERS}},
    }
    common = {"influence": {"label_fraction": 1.0}, "shards": {"rows": 16, "columns": 16}}
    found, projects = {}, {}
    for name, runner in runners.items():
        folder = tmp_path / name
        folder.mkdir()
        projects[name] = Project(folder, farm.env)
        projects[name].configure(**common, **runner)
        found[name] = valued(projects[name])
        exact = projects[name].query("SELECT rows FROM lineage WHERE kind = 'exact'")
        assert sum(r["rows"] for r in exact) == found[name][3]["exact-influence"] > 200
    assert found["local"] == found["ray"] == found["prefect"]
    assert {r.state.type.value for r in farm.runs()} == {"COMPLETED"}
    assert any(r.name.startswith("exact-influence") for r in farm.runs())
    # The other ways find in this workspace all that there is to find.
    before = len(farm.runs())
    for runner in runners.values():
        projects["ray"].configure(**common, **runner)
        again = valued(projects["ray"])
        assert again[:3] == found["ray"][:3] and not any(again[3].values()), again[3]
    assert len(farm.runs()) == before, "what is stored is asked of nobody"


def test_a_killed_group_is_given_to_a_worker_again(tmp_path: Path, farm: Farm) -> None:
    project = farmed(tmp_path / "killed", farm, exact=True, retry_seconds=1)
    killed: list[int] = []

    def kill() -> None:
        """End what the workers run, at once, when a group of exact influence has begun."""
        deadline = time.monotonic() + 240
        while not killed and time.monotonic() < deadline:
            time.sleep(0.2)
            if any(r.name.startswith("exact-") and r.state.type.value == "RUNNING" for r in farm.runs()):
                found = [c for w in farm.processes for c in psutil.Process(w.pid).children(recursive=True)]
                for process in found:
                    process.send_signal(signal.SIGKILL)
                killed.extend(process.pid for process in found)

    thread = threading.Thread(target=kill)
    thread.start()
    result = project.run()
    thread.join()
    assert killed, "no group of exact influence was seen"
    assert result["selected"] == 6
    ended = [r.state.type.value for r in farm.runs()]
    assert "CRASHED" in ended


def test_a_missing_deployment_ends_before_any_work(tmp_path: Path, farm: Farm) -> None:
    project = farmed(tmp_path / "missing", farm)
    project.configure(
        execution={"runner": "prefect"}, **{"execution.prefect": {"deployment": "compute-shards/gone"}}
    )
    done = project.call("run", "job.toml", "--workspace", str(project.workspace), check=2)
    assert "no deployment compute-shards/gone" in done.stderr and "nncift deploy" in done.stderr
    assert not project.workspace.exists()
