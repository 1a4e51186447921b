"""What an operator looks at after a bad night: shard bars, a shard that was tried again, a schedule."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from browser.conftest import Browser, Valued, _valued
from browser.test_run_page import run_page, search_tasks
from conftest import Project, oracle_rows, write_jsonl

pytestmark = [pytest.mark.heavy, pytest.mark.browser]


def workers_of(parent: int) -> list[int]:
    """Worker processes that a run has started."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            started = b"nncift_core.execution.worker" in (folder / "cmdline").read_bytes()
            by = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue
        if started and by == parent:
            found.append(int(folder.name))
    return found


@pytest.fixture(scope="module")
def retried(driver: Any, tmp_path_factory: pytest.TempPathFactory, prefect_env: dict[str, str]) -> Valued:
    """A valuation whose worker process was killed once, while it computed exact values."""
    project = Project(tmp_path_factory.mktemp("retried"), prefect_env)
    rows = oracle_rows("pool")
    pool = [{**r, "id": f"{r['id']}-{k}", "prompt": f"{r['prompt']} {k}"} for k in range(6) for r in rows]
    write_jsonl(project.folder / "pool.jsonl", pool)
    project.configure(
        execution={"isolation": "process", "retry_seconds": 0.5}, influence={"label_fraction": 0.8}
    )
    process = subprocess.Popen(
        project.command("run", "job.toml", "--workspace", str(project.workspace), "--json"),
        cwd=project.folder, env=project.env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline and not list(project.workspace.glob("exact/*/*.manifest.json")):
        assert process.poll() is None
        time.sleep(0.01)
    (worker,) = workers_of(process.pid)
    os.kill(worker, signal.SIGKILL)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    return _valued(project, json.loads(out))


def task_runs(valued: Valued) -> list[dict[str, Any]]:
    """Task runs of a valuation's flow run, as the server tells them."""
    body = {"flow_runs": {"id": {"any_": [valued.flow_run()["id"]]}}, "limit": 200}
    answer = httpx.post(f"{valued.server}/api/task_runs/filter", json=body, trust_env=False)
    found: list[dict[str, Any]] = answer.raise_for_status().json()
    return found


def test_a_run_has_a_bar_for_every_shard_and_says_which_was_tried_again(
    browser: Browser, retried: Valued
) -> None:
    (again,) = [t for t in task_runs(retried) if t["run_count"] > 1]
    assert again["name"].startswith("exact-influence") and again["state_type"] == "COMPLETED"
    assert not [t for t in task_runs(retried) if t["state_type"] != "COMPLETED"]
    with browser.noting_drawn_texts():
        browser.open(run_page(retried, "/v2"))
        shards = [t["name"] for t in task_runs(retried) if t["name"].startswith("exact-influence")]
        assert len(shards) > 5
        browser.wait(lambda _: set(shards) <= browser.drawn(), "a shard has no bar")
    browser.wait_text("Completed")
    browser.picture("run_shards")
    browser.open(f"{retried.server}/v2/runs/task-run/{again['id']}")
    browser.wait_text(again["name"], "Completed", "Retries", "1")
    browser.picture("retried_shard")


def test_runs_are_found_by_function_and_data(browser: Browser, retried: Valued) -> None:
    tags = retried.flow_run()["tags"]
    assert "function:delift" in tags and [t for t in tags if t.startswith("data:")]
    browser.open(run_page(retried, "/v2"))
    browser.wait_text(*tags)
    search_tasks(browser, "exact-influence")
    browser.wait_text("exact-influence Q1 block 0")


def test_a_deployment_shows_its_schedule(
    browser: Browser, retried: Valued, make_project: Callable[[str], Project]
) -> None:
    project = make_project("deployed")
    project.call("deploy", "job.toml", "--workspace", str(project.workspace), "--cron", "0 3 * * *")
    answer = httpx.get(f"{retried.server}/api/deployments/name/refresh/refresh", trust_env=False)
    browser.open(f"{retried.server}/v2/deployments/deployment/{answer.raise_for_status().json()['id']}")
    browser.wait_text("refresh", "03:00")
    browser.picture("deployment")
    browser.open(f"{retried.server}/v2/automations")
    browser.wait_text("nncift-crash-silent-runs")
