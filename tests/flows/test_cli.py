"""What a person meets at the terminal: plan, query, wrong input, exit codes."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Project, oracle_rows, write_jsonl


def refuse(p: Project, *args: str) -> str:
    """The command exits 2 with one line on stderr and leaves no workspace and no server behind."""
    done = p.call(*args, "--workspace", str(p.workspace), check=2)
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("nncift: ")
    assert done.stderr.count("\n") == 1, done.stderr
    assert not p.workspace.exists()
    assert not Path(p.env["PREFECT_HOME"], "nncift-server.json").exists()
    return done.stderr


def test_plan_counts_and_touches_nothing(offline_project: Project) -> None:
    p = offline_project
    before = sorted(x.name for x in p.folder.iterdir())
    done = p.call("plan", "job.toml", "--workspace", str(p.workspace), "--json")
    found = json.loads(done.stdout)
    disk = found.pop("forecast_disk_mb")
    assert found.pop("forecast")["source"] is None
    assert found == {
        "pool_rows": 24,
        "target_rows": 12,
        "rows_dropped": 0,
        "duplicates": 1,
        "pairs": 288,
        "label_design": "block",
        "label_pairs": 72,
        "exact_pairs": 12 * 6 + 40,
        "features": 0,
        # One for each exact pair, one for each target row without an example.
        "forward_passes": 12 * 6 + 40 + 12,
        "test_rows": 0,
        "fine_tunes": 0,
        "forecast_seconds": None,
    }
    assert 0 < disk < 1
    assert sorted(x.name for x in p.folder.iterdir()) == before
    assert not Path(p.env["PREFECT_HOME"]).exists()


def test_plan_counts_dropped_rows(offline_project: Project) -> None:
    p = offline_project
    write_jsonl(p.folder / "pool.jsonl", [*oracle_rows("pool"), {"prompt": "x", "response": " "}])
    p.configure(pool={"on_bad_rows": "drop"})
    found = json.loads(p.call("plan", "job.toml", "--json").stdout)
    assert (found["pool_rows"], found["rows_dropped"]) == (24, 1)


def no_response(p: Project) -> None:
    rows: list[dict[str, Any]] = oracle_rows("pool")
    rows[4] = {"prompt": "no answer"}
    write_jsonl(p.folder / "pool.jsonl", rows)


def broken_json(p: Project) -> None:
    text = (p.folder / "pool.jsonl").read_text(encoding="utf-8").splitlines()
    (p.folder / "pool.jsonl").write_text("\n".join([*text[:2], '{"prompt": ', *text[2:]]), encoding="utf-8")


def latin1(p: Project) -> None:
    (p.folder / "pool.jsonl").write_bytes('{"prompt": "caf\u00e9", "response": "x"}\n'.encode("latin-1"))


def wrong_columns(p: Project) -> None:
    write_jsonl(p.folder / "pool.jsonl", [{"foo": "a", "bar": "b"}])


def cut_parquet(p: Project) -> None:
    (p.folder / "data.parquet").write_bytes(b"PAR1 this is no parquet")
    p.configure(pool={"source": "data.parquet"})


def zero_bytes(p: Project) -> None:
    (p.folder / "pool.jsonl").write_bytes(b"")


def cut_gzip(p: Project) -> None:
    data = gzip.compress((p.folder / "pool.jsonl").read_bytes())
    (p.folder / "pool.jsonl.gz").write_bytes(data[: len(data) // 2])
    p.configure(pool={"source": "pool.jsonl.gz"})


def empty_folder(p: Project) -> None:
    (p.folder / "data").mkdir()
    (p.folder / "data" / "notes.md").write_text("hello")
    p.configure(pool={"source": "./data"})


def symlink_loop(p: Project) -> None:
    (p.folder / "data").mkdir()
    os.symlink(p.folder / "data", p.folder / "data" / "again")
    p.configure(pool={"source": "./data"})


def not_an_object(p: Project) -> None:
    (p.folder / "pool.jsonl").write_text('{"prompt": "a", "response": "b"}\n[1, 2]\n')


def list_valued(p: Project) -> None:
    write_jsonl(p.folder / "pool.jsonl", [{"prompt": "a", "response": ["b"]}])


def missing_file(p: Project) -> None:
    p.configure(pool={"source": "nowhere.jsonl"})


def absent_split(p: Project) -> None:
    write_jsonl(p.folder / "pool.jsonl", [{"prompt": "a", "response": "b", "split": "train"}])
    p.configure(pool={"split": "test"})


def unknown_key(p: Project) -> None:
    p.configure(influence={"label_fracton": 0.1})


def absent_model(p: Project) -> None:
    p.configure(language_model={"model": "./no-such-model"})


def absent_device(p: Project) -> None:
    p.configure(execution={"devices": ["cuda:7"]})


CASES: list[tuple[Callable[[Project], None], list[str]]] = [
    (no_response, ["pool.jsonl:5", "response"]),
    (broken_json, ["pool.jsonl:3", "JSON"]),
    (latin1, ["pool.jsonl", "UTF-8"]),
    (wrong_columns, ['"foo"', '"bar"', "columns = {prompt"]),
    (cut_parquet, ["data.parquet", "Parquet"]),
    (zero_bytes, ["pool.jsonl", "empty"]),
    (cut_gzip, ["pool.jsonl.gz"]),
    (empty_folder, ["./data", "no data file in this folder", ".parquet"]),
    (symlink_loop, ["./data", "link to a folder already read", "again"]),
    (not_an_object, ["pool.jsonl:2", "object"]),
    (list_valued, ["pool.jsonl:1", "list"]),
    (missing_file, ["nowhere.jsonl"]),
    (absent_split, ["test", '"train"']),
    (unknown_key, ["job.toml", "influence.label_fracton", 'Did you mean "label_fraction"?']),
    (absent_model, ["no-such-model"]),
    (absent_device, ["cuda:7", "execution.devices"]),
]


@pytest.mark.parametrize(("spoil", "parts"), CASES, ids=[c[0].__name__ for c in CASES])
def test_wrong_input_is_refused_before_anything_is_written(
    offline_project: Project, spoil: Callable[[Project], None], parts: list[str]
) -> None:
    spoil(offline_project)
    message = refuse(offline_project, "run", "job.toml")
    for part in parts:
        assert part in message


def test_plan_refuses_what_run_refuses(offline_project: Project) -> None:
    broken_json(offline_project)
    assert "pool.jsonl:3" in refuse(offline_project, "plan", "job.toml")


def test_a_folder_in_other_use_is_no_workspace(offline_project: Project) -> None:
    done = offline_project.call("run", "job.toml", "--workspace", str(offline_project.folder), check=2)
    assert "is not empty and is no nncift workspace" in done.stderr


def test_json_stays_json_when_values_are_not_finite(make_project: Callable[[str], Project]) -> None:
    p = make_project("json")
    p.workspace.mkdir()
    (p.workspace / "nncift.json").write_text('{"format": 1}')
    assert p.query("SELECT 'nan'::DOUBLE AS a, 1 / 0 AS b, 0.5 AS c") == [{"a": None, "b": None, "c": 0.5}]


def test_plan_refuses_devices_and_workspaces_that_run_refuses(offline_project: Project) -> None:
    p = offline_project
    assert "is a file, not a folder" in p.call("plan", "job.toml", "-w", "job.toml", check=2).stderr
    p.configure(language_model={"device": "cuda:3"})
    assert "language_model.device" in refuse(p, "plan", "job.toml")
    assert "cuda:3" in refuse(p, "run", "job.toml")


def test_a_wrong_port_in_the_environment_is_named(offline_project: Project) -> None:
    offline_project.env["NNCIFT_SERVER_PORT"] = "abc"
    done = offline_project.call("run", "job.toml", "--workspace", str(offline_project.workspace), check=2)
    assert "NNCIFT_SERVER_PORT: 'abc' is no port" in done.stderr
    assert not offline_project.workspace.exists()


def test_query_without_a_workspace(offline_project: Project) -> None:
    assert "no workspace here" in refuse(offline_project, "query", "SELECT 1")


def test_unknown_command_and_missing_argument_exit_2(offline_project: Project) -> None:
    assert offline_project.call("valeu", check=2).stdout == ""
    assert "config" in offline_project.call("run", check=2).stderr


def test_every_command_is_listed(offline_project: Project) -> None:
    text = offline_project.call("--help").stdout
    for here in (
        "quickstart",
        "report",
        "doctor",
        "refresh",
        "diff",
        "lineage",
        "gc",
        "deploy",
        "notify-data",
        "prune",
        "compare",
        "audit",
        "explain",
        "merge",
        "join",
        "plan",
    ):
        assert here in text
