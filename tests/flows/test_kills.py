"""kill -9 of a flow at any moment loses at most the work in flight: same subset, finished work reused.

The moments are those of its stages; tests/faults has random ones, and other victims.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Project
from faults.live import WORKER, until
from faults.world import MARK, free_locks, marked, no_half_written

pytestmark = pytest.mark.heavy


def killed_when(p: Project, ready: Callable[[Path], bool]) -> None:
    """Start a run and kill its process as soon as `ready(workspace)`."""
    process = subprocess.Popen(
        p.command("run", "job.toml", "--workspace", str(p.workspace)),
        cwd=p.folder, env=p.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline and not ready(p.workspace):
        time.sleep(0.002)
    assert process.poll() is None, "the run ended before it could be killed"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    until("the worker process to end", lambda: not list(marked(f"{MARK}={p.env[MARK]}", WORKER)), 10)
    free_locks(p.workspace)


def stored_pairs(workspace: Path, kind: str) -> int:
    """Rows of every published segment of a kind."""
    manifests = (workspace / kind).glob("*/*.manifest.json")
    return sum(json.loads(m.read_text())["rows"] for m in manifests)


def has(pattern: str, count: int = 1) -> Callable[[Path], bool]:
    """Whether at least `count` files match below the workspace."""
    return lambda ws: len(list(ws.glob(pattern))) >= count


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory, prefect_env: dict[str, str]) -> str:
    """The subset of a run that nobody killed."""
    p = Project(tmp_path_factory.mktemp("unbroken"), prefect_env)
    return Path(p.run()["subset"]).read_text()


MOMENTS = {
    "within ingest": has("datasets/*/*/blocks/*.parquet"),
    "within embed": has("embeddings/*/*.manifest.json"),
    "before exact": has("runs/*/costs/0001-embed-cpu.json"),
    "within exact": has("exact/*/*.manifest.json", 2),
    "before training": has("runs/*/costs/0001-exact-influence-cpu.json"),
    "after training": has("estimators/*/*.manifest.json"),
    "within estimates": has("estimates/*/*.manifest.json", 2),
    "before the end": has("runs/*/tables/*.manifest.json"),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_run_goes_on_where_it_was(
    make_project: Callable[[str], Project], unbroken: str, moment: str
) -> None:
    p = make_project("killed")
    p.configure(execution={"isolation": "process"})
    p.env = {**p.env, MARK: uuid.uuid4().hex}
    killed_when(p, MOMENTS[moment])
    exact, estimates = stored_pairs(p.workspace, "exact"), stored_pairs(p.workspace, "estimates")
    result = p.run()
    costs = p.costs(result)
    assert Path(result["subset"]).read_text() == unbroken
    assert costs["exact-influence"]["reused"] == exact
    assert costs["estimate-influence"]["reused"] == estimates
    if moment == "within exact":
        assert 0 < exact < costs["exact-influence"]["items"]
    if moment == "within estimates":
        assert 0 < estimates < costs["estimate-influence"]["items"]
    first = p.query("SELECT status FROM runs ORDER BY started_at LIMIT 1")[0]["status"]
    assert first == ("completed" if moment == "within ingest" else "killed")
    no_half_written(p.workspace)
