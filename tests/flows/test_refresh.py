"""The recurring job: what is new is valued with what is known, and audited: does that still hold?"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Project, oracle_rows, write_jsonl
from new_domain import MARK

from nncift_core.functions import CATALOGUE, Entry
from nncift_core.store.designs import StoredDesign, load_design
from nncift_core.store.runs import read_attempts, read_result
from nncift_core.store.workspace import Workspace

pytestmark = pytest.mark.heavy

BEFORE = ("", "Once more. ", "Please answer: ", "Think first. ", "In short: ")
Make = Callable[[str], Project]


def refreshed(p: Project) -> dict[str, Any]:
    """`nncift refresh` by the Python call, in this process."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows.refresh import refresh_pool
    from tasks.progress import reporter

    reporter.mode = "quiet"
    url = f"http://127.0.0.1:{p.env['NNCIFT_SERVER_PORT']}/api"
    with temporary_settings({PREFECT_API_URL: url}):
        return refresh_pool(p.folder / "job.toml", p.workspace).model_dump(mode="json")


def rows(variants: tuple[str, ...], mark: str = "") -> list[dict[str, Any]]:
    """The oracle's pool once per variant of its prompts' beginning."""
    return [
        r | {"id": f"{mark}{r['id']}-{n}", "prompt": f"{mark}{before}{r['prompt']}"}
        for n, before in enumerate(variants)
        for r in oracle_rows("pool")
    ]


def pool(p: Project, found: list[dict[str, Any]]) -> None:
    write_jsonl(p.folder / "pool.jsonl", found)


def exact_pairs(p: Project, result: dict[str, Any]) -> int:
    """Exact pairs that a run computed, by its costs."""
    stages = ("exact-influence", "added-labels")
    return sum(c["computed"] for c in result["costs"] if c["stage"] in stages)


def design(p: Project, result: dict[str, Any]) -> StoredDesign:
    ws = Workspace.open(p.workspace)
    m = (read_result(ws, result["run_id"]) or {})["matrix"]
    family = next(
        f.name for f in (p.workspace / "designs").iterdir() if (f / f"{m['design_key']}.parquet").is_file()
    )
    return load_design(ws, family, m["design_key"])


def estimator(p: Project, result: dict[str, Any]) -> str:
    m = (read_result(Workspace.open(p.workspace), result["run_id"]) or {})["matrix"]
    return str(m["estimator"]["key"])


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory, prefect_env: dict[str, str]) -> Project:
    """A job with a real model, refreshed as its pool grew by a tenth; tests only read it or copies of it."""
    p = Project(tmp_path_factory.mktemp("grown"), prefect_env)
    p.configure(
        influence={"audit_pairs": 120}, estimator={"architecture": "kernel"}, refresh={"audit_pairs": 32}
    )
    everything = rows(BEFORE[:4])
    pool(p, everything[:87])
    p.first = refreshed(p)  # type: ignore[attr-defined]
    shutil.copytree(p.workspace, p.folder / "before")
    pool(p, everything)
    p.second = refreshed(p)  # type: ignore[attr-defined]
    return p


def test_without_an_earlier_run_it_is_a_valuation_and_says_so(grown: Project) -> None:
    facts = grown.first["facts"]  # type: ignore[attr-defined]
    assert facts["refresh_decision"] == "first" and facts["refresh_previous_run"] == ""
    assert facts["refresh_new_rows"] == 87 and facts["refresh_removed_rows"] == 0
    assert "refresh_entered" not in facts


def test_a_tenth_more_of_the_same_costs_little_and_keeps_the_estimator(grown: Project) -> None:
    first, second = grown.first, grown.second  # type: ignore[attr-defined]
    facts = second["facts"]
    assert facts["refresh_decision"] == "kept", facts["refresh_reason"]
    assert facts["refresh_previous_run"] == first["run_id"] and facts["refresh_new_rows"] == 9
    assert facts["refresh_audit_pairs"] == 32 and 0.01 <= facts["refresh_p"] <= 1
    assert 0 < exact_pairs(grown, second) <= 0.15 * exact_pairs(grown, first)
    assert design(grown, second).ref.key == design(grown, first).ref.key
    assert estimator(grown, second) == estimator(grown, first)
    costs = grown.costs(second)
    assert costs["train-influence-network"]["computed"] == 0
    assert costs["estimate-influence"]["items"] == 92 * 12, "pool-20 is a copy of pool-06, four times over"
    assert costs["estimate-influence"]["computed"] == 8 * 12, "only the contents of new rows are estimated"
    assert facts["refresh_labels_added"] == 0


