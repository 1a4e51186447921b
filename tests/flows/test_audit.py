"""`nncift audit` end to end, on the oracle rows and the tiny language model."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Project

from flows.audit import audit_values
from flows.audit_failures import Failures
from nncift_core.config import load_config
from nncift_core.errors import RunError, UserError
from nncift_core.pipeline.attribution_plan import audit_plan
from tasks.progress import reporter

FINETUNE = {"epochs": 1, "batch_size": 4, "learning_rate": 1e-3, "rank": 2}
SMALL = {
    "functions": ["delift"], "baselines": ["bm25", "length", "random"], "models": 4, "share": 0.4,
    "queries": 6, "remove": [0.1], "removed_queries": 2, "controls": 2, "duplicates": 3, "wrong": 0.1,
}  # fmt: skip


def configured(project: Project, **keys: Any) -> Path:
    return project.configure(finetune=FINETUNE, audit={**SMALL, **keys})


def audited(project: Project, **keys: Any) -> dict[str, Any]:
    """The audit by the Python call, in this process."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    reporter.mode = "quiet"
    job = configured(project, **keys)
    url = f"http://127.0.0.1:{project.env['NNCIFT_SERVER_PORT']}/api"
    with temporary_settings({PREFECT_API_URL: url}):
        return audit_values(job, project.workspace).model_dump(mode="json")


def made(result: dict[str, Any]) -> dict[str, int]:
    """Items computed by stage, without those that are made each time."""
    return {c["stage"]: c["computed"] for c in result["costs"] if c["stage"] not in ("report", "plant")}


@pytest.mark.heavy
def test_an_audit_measures_every_method_and_a_further_one_trains_only_what_it_adds(
    make_project: Callable[[str], Project],
) -> None:
    project = make_project("p")
    first = audited(project)
    assert made(first)["fine-tune"] > 0
    methods = {"delift, exact", "delift, estimated", "bm25", "length", "random"}
    found = project.ask("SELECT method, metric, share, value, lower, upper, n FROM attribution")
    by = {(r["method"], r["metric"]): r for r in found}
    assert {r["method"] for r in found} == methods
    for method in methods:
        for metric in ("lds", "qld", "top-k", "wrong auc", "duplicate auc", "duplicate recall@1"):
            row = by[method, metric]
            assert row["lower"] is None or row["lower"] <= row["value"] <= row["upper"], (method, metric)
    assert by["bm25", "lds"]["n"] == 6 and by["bm25", "duplicate auc"]["n"] == 3
    # A text resembles nothing as much as its copy, and a length knows no query.
    assert by["bm25", "duplicate recall@1"]["value"] == 1 and by["length", "duplicate rank"]["value"] > 1
    assert by["bm25", "qld"]["share"] == 0.1
    notes = project.ask("SELECT DISTINCT method, note FROM attribution WHERE note IS NOT NULL")
    assert {n["method"] for n in notes} == {"length"}

    models = project.ask("SELECT kind, count(*) AS n, min(rows) AS low FROM attribution_models GROUP BY kind")
    counts = {m["kind"]: m["n"] for m in models}
    assert counts == {"base": 1, "subset": 4, "control": 2, "top-k": 5, "qld": 10}
    losses = project.ask("SELECT subset, count(*) AS n FROM attribution_losses GROUP BY subset")
    assert {r["n"] for r in losses} == {6} and len(losses) == sum(counts.values())
    page = Path(first["report"]).read_text(encoding="utf-8")
    assert "Planted wrong answers" in page and "data:image/svg+xml" in page
    assert "<script" not in page and "None" not in page

    again = audited(project)
    assert (again["run_id"], again["attempt"]) == (first["run_id"], 2)
    assert made(again)["fine-tune"] == 0 and made(again)["query-losses"] == 0
    assert again["measures"] == first["measures"]

    # Another function: its own removals and nothing of the bank.
    more = audited(project, functions=["delift", "delift-se"], tests=["lds", "wrong"])
    assert made(more)["fine-tune"] == 0 and made(more)["query-losses"] == 0
    assert {"delift-se, exact", "delift-se, estimated"} <= {m["method"] for m in more["measures"]}
    same = [m for m in first["measures"] if m["metric"] == "lds"]
    assert [m for m in more["measures"] if m["method"] in methods and m["metric"] == "lds"] == same
    wider = audited(project, models=6, tests=["lds"])
    rows = project.ask("SELECT rows FROM attribution_models WHERE kind = 'subset'")
    assert len(rows) == 6 and made(wider)["fine-tune"] == 2 * rows[0]["rows"]


