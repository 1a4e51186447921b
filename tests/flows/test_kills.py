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
from typing import Any

import pytest
from compared_jobs import with_held_out
from conftest import Project
from faults.live import WORKER, until
from faults.world import MARK, free_locks, marked, no_half_written

pytestmark = pytest.mark.heavy


def killed_when(p: Project, ready: Callable[[Path], bool], command: str = "run") -> None:
    """Start `nncift COMMAND` and kill its process as soon as `ready(workspace)`."""
    process = subprocess.Popen(
        p.command(command, "job.toml", "--workspace", str(p.workspace)),
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


def each(moments: dict[str, Any], often: set[str]) -> list[Any]:
    """The moments as parameters; those not in `often` are of `make test-exhaustive` alone."""
    return [pytest.param(m, marks=() if m in often else pytest.mark.exhaustive) for m in moments]


OFTEN = {"within ingest", "within embed", "within exact", "within estimates"}


@pytest.mark.parametrize("moment", each(MOMENTS, OFTEN))
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


COMPARED = {
    "between methods": has("runs/*/tables/selection_of_method-*.manifest.json", 2),
    "within fine-tune": has("adapters/*/adapter_model.safetensors.manifest.json", 3),
    "within evaluate": has("evaluations/*.manifest.json", 2),
}


@pytest.mark.parametrize("moment", each(COMPARED, {"within fine-tune", "within evaluate"}))
def test_a_killed_comparison_keeps_every_finished_cell(
    make_project: Callable[[str], Project], moment: str
) -> None:
    p = make_project("compared")
    with_held_out(p)
    p.env = {**p.env, MARK: uuid.uuid4().hex}
    killed_when(p, COMPARED[moment], "compare")
    trained = len(list(p.workspace.glob("adapters/*/adapter_model.safetensors.manifest.json")))
    scored = len(list(p.workspace.glob("evaluations/*.manifest.json")))
    files = {f: f.stat().st_mtime_ns for f in p.workspace.glob("adapters/*/adapter_model.safetensors")}
    done = p.call("compare", "job.toml", "--workspace", str(p.workspace), "--json", "-q")
    result = json.loads(done.stdout)
    # Finished models are the very files that were there, and every row of the table is filled.
    assert all(f.stat().st_mtime_ns == then for f, then in files.items()) and len(files) >= trained
    costs = p.costs(result)
    assert costs["evaluate"]["reused"] >= scored and not result["facts"]["failed_parts"]
    assert {r["method"] for r in result["summary"]} >= {"bm25, exact", "delift-se, estimated", "base", "full"}
    no_half_written(p.workspace)
