"""The compose file's commands without Docker: PostgreSQL, Redis, server, services, worker, real schedules.

One stack serves all tests of this file; they go on from each other, as days of operation do.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import Project, oracle_rows, write_jsonl
from native_stack import BIN, Stack, program, until

pytestmark = pytest.mark.heavy
TERMINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}

FIVE_HUNDRED = """
from prefect import flow, task
from prefect.task_runners import ThreadPoolTaskRunner

@task
def shard(i):
    return i

@flow(task_runner=ThreadPoolTaskRunner(max_workers=4))
def many():
    assert sum(f.result() for f in [shard.submit(i) for i in range(500)]) == 499 * 250

print(many(return_state=True).state_details.flow_run_id)
"""


def missing() -> list[str]:
    """What this machine lacks to run the stack."""
    programs = [p for p in ("postgres", "initdb", "redis-server", "redis-cli") if program(p) is None]
    return programs + ([] if find_spec("prefect_redis") else ["prefect-redis"])


class Hook(HTTPServer):
    """A webhook on this machine that remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []
        super().__init__(("127.0.0.1", 0), _Remember)
        self.secret = "a-secret-place"
        self.url = f"http://127.0.0.1:{self.server_port}/{self.secret}"

    def heard(self, state: str) -> dict[str, Any] | None:
        """The call about a run in this state."""
        return next((t for t in self.told if t["state"] == state), None)


class _Remember(BaseHTTPRequestHandler):
    server: Hook

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path.strip("/") == self.server.secret:
            self.server.told.append(json.loads(body))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        """Nothing on stderr."""


