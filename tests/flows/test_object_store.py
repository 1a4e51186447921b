"""Valuations in a workspace behind an S3 server, by the real command line, on machines of their own."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("s3fs", reason="s3fs is not installed (pip install 'nncift[s3-test]')")
pytest.importorskip("moto", reason="moto is not installed (pip install 'nncift[s3-test]')")
from object_store import Store, machine, wait_for

pytestmark = pytest.mark.heavy
VALUES = "SELECT train_id, target_id, origin, influence FROM influence ORDER BY train_id, target_id"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    made = Store(tmp_path_factory.mktemp("store"))
    yield made
    made.stop()


def test_two_machines_work_on_one_workspace(
    tmp_path: Path, store: Store, prefect_env: dict[str, str]
) -> None:
    a, b = (machine(tmp_path / n, prefect_env, store, store.url("shared")) for n in "ab")
    first = a.run()
    before = len(store.requests())
    again = b.run()
    assert len(store.requests()) - before < 250, "nothing but the journal, leases and what is read"
    assert first["run_id"] == again["run_id"] and again["attempt"] == 2
    assert {c["stage"]: c["computed"] for c in again["costs"] if c["stage"] not in ("select", "report")} == {
        c["stage"]: 0 for c in first["costs"] if c["stage"] not in ("select", "report")
    }
    assert first["workspace"] == store.url("shared") and Path(first["subset"]).read_text()
    assert a.query(VALUES) == b.query(VALUES) and len(a.query(VALUES)) > 100
    local = machine(tmp_path / "local", prefect_env, store, "")
    local.workspace = tmp_path / "local" / "ws"
    local.run()
    assert local.query(VALUES) == b.query(VALUES), "bit-equal to a folder's"
    c = machine(tmp_path / "c", prefect_env, store, store.url("shared"))
    assert len(c.query("SELECT * FROM runs")) == 2
    assert "made from" in c.call("lineage", "subset", "--workspace", c.workspace).stdout.lower()
    report = json.loads(c.call("report", "--workspace", str(c.workspace), "--json").stdout)
    assert Path(report["report"]).is_file()


@pytest.mark.exhaustive
def test_a_killed_machine_loses_nothing(tmp_path: Path, store: Store, prefect_env: dict[str, str]) -> None:
    a, b = (machine(tmp_path / n, prefect_env, store, store.url("killed")) for n in "ab")
    for project in (a, b):
        project.configure(shards={"rows": 2, "columns": 4}, execution={"isolation": "process"})
    store.fault(delay=0.2)
    begun = subprocess.Popen(
        a.command("run", "job.toml", "--workspace", str(a.workspace)), cwd=a.folder, env=a.env,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    mirror = wait_for(lambda: list((a.folder / "mirrors").glob("*")))[0]
    wait_for(lambda: len(list(mirror.glob("exact/*/*.parquet"))) >= 3)
    subprocess.run(["pkill", "-KILL", "-s", str(begun.pid)], check=True)
    begun.wait()
    stored = sum(json.loads(p.read_text())["rows"] for p in mirror.glob("exact/*/*.manifest.json"))
    result = b.run()
    store.fault()
    exact = b.costs(result)["exact-influence"]
    assert exact["reused"] >= stored > 0 and exact["computed"] + exact["reused"] == exact["items"]
    assert result["attempt"] == 2
    # Its lease ends with its minute.
    wanted = {1: "killed", 2: "completed"}
    sql = "SELECT attempt, status FROM runs"
    wait_for(lambda: {r["attempt"]: r["status"] for r in b.query(sql)} == wanted)


def test_what_is_wrong_with_a_store_ends_in_one_message(
    tmp_path: Path, store: Store, prefect_env: dict[str, str]
) -> None:
    project = machine(tmp_path / "m", prefect_env, store, store.url("wrong"))

    def refused(url: str = store.url("wrong"), **env: str) -> str:
        before = dict(project.env)
        project.env.update(env)
        done = project.call("run", "job.toml", "--workspace", url, check=2)
        project.env = before
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        assert len(lines) == 1, done.stderr
        assert "Traceback" not in done.stderr and "tests" not in done.stderr.replace("nncift-tests", "")
        return lines[0]

    assert "NoSuchBucket. Make the bucket" in refused("s3://no-such-bucket/ws")
    assert "no credentials" in refused(AWS_ACCESS_KEY_ID="", AWS_SECRET_ACCESS_KEY="", HOME=str(tmp_path))
    store.fault(expired=True)
    assert "ExpiredToken. Renew the credentials" in refused()
    store.fault(read_only=True)
    assert "AccessDenied. Give the credentials the right" in refused()
    store.fault()
    away = refused(AWS_ENDPOINT_URL="http://127.0.0.1:1")
    assert "has not answered for 2" in away and "AWS_ENDPOINT_URL" in away
    assert not list((tmp_path / "m" / "mirrors").glob("*/runs")), "no work began"