@pytest.mark.heavy
def test_seeds_are_averaged_and_said_to_agree_or_not(make_project: Callable[[str], Project]) -> None:
    project = make_project("p")
    result = audited(project, seeds=2, tests=["lds"], models=3, values=["exact"], functions=["bm25"])
    assert result["facts"]["models"] == 6
    assert -1 <= result["facts"]["seed_agreement"] <= 1
    names = [m["method"] for m in result["measures"]]
    # The function under audit is a baseline too: both lines stand, alike.
    lds = {m["method"]: m["value"] for m in result["measures"] if m["target_task"] == "all"}
    assert lds["bm25, exact"] == lds["bm25"] and "random" in names


CALL = "import sys; from flows.audit import audit_values; audit_values(*sys.argv[1:])"
# The same, where the training of one subset diverges, or every method refuses its input.
BROKEN = """
import sys
from flows import audit_stages
from flows.audit import audit_values
from nncift_core.errors import UserError
from nncift_core.execution import work
from nncift_core.finetune import Diverged

train = work.train_cell

def trained(problem, cell, *rest):
    if cell.subset == "subset 1":
        raise Diverged("the training loss")
    return train(problem, cell, *rest)

def refused(self):
    raise UserError("the teacher cannot be used", field="language_model.model")

if sys.argv[3] == "model":
    work.train_cell = trained
else:
    audit_stages.MethodStages.value = refused
try:
    audit_values(*sys.argv[1:3])
except Exception as e:
    print(type(e).__name__, e)
"""


@pytest.mark.heavy
def test_a_failed_model_lets_the_others_be_measured_and_published(
    make_project: Callable[[str], Project],
) -> None:
    project = make_project("p")
    job = configured(project, functions=["bm25"], values=["exact"], baselines=[], tests=["lds", "wrong"])

    def called(code: str, *words: str) -> str:
        command = [sys.executable, "-c", code, str(job), str(project.workspace), *words]
        done = subprocess.run(
            command, cwd=project.folder, env=project.env, capture_output=True, text=True, timeout=150
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "UserError field language_model.model: the teacher" in called(BROKEN, "method")
    told = called(BROKEN, "model")
    for words in ("RunError 1 parts", "not a finite number", "not measured: subset 1)", "complete them with"):
        assert words in told, told
    found = project.ask("SELECT metric, method FROM attribution WHERE target_task = 'all'")
    assert {r["metric"] for r in found} == {"lds", "wrong auc"}
    models = project.ask("SELECT subset FROM attribution_models")
    assert {r["subset"] for r in models} == {"base", "subset 0", "subset 2", "subset 3"}
    facts = {r["fact"]: r for r in project.ask("SELECT fact, value, text FROM facts")}
    assert "not measured: subset 1" in facts["failed"]["text"]
    # The planted pool is told apart from the pool itself.
    counts = project.ask("SELECT role, count(*) AS n FROM examples GROUP BY role")
    roles = {r["role"]: r["n"] for r in counts}
    assert roles["pool"] == roles["planted"] == facts["pool_rows"]["value"]

    called(CALL)
    assert len(project.ask("SELECT subset FROM attribution_models")) == 5
    assert not project.ask("SELECT text FROM facts WHERE fact = 'failed' AND text <> ''")


def test_wrong_input_that_every_method_refuses_is_raised_as_it_is() -> None:
    reporter.mode = "quiet"
    found = Failures()
    for name in ("one", "other"):
        with found.noted(name, "the others go on"):
            raise UserError("cannot be used", field="language_model.model")
    found.check(works=True, anything=True)
    with pytest.raises(UserError, match="language_model.model"):
        found.check(works=False, anything=True)
    with found.noted("third", "the others go on"):
        raise RunError("out of memory")
    found.check(works=False, anything=True)
    with pytest.raises(RunError, match="every method failed: .*out of memory"):
        found.check(works=False, anything=False)
    with pytest.raises(UserError), found.noted("fine-tune", "", left=lambda: False):
        raise UserError("no tokens")
    found.unmeasured = [f"subset {k}" for k in range(30)]
    assert found.told().endswith("subset 19 and 10 more") and "third: out of memory" in found.told()


def test_a_plan_knows_the_number_of_models_before_anything_starts(offline_project: Project) -> None:
    job = configured(offline_project)
    found = audit_plan(load_config(job), offline_project.workspace)
    assert (found["subsets"], found["controls"], found["qld"], found["top_k"]) == (4, 2, 10, 5)
    assert found["models"] == 21 and found["kept"] == 0 and found["seconds"] is None
    assert found["queries"] == 6 and found["planted_copies"] == 3 and not found["default_finetune"]
    assert not offline_project.workspace.exists()
    one = audit_plan(load_config(configured(offline_project, tests=["wrong"])), offline_project.workspace)
    assert one["models"] == 0 and one["training_rows"] == 0 and one["planted_copies"] == 0


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"target": {"source": "self"}}, ["target.source", "no target"]),
        ({"audit": {"models": 1}}, ["audit.models", "greater than or equal to 2"]),
        ({"audit": {"queries": 1}}, ["audit.queries", "greater than or equal to 2"]),
        ({"target": {"source": "target.jsonl", "limit": 1}}, ["target.source", "too few queries"]),
        ({"audit": {"functions": ["shapley"]}}, ["audit.functions", "'shapley'", "'less'"]),
        ({"audit": {"tests": ["lds", "lds"]}}, ["audit.tests", "twice"]),
        ({"audit": {"remove": [0.001]}}, ["audit.remove", "is no row"]),
        ({"audit": {"model": 3}}, ["audit.model", "models"]),
    ],
)
def test_wrong_input_ends_in_one_message(
    offline_project: Project, sections: dict[str, dict[str, Any]], words: list[str]
) -> None:
    job = offline_project.configure(**sections)
    with pytest.raises(UserError) as refused:
        audit_values(job, offline_project.workspace)
    for word in words:
        assert word in str(refused.value)
    assert not offline_project.workspace.exists()


