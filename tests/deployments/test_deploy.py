"""Against a real server: turns in a workspace, `prefect deploy` on the shipped file, an installed package."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from compose_file import ROOT
from conftest import Project
from native_stack import BIN, until
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.deployments import run_deployment
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows import deploy
from flows.definitions import Definition

pytestmark = pytest.mark.heavy

TURNS = """
import time
from pathlib import Path

from prefect import flow
from flows.one_at_a_time import alone_in

@flow
def turns(workspace, seconds=4):
    with alone_in(workspace):
        started = time.time()
        time.sleep(seconds)
    with (Path(workspace) / "turns").open("a") as file:
        file.write(f"{started} {time.time()}\\n")
"""


@pytest.fixture
def client(prefect_env: dict[str, str]) -> Iterator[SyncPrefectClient]:
    url = f"http://127.0.0.1:{prefect_env['NNCIFT_SERVER_PORT']}/api"
    with temporary_settings({PREFECT_API_URL: url}), get_client(sync_client=True) as found:
        yield found


@pytest.fixture
def worker(prefect_env: dict[str, str], tmp_path: Path) -> Iterator[Callable[[], None]]:
    """Starts a process worker in an empty folder."""
    url = f"http://127.0.0.1:{prefect_env['NNCIFT_SERVER_PORT']}/api"
    started: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        (tmp_path / "elsewhere").mkdir()
        started.append(
            subprocess.Popen(
                [BIN / "prefect", "worker", "start", "--pool", "turns", "--type", "process"],
                cwd=tmp_path / "elsewhere",
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**prefect_env, "PREFECT_API_URL": url, "PYTHONPATH": str(tmp_path)},
            )  # fmt: skip
        )

    yield start
    for process in started:
        process.terminate()
        process.wait(timeout=30)


def test_runs_of_several_deployments_take_turns_in_a_workspace(
    client: SyncPrefectClient,
    worker: Callable[[], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "turning.py").write_text(TURNS)
    monkeypatch.syspath_prepend(tmp_path)
    made = [
        Definition(name, "turning.turns", "", [], {"workspace": str(tmp_path)}, [],
                   {"limit": 1, "collision_strategy": strategy}, {})
        for name, strategy in (("waits", "ENQUEUE"), ("gives-up", "CANCEL_NEW"))
    ]  # fmt: skip
    deploy.apply(client, made, tmp_path, "turns", "http://127.0.0.1")
    names = ["waits", "waits", "gives-up", "gives-up"]
    ids = [run_deployment(f"turns/{name}", timeout=0).id for name in names]
    worker()

    def states() -> list[str]:
        found = [client.read_flow_run(i).state for i in ids]
        return [s.type.value for s in found if s is not None and s.is_final()]

    until(lambda: len(states()) == 4, 180, "four runs")
    assert sorted(states()) == ["CANCELLED", "COMPLETED", "COMPLETED", "COMPLETED"]
    turns = sorted(tuple(map(float, x.split())) for x in (tmp_path / "turns").read_text().splitlines())
    assert len(turns) == 3
    assert all(before[1] <= after[0] for before, after in zip(turns, turns[1:], strict=False)), turns
    assert client.read_global_concurrency_limit_by_name(deploy.limit_name(tmp_path)).active_slots == 0


def test_prefects_own_command_accepts_the_shipped_file(
    make_project: Callable[[str], Project], prefect_env: dict[str, str]
) -> None:
    url = f"http://127.0.0.1:{prefect_env['NNCIFT_SERVER_PORT']}/api"
    env = {**prefect_env, "PREFECT_API_URL": url}
    make_project("first").call("deploy", "--workspace", "ws")
    for command in (
        ["--no-prompt", "deploy", "--all", "--prefect-file", "deployments/prefect.yaml"],
        ["deployment", "inspect", "refresh/refresh"],
    ):
        done = subprocess.run(
            [BIN / "prefect", *command],
            cwd=ROOT,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "nncift-workspace" in done.stdout


def test_a_pool_of_another_type_is_refused(client: SyncPrefectClient, prefect_env: dict[str, str]) -> None:
    env = {**prefect_env, "PREFECT_API_URL": str(client.api_url)}
    create = [BIN / "prefect", "work-pool", "create", "others", "--type", "docker"]
    made = subprocess.run(create, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if made.returncode:
        pytest.skip("Prefect's list of worker types needs the network")
    done = subprocess.run(
        [BIN / "nncift", "deploy", "--pool", "others"], env=env, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "others is of type docker" in done.stderr


def test_commands_without_a_server_and_with_wrong_input_end_with_one_message(
    offline_project: Project, tmp_path: Path
) -> None:
    for command in (["deploy"], ["notify-data"]):
        done = offline_project.call(*command, check=1)
        assert "nncift server start" in done.stderr
        assert "Traceback" not in done.stderr and not done.stdout
    offline_project.configure(selection={"cuont": 3})
    done = offline_project.call("deploy", "job.toml", check=2)
    assert "cuont" in done.stderr and "job.toml" in done.stderr
    done = offline_project.call("deploy", "--webhook", "ftp://secret", check=2)
    assert "--webhook" in done.stderr and "secret" not in done.stderr