@pytest.fixture(scope="module")
def hook() -> Iterator[Hook]:
    server = Hook()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    if lacking := missing():
        message = f"not installed here: {', '.join(lacking)}"
        if os.environ.get("NNCIFT_REQUIRE_POSTGRES"):
            pytest.fail(message)
        pytest.skip(message)
    made = Stack(tmp_path_factory.mktemp("stack"))
    try:
        made.start_postgres()
        made.start_redis()
        made.start_server()
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def project(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The user's folder, its commands speaking to the stack's server."""
    env = stack.environment("deploy")
    env.pop("NNCIFT_CONFIG")
    env.pop("NNCIFT_WEBHOOK")
    return Project(tmp_path_factory.mktemp("project"), env)


@pytest.fixture(scope="module")
def deployed(stack: Stack, project: Project, hook: Hook) -> dict[str, Any]:
    """What `nncift deploy` answers, with a refresh every minute; a worker runs in another folder."""
    done = project.call(
        "deploy", "job.toml", "--workspace", "ws", "--interval", "60", "--webhook", hook.url, "--json"
    )
    assert hook.secret not in done.stdout + done.stderr
    stack.start_worker(stack.folder / "elsewhere")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def deployment_id(deployed: dict[str, Any], name: str) -> str:
    return next(str(d["id"]) for d in deployed["deployments"] if d["name"] == name)


def runs(stack: Stack, deployed: dict[str, Any], name: str = "refresh/refresh") -> list[dict[str, Any]]:
    """Flow runs of a deployment that have begun, the oldest first."""
    body = {
        "deployments": {"id": {"any_": [deployment_id(deployed, name)]}},
        "sort": "EXPECTED_START_TIME_ASC",
        "limit": 200,
    }
    found: list[dict[str, Any]] = stack.ask("POST", "/flow_runs/filter", body)
    return [r for r in found if r["start_time"] is not None]


def by_event(stack: Stack, deployed: dict[str, Any]) -> list[dict[str, Any]]:
    """Refreshes that no schedule started."""
    return [r for r in runs(stack, deployed) if not r["auto_scheduled"]]


def test_two_scheduled_refreshes_run_and_the_second_finds_nothing_to_do(
    stack: Stack,
    project: Project,
    deployed: dict[str, Any],
) -> None:
    def done() -> list[dict[str, Any]]:
        found = [r for r in runs(stack, deployed) if r["state_type"] in TERMINAL]
        return found if len(found) >= 2 else []

    first, second = until(done, 240, "two refreshes", stack.logs)[:2]
    assert [r["state_type"] for r in (first, second)] == ["COMPLETED"] * 2, stack.log("worker")
    assert first["auto_scheduled"] and second["auto_scheduled"]
    assert second["total_run_time"] < 20, "what the issue asks for"
    attempts = project.query("SELECT attempt, status FROM runs ORDER BY attempt")
    assert [r["status"] for r in attempts[:2]] == ["completed", "completed"]
    computed = project.query(
        "SELECT attempt, sum(computed) AS n FROM costs GROUP BY attempt ORDER BY attempt"
    )
    assert computed[0]["n"] > 0
    assert sum(r["n"] for r in computed[1:]) == 0


def test_deploying_again_replaces_and_duplicates_nothing(
    stack: Stack, project: Project, deployed: dict[str, Any]
) -> None:
    """It also takes the schedule of every minute away, which the tests below do without."""
    again = json.loads(project.call("deploy", "job.toml", "--workspace", "ws", "--json").stdout)
    assert [d["id"] for d in again["deployments"]] == [d["id"] for d in deployed["deployments"]]
    assert again["notifies"]
    (schedule,) = stack.ask("GET", f"/deployments/{deployment_id(deployed, 'refresh/refresh')}")["schedules"]
    assert schedule["schedule"]["cron"] == "0 2 * * *"
    names = sorted(a["name"] for a in stack.ask("POST", "/automations/filter", {}))
    digest = deployed["limit"].removeprefix("nncift-")
    assert names == ["nncift-crash-silent-runs", f"nncift-data-arrived-{digest}", "nncift-notify-failures"]
    limits = [
        x for x in stack.ask("POST", "/v2/concurrency_limits/filter", {}) if x["name"] == deployed["limit"]
    ]
    assert [x["limit"] for x in limits] == [1]


def test_500_task_runs_are_all_recorded_and_ended(stack: Stack, tmp_path: Path) -> None:
    script = tmp_path / "many.py"
    script.write_text(FIVE_HUNDRED)
    done = subprocess.run(
        [sys.executable, script], env=stack.environment("worker"), capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-3000:]
    flow_run = done.stdout.split()[-1]

    def count(states: list[str] | None) -> int:
        task_runs = {"state": {"type": {"any_": states}}} if states else {}
        body = {"flow_runs": {"id": {"any_": [flow_run]}}, "task_runs": task_runs}
        return int(stack.ask("POST", "/task_runs/count", body))

    until(lambda: count(["COMPLETED"]) == 500, 120, "500 completed task runs")
    assert count(None) == 500


def test_new_data_that_is_announced_starts_a_refresh(
    stack: Stack, project: Project, deployed: dict[str, Any]
) -> None:
    extra = {"id": "new", "prompt": "What is a limit?", "response": "A number that is not passed."}
    write_jsonl(project.folder / "pool.jsonl", [*oracle_rows("pool"), extra])
    said = json.loads(project.call("notify-data", "--workspace", "ws", "--dataset", "pool", "--json").stdout)
    assert len(said["heard_by"]) == 1
    until(lambda: by_event(stack, deployed), 60, "a run started by the event", stack.logs)
    run = until(
        lambda: next((r for r in by_event(stack, deployed) if r["state_type"] in TERMINAL), None),
        120, "the end of that run", stack.logs,
    )  # fmt: skip
    assert run["state_type"] == "COMPLETED", stack.log("worker")
    new = project.query("SELECT count(*) AS n FROM examples WHERE source_id = 'new'")
    assert new[0]["n"] == 1


def test_a_workspace_that_nobody_serves_is_said(project: Project, deployed: dict[str, Any]) -> None:
    done = project.call("notify-data", "--workspace", "another")
    assert "nothing there listens for workspace" in done.stderr


def test_a_failed_run_calls_the_webhook(
    stack: Stack, project: Project, deployed: dict[str, Any], hook: Hook
) -> None:
    pool = project.folder / "pool.jsonl"
    away = pool.rename(project.folder / "away.jsonl")
    project.call("notify-data", "--workspace", "ws")
    try:
        told = until(lambda: hook.heard("Failed"), 120, "the webhook", stack.logs)
    finally:
        away.rename(pool)
    assert told["flow"] == "refresh"
    assert "pool.jsonl" in told["message"]
    failed = next(r for r in by_event(stack, deployed) if r["state_type"] == "FAILED")
    assert told["url"] == f"{deployed['ui_url']}/runs/flow-run/{failed['id']}"


def test_a_run_that_died_with_its_worker_is_crashed_told_and_resumed(
    stack: Stack, project: Project, deployed: dict[str, Any], hook: Hook
) -> None:
    extra = [{"id": f"late-{i}", "prompt": f"Count to {i}.", "response": "One, two."} for i in range(12)]
    write_jsonl(project.folder / "pool.jsonl", [*oracle_rows("pool"), *extra])
    before = {r["id"] for r in by_event(stack, deployed)}
    project.call("notify-data", "--workspace", "ws")

    def running() -> dict[str, Any] | None:
        found = [r for r in by_event(stack, deployed) if r["id"] not in before]
        return next((r for r in found if r["state_type"] == "RUNNING"), None)

    run = until(running, 90, "a running refresh")
    worker = stack.processes["worker"]
    family = [psutil.Process(worker.pid), *psutil.Process(worker.pid).children(recursive=True)]
    time.sleep(1)  # its first heartbeat is on its way
    for process in family:
        if process.is_running():
            process.send_signal(signal.SIGKILL)
    worker.wait(timeout=10)

    def state() -> str:
        return str(stack.ask("GET", f"/flow_runs/{run['id']}")["state"]["type"])

    assert state() == "RUNNING", "nobody noticed yet"
    until(lambda: state() == "CRASHED", 200, "the automation", stack.logs)
    until(lambda: hook.heard("Crashed"), 60, "the webhook")

    stack.start_worker(stack.folder / "elsewhere")
    subprocess.run(
        [BIN / "prefect", "--no-prompt", "flow-run", "retry", run["id"]],
        env=project.env, check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    until(lambda: state() in ("COMPLETED", "FAILED"), 120, "the retried run")
    assert state() == "COMPLETED", stack.log("worker")
    assert project.query("SELECT count(*) AS n FROM examples WHERE source_id LIKE 'late-%'")[0]["n"] == 12


def test_every_service_is_healthy_by_its_own_check_in_the_end(stack: Stack, deployed: dict[str, Any]) -> None:
    assert [name for name in ("redis", "server", "services", "worker") if not stack.healthy(name)] == []