def test_what_moved_and_why_is_a_view_a_report_and_an_artifact(grown: Project) -> None:
    second = grown.second  # type: ignore[attr-defined]
    facts = second["facts"]
    moved = grown.ask("SELECT change, count(*) AS n FROM subset_changes GROUP BY 1")
    found = {m["change"]: m["n"] for m in moved}
    assert (found.get("entered", 0), found.get("left", 0)) == (
        facts["refresh_entered"],
        facts["refresh_left"],
    )
    page = Path(second["report"]).read_text(encoding="utf-8")
    assert "refresh: kept: no sign of larger errors" in page
    from prefect.artifacts import Artifact
    from prefect.settings import PREFECT_API_URL, temporary_settings

    url = f"http://127.0.0.1:{grown.env['NNCIFT_SERVER_PORT']}/api"
    with temporary_settings({PREFECT_API_URL: url}):
        artifact = Artifact.get(f"refresh-{second['run_id']}")
    assert artifact is not None and '"value": "kept"' in str(artifact.data)


def test_a_second_refresh_finds_nothing_to_do(grown: Project) -> None:
    second = grown.second  # type: ignore[attr-defined]
    ws = Workspace.open(grown.workspace)
    published = read_result(ws, second["run_id"])
    done = grown.call("refresh", "job.toml", "--workspace", str(grown.workspace), "--json")
    again = json.loads(done.stdout)
    assert again["facts"]["refresh_decision"] == "nothing new" and again["facts"]["refresh_new_rows"] == 0
    assert again["run_id"] == second["run_id"] and again["attempt"] == second["attempt"] + 1
    assert Path(again["subset"]).read_text() == Path(second["subset"]).read_text()
    assert read_result(ws, second["run_id"]) == published, "the earlier result stays published"
    assert {c["computed"] for c in again["costs"]} == {0}
    assert {c["stage"] for c in again["costs"]} == {c["stage"] for c in second["costs"]}
    assert read_attempts(ws)[-1]["status"] == "completed"
    shown = grown.call("refresh", "job.toml", "--workspace", str(grown.workspace), "--quiet").stdout
    assert shown.startswith("Refresh: nothing new") and "Subset: 6 of 96 rows" in shown


