"""Operations: several slots, concurrent runs, failing shards, Ctrl-C, lost files."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Project, oracle_rows, write_jsonl
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.valuation import value_pool
from nncift_core.errors import RunError
from nncift_core.execution import work
from nncift_core.pipeline import exact
from nncift_core.store.query import rows
from nncift_core.store.workspace import Workspace

pytestmark = pytest.mark.heavy


@pytest.fixture
def project(make_project: Callable[[str], Project]) -> Project:
    return make_project("operations")


@pytest.fixture
def in_process(prefect_env: dict[str, str]) -> Any:
    """Flows of this process talk to the session's server."""
    with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{prefect_env['NNCIFT_SERVER_PORT']}/api"}):
        yield


def test_two_slots_and_two_runs_at_once_give_the_same_subset(
    project: Project, make_project: Callable[[str], Project]
) -> None:
    alone = Path(project.run()["subset"]).read_bytes()
    shared = make_project("shared")
    shared.configure(execution={"devices": ["cpu", "cpu"], "isolation": "process"})
    command = shared.command("run", "job.toml", "--workspace", str(shared.workspace), "--json")
    both = [
        subprocess.Popen(
            command, cwd=shared.folder, env=shared.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for _ in range(2)
    ]
    results = []
    for process in both:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err.decode()[-3000:]
        results.append(json.loads(out))
    assert {r["attempt"] for r in results} == {1, 2}
    assert all(Path(r["subset"]).read_bytes() == alone for r in results)
    assert shared.query("SELECT count(*) AS n FROM influence")[0]["n"] == 288


def test_a_failing_shard_lets_the_others_finish(
    project: Project, in_process: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = project.configure(execution={"retries": 0})

    def compute(problem: Any, function: Any, shard: exact.ExactShard, progress: Any = None) -> int:
        if shard.name == "Q1 block 0":
            raise RuntimeError("device lost")
        return exact.compute_exact(problem, function, shard, progress)

    with monkeypatch.context() as patch:
        patch.setattr(work, "compute_exact", compute)
        with pytest.raises(RunError) as e:
            value_pool(config, project.workspace, "nncift run job.toml")
    assert str(e.value) == (
        "1 of 4 shards of exact-influence failed after all their tries: exact-influence Q1 block 0 "
        "(RuntimeError: device lost). Finished shards are kept; complete the others with: nncift run job.toml"
    )
    ws = Workspace.open(project.workspace)
    assert [r["status"] for r in rows(ws, "SELECT status FROM runs")] == ["failed"]
    value_pool(config, project.workspace)
    both = rows(ws, "SELECT attempt, computed, reused FROM costs WHERE stage = 'exact-influence' ORDER BY 1")
    assert [r["attempt"] for r in both] == [1, 2], "what a failed stage computed is in the books, too"
    assert 0 < both[1]["computed"] < both[0]["computed"] == both[1]["reused"]


def test_a_second_call_in_one_process_sees_lost_files(project: Project, in_process: Any) -> None:
    config = project.configure()
    first = value_pool(config, project.workspace)
    subset = Path(first.subset).read_bytes()
    for lost in ("embeddings", "exact", "estimates", "estimators", "prefect"):
        shutil.rmtree(project.workspace / lost)
        again = value_pool(config, project.workspace)
        assert Path(again.subset).read_bytes() == subset, lost
    for block in project.workspace.glob("datasets/*/*/blocks/*.parquet"):
        block.unlink()
    again = value_pool(config, project.workspace)
    assert {c["stage"]: c["computed"] for c in again.costs}["ingest"] == 36
    assert Path(again.subset).read_bytes() == subset
    shutil.rmtree(project.workspace)
    assert Path(value_pool(config, project.workspace).subset).read_bytes() == subset


def test_training_is_not_repeated_when_only_prefects_cache_is_lost(project: Project, in_process: Any) -> None:
    config = project.configure()
    value_pool(config, project.workspace)
    made = "SELECT created_at FROM lineage WHERE kind = 'estimator'"
    before = rows(Workspace(project.workspace), made)
    shutil.rmtree(project.workspace / "prefect")
    value_pool(config, project.workspace)
    assert rows(Workspace(project.workspace), made) == before


# The command with one step replaced, that waits for Ctrl-C once it has written the file "here".
HELD = """
import time
from pathlib import Path

from nncift_core.execution import work
from nncift_core.execution import work
from nncift_core.pipeline import exact
from tasks import downstream

def compute(problem, function, shard, progress):
    exact.compute_exact(problem, function, shard, progress)
    Path("here").touch()
    while True:
        time.sleep(0.01)
        progress(0)

def query(ws, run_id):
    if Path("here").exists():
        return "tried again"
    Path("here").touch()
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        # As DuckDB does.
        raise RuntimeError("Query interrupted") from None

{patch}
from flows.cli import main
main()
"""


@pytest.mark.parametrize("patch", ["work.compute_exact = compute", "downstream.write_report = query"])
def test_ctrl_c_says_that_the_work_is_kept(project: Project, patch: str) -> None:
    """While another thread computes shards, and in a library that makes an error of its own of it."""
    process = subprocess.Popen(
        [sys.executable, "-c", HELD.format(patch=patch), *project.command("run", "job.toml")[1:],
         "--workspace", str(project.workspace)],
        cwd=project.folder, env=project.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not (project.folder / "here").exists():
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, err[-3000:]
    assert "interrupted; what is finished is kept" in err.splitlines()[-1]
    assert "Traceback" not in err
    assert project.query("SELECT status FROM runs")[0]["status"] == "interrupted"
    assert project.costs(project.run())["exact-influence"]["reused"] > 0


def test_what_was_cut_dropped_and_repeated_is_said_on_every_run(project: Project) -> None:
    pool: list[dict[str, Any]] = oracle_rows("pool")
    pool += [
        {"id": "long", "prompt": "word " * 3000, "response": "x"},
        {"id": "bad", "prompt": "p", "response": ""},
    ]
    write_jsonl(project.folder / "pool.jsonl", pool)
    project.configure(pool={"on_bad_rows": "drop"}, influence={"label_fraction": 1, "function": "delift"})
    first, second = project.run(), project.run()
    for facts in (first["facts"], second["facts"]):
        assert facts["truncated_sequences"] == 12
        assert (facts["duplicates"], facts["dropped_rows"]) == (1, 1)
    text = project.call("run", "job.toml", "--workspace", str(project.workspace)).stdout
    assert "note: 12 sequences did not fit the model's context" in text
    assert "note: 1 rows were dropped as bad" in text


def test_exact_values_of_other_runs_are_used_and_said(project: Project) -> None:
    project.run()
    project.configure(influence={"audit_pairs": 60})
    second = project.run()
    assert second["facts"]["exact_pairs_from_other_runs"] == 0, "a larger audit holds the smaller one"
    assert project.costs(second)["exact-influence"]["reused"] == 12 * 6 + 40
    project.configure(influence={"audit_pairs": 10})
    third = project.run()
    assert third["facts"]["exact_pairs_from_other_runs"] == 50
    assert project.costs(third)["exact-influence"]["computed"] == 0