@pytest.mark.heavy
def test_the_command_prints_a_table_of_80_columns_or_one_json_value(
    make_project: Callable[[str], Project],
) -> None:
    project = make_project("p")
    keys = {"models": 2, "tests": ["lds", "wrong"], "values": ["exact"]}
    audited(project, **keys)
    ws = ("--workspace", str(project.workspace))
    shown = project.call("audit", "job.toml", *ws)
    assert "LDS" in shown.stdout and "wrong AUC" in shown.stdout
    tables = [line for line in shown.stdout.splitlines() if line[:1] in "┏┃┡│└"]
    assert tables and max(map(len, tables)) <= 80
    result = json.loads(project.call("audit", "job.toml", "--json", "-q", *ws).stdout)
    assert result["facts"]["models"] == 2
    plan = json.loads(project.call("audit", "job.toml", "--plan", "--json", *ws).stdout)
    assert plan["kept"] == 2 and plan["seconds"] is not None
    configured(project, models=1)
    refused = project.call("audit", "job.toml", *ws, check=2)
    assert "audit.models" in refused.stderr


TRAINED, MEASURED = (
    "adapters/*/adapter_model.safetensors.manifest.json",
    "evaluations/*.parquet.manifest.json",
)


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("pattern", "count"),
    [(TRAINED, 2), (TRAINED, 4), (MEASURED, 2)],
    ids=["within training", "after training", "within losses"],
)
def test_a_killed_audit_loses_no_finished_model(
    make_project: Callable[[str], Project], pattern: str, count: int
) -> None:
    project = make_project("killed")
    keys = {"tests": ["lds"], "values": ["exact"], "baselines": ["random"], "functions": ["bm25"]}
    job = configured(project, **keys)
    process = subprocess.Popen(
        [sys.executable, "-c", CALL, str(job), str(project.workspace)],
        cwd=project.folder, env=project.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 200
    while process.poll() is None and time.monotonic() < deadline:
        if len(list(project.workspace.glob(pattern))) >= count:
            break
        time.sleep(0.002)
    assert process.poll() is None, "the audit ended before it could be killed"
    process.kill()
    process.wait()
    trained, measured = (len(list(project.workspace.glob(p))) for p in (TRAINED, MEASURED))
    assert trained >= (count if pattern == TRAINED else 4)
    after = audited(project, **keys)
    costs = {c["stage"]: c for c in after["costs"]}
    assert costs["fine-tune"]["reused"] == costs["fine-tune"]["items"] * trained // 4
    # Six queries under each of four models and the untrained one.
    assert costs["query-losses"]["items"] == 30 and costs["query-losses"]["reused"] == 6 * measured
    status = project.ask("SELECT status FROM runs ORDER BY started_at", "all")
    assert [s["status"] for s in status] == ["killed", "completed"]
