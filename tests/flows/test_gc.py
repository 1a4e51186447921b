"""A pool that loses rows: `nncift gc` frees their values, and the job run again computes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from conftest import Project, oracle_rows, write_jsonl

from nncift_core.hashing import content_hash, content_id

pytestmark = pytest.mark.heavy

COLUMNS = ("content_id", "row_content", "column_content")


def held(workspace: Path, folder: str) -> set[int]:
    """Content ids in the Parquet files of a folder of the workspace."""
    found: set[int] = set()
    for path in workspace.glob(f"{folder}/*/*.parquet"):
        table = pq.read_table(path)
        for name in set(table.column_names) & set(COLUMNS):
            found.update(table[name].to_pylist())
    return found


def test_rows_that_left_the_pool_leave_the_workspace(make_project: Callable[[str], Project]) -> None:
    p = make_project("collected")
    write_jsonl(p.folder / "test.jsonl", oracle_rows("target")[:4])
    p.configure(
        target={"test": "./test.jsonl"}, finetune={"epochs": 1}, evaluation={"seeds": 1, "metrics": ["loss"]}
    )
    first = p.value()
    # One row that others share their text with stays alive by its copy.
    gone = [r for r in oracle_rows("pool") if r["id"] in ("pool-00", "pool-03", "pool-06", "pool-11")]
    left = [r for r in oracle_rows("pool") if r not in gone]
    write_jsonl(p.folder / "pool.jsonl", left)
    second = p.value()
    ids = {r["id"]: content_id(content_hash(r["prompt"], r["response"])) for r in oracle_rows("pool")}
    dead = {ids[r["id"]] for r in gone} - {ids[r["id"]] for r in left}
    folders = ("exact", "estimates", "embeddings", "features")
    assert len(dead) == 3 and all(dead <= held(p.workspace, f) for f in ("estimates", "embeddings"))
    queries = ("influence", "scores", "selection", "evaluation", "comparison", "examples", "audit")
    before = {view: p.ask(f"SELECT * FROM {view} ORDER BY ALL") for view in queries}
    where = ("--workspace", str(p.workspace), "--keep", "1", "--json")
    listed = json.loads(p.call("gc", *where).stdout)
    told = json.loads(p.call("gc", *where, "--delete").stdout)
    assert told["deleted"] and told["replaced"] == listed["replaced"] == [first["run_id"]]
    assert told["texts_staying"] == 4, "they share blocks with rows that stay"
    assert all(dead.isdisjoint(held(p.workspace, f)) for f in folders)
    assert {view: p.ask(f"SELECT * FROM {view} ORDER BY ALL") for view in queries} == before
    again = p.value()
    kept = [c for c in again["costs"] if c["stage"] != "report"]
    assert len(kept) > 8 and all(c["computed"] == 0 and c["reused"] == c["items"] for c in kept), kept
    assert (again["run_id"], again["attempt"]) == (second["run_id"], 2)
    assert Path(again["subset"]).read_text() == Path(second["subset"]).read_text()
    assert {view: p.ask(f"SELECT * FROM {view} ORDER BY ALL") for view in queries} == before
    assert json.loads(p.call("gc", *where, "--delete").stdout)["groups"] == []
    assert p.query("SELECT count(*) AS n FROM runs")[0]["n"] == 3, "attempts stay"


def test_every_part_of_a_run_knows_what_made_it(make_project: Callable[[str], Project]) -> None:
    p = make_project("lineage")
    write_jsonl(p.folder / "test.jsonl", oracle_rows("target")[:4])
    p.configure(
        target={"test": "./test.jsonl"}, finetune={"epochs": 1}, evaluation={"seeds": 1, "metrics": ["loss"]}
    )
    run = p.run()["run_id"]
    where = ("--workspace", str(p.workspace), "--json")
    for word in ("subset", "estimator", "report", "adapter"):
        told = json.loads(p.call("lineage", word, *where).stdout)
        by = told["made_by"]
        assert (by["run"], by["attempt"], by["function"]) == (run, 1, "delift"), word
        assert by["versions"]["git"] and by["command"].startswith("nncift run job.toml")
        kinds = {n["kind"] for n in told["nodes"]}
        assert {
            "exact",
            "label-design",
            "embedding",
            "dataset-version",
            "dataset-block",
            "source",
        } <= kinds, word
        assert all(n["stored"] for n in told["nodes"] if n["kind"] not in ("source", "model")), word
        assert {d["role"] for d in told["datasets"]} >= {"pool", "target"}
    unknown = p.call("lineage", "nothing-like-it", *where, check=2)
    assert "no artifact 'nothing-like-it' here" in unknown.stderr and unknown.stdout == ""