def test_killed_after_its_audit_it_goes_on_and_computes_nothing_twice(
    grown: Project, make_project: Make
) -> None:
    second = grown.second  # type: ignore[attr-defined]
    p = make_project("killed")
    for name in ("pool.jsonl", "target.jsonl", "job.toml"):
        shutil.copy(grown.folder / name, p.folder / name)
    shutil.copytree(grown.folder / "before", p.workspace)
    process = subprocess.Popen(
        p.command("refresh", "job.toml", "--workspace", str(p.workspace)),
        cwd=p.folder, env=p.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    run = p.workspace / "runs" / second["run_id"]
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if list(run.glob("costs/0001-exact-influence-*.json")):
            break
        time.sleep(0.002)
    assert process.poll() is None, "it ended before it could be killed"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    result = refreshed(p)
    assert result["attempt"] == 2 and exact_pairs(p, result) == 0
    assert Path(result["subset"]).read_text() == Path(second["subset"]).read_text()
    wanted = ("decision", "reason", "previous_run", "audit_pairs", "p", "entered", "left")
    facts, unbroken = result["facts"], second["facts"]
    assert {w: facts[f"refresh_{w}"] for w in wanted} == {w: unbroken[f"refresh_{w}"] for w in wanted}


def test_a_plain_run_afterwards_keeps_design_estimator_and_subset(grown: Project, make_project: Make) -> None:
    second = grown.second  # type: ignore[attr-defined]
    p = make_project("plain")
    for name in ("pool.jsonl", "target.jsonl", "job.toml"):
        shutil.copy(grown.folder / name, p.folder / name)
    shutil.copytree(grown.workspace, p.workspace)
    result = p.value()
    assert result["run_id"] == second["run_id"] and exact_pairs(p, result) == 0
    assert design(p, result).ref.key == design(p, second).ref.key
    assert estimator(p, result) == estimator(grown, second)
    assert Path(result["subset"]).read_text() == Path(second["subset"]).read_text()


def test_rows_that_are_gone_leave_the_subset(grown: Project, make_project: Make) -> None:
    second = grown.second  # type: ignore[attr-defined]
    p = make_project("gone")
    for name in ("target.jsonl", "job.toml"):
        shutil.copy(grown.folder / name, p.folder / name)
    shutil.copytree(grown.workspace, p.workspace)
    chosen = [json.loads(line)["id"] for line in Path(second["subset"]).read_text().splitlines()]
    gone = set(chosen[:2])
    pool(p, [r for r in rows(BEFORE[:4]) if r["id"] not in gone])
    result = refreshed(p)
    left = [json.loads(line)["id"] for line in Path(result["subset"]).read_text().splitlines()]
    assert len(left) == 6 and not gone & set(left)
    facts = result["facts"]
    assert (facts["refresh_removed_rows"], facts["refresh_new_rows"], facts["refresh_audit_pairs"]) == (
        2,
        0,
        0,
    )
    assert facts["refresh_decision"] == "kept" and "too few to judge" in facts["refresh_reason"]
    moves = p.ask("SELECT DISTINCT why FROM subset_changes WHERE change = 'left'")
    assert any("removed" in m["why"] for m in moves)


TURNED = {"function": "turned-letters", "audit_pairs": 160}


@pytest.fixture
def turned(make_project: Make, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A job whose influence function turns round for rows of another domain, with a first result."""
    monkeypatch.setitem(CATALOGUE, "turned-letters", Entry("new_domain:Turned", "pairwise", "top-k"))
    p = make_project("turned")
    p.configure(influence=TURNED, estimator={"architecture": "kernel"}, execution={"isolation": "thread"})
    pool(p, rows(BEFORE[:2]))
    p.first = refreshed(p)  # type: ignore[attr-defined]
    return p


def shift(p: Project) -> list[dict[str, Any]]:
    """Rows of another domain are appended; returns them."""
    new = rows(BEFORE[:1], f"{MARK} ")
    pool(p, rows(BEFORE[:2]) + new)
    return new


def test_another_domain_is_noticed_and_the_estimator_is_retrained(turned: Project) -> None:
    new = shift(turned)
    result = refreshed(turned)
    facts = result["facts"]
    assert facts["refresh_decision"] == "retrained", facts["refresh_reason"]
    assert facts["refresh_p"] < 0.01 and facts["refresh_error_new"] > facts["refresh_error_known"]
    assert facts["refresh_reason"].startswith("errors are larger on new rows or targets")
    first = turned.first  # type: ignore[attr-defined]
    old, grown = design(turned, first), design(turned, result)
    assert grown.ref.extends == old.ref.key
    added = set(grown.label_rows.tolist()) - set(old.label_rows.tolist())
    contents = turned.ask(
        f"SELECT DISTINCT content_hash FROM examples WHERE role = 'pool' AND prompt LIKE '{MARK}%'"
    )
    from nncift_core.hashing import content_id

    assert added and added <= {content_id(c["content_hash"]) for c in contents}
    assert set(old.label_rows.tolist()) <= set(grown.label_rows.tolist()) and len(added) <= len(new) // 2 + 1
    assert facts["refresh_labels_added"] == facts["label_pairs"] - first["facts"]["label_pairs"] >= 20
    assert facts["estimator_drift"] == "", "nothing is new to the labels any more"
    again = refreshed(turned)
    assert again["facts"]["refresh_decision"] == "nothing new"
    plain = turned.value()
    assert design(turned, plain).ref.key == grown.ref.key
    assert estimator(turned, plain) == estimator(turned, result)


def test_killed_between_labels_and_result_it_decides_the_same_again(
    turned: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    shift(turned)

    def dies(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
        m.setattr("flows.refresh_stages.keep_design", dies)
        refreshed(turned)
    result = refreshed(turned)
    assert result["facts"]["refresh_decision"] == "retrained" and exact_pairs(turned, result) == 0
    assert result["facts"]["refresh_labels_added"] >= 20
    extended = list((turned.workspace / "designs").glob("*/*.parquet"))
    assert len(extended) == 2, "one design, and one that extends it"


def test_wrong_input_is_refused_inside_the_flow_too(make_project: Make) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows.refresh import refresh
    from nncift_core.errors import UserError

    p = make_project("wrong")
    url = f"http://127.0.0.1:{p.env['NNCIFT_SERVER_PORT']}/api"
    config = {"pool": {"source": str(p.folder / "nothing.jsonl")}}
    with temporary_settings({PREFECT_API_URL: url}), pytest.raises(UserError, match="nothing.jsonl"):
        refresh(config, str(p.workspace))
    with temporary_settings({PREFECT_API_URL: url}), pytest.raises(UserError, match="refresh.level"):
        refresh({"pool": {"source": "a"}, "refresh": {"level": 7}}, str(p.workspace))
    assert not p.workspace.exists()
