"""`nncift compare` end to end, on the oracle rows and the tiny language model."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from compared_jobs import TRAINING, with_held_out
from conftest import Project
from report.checks import check_values
from report.trees import parse

from flows.compare import compare_methods
from nncift_core.config import load_config
from nncift_core.errors import RunError, UserError
from nncift_core.pipeline.report import report_of
from nncift_core.store.workspace import Workspace


def compared(project: Project, job: Path) -> dict[str, Any]:
    """The comparison by the Python call, in this process."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from tasks.progress import reporter

    reporter.mode = "quiet"
    url = f"http://127.0.0.1:{project.env['NNCIFT_SERVER_PORT']}/api"
    with temporary_settings({PREFECT_API_URL: url}):
        return compare_methods(job, project.workspace, "nncift compare").model_dump(mode="json")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, prefect_env: dict[str, str]) -> Iterator[Project]:
    yield Project(tmp_path_factory.mktemp("compare"), prefect_env)


@pytest.fixture(scope="module")
def first(project: Project) -> dict[str, Any]:
    return compared(project, with_held_out(project))


NAMES = {"similarity", "bm25, exact", "bm25, estimated", "delift-se, exact", "delift-se, estimated"}


@pytest.mark.heavy
def test_every_method_and_rival_has_a_row_in_every_mode(project: Project, first: dict[str, Any]) -> None:
    found = project.ask("SELECT DISTINCT mode, method FROM compare_summary WHERE task = 'all'")
    by_mode: dict[str, set[str]] = {}
    for row in found:
        by_mode.setdefault(row["mode"], set()).add(row["method"])
    assert by_mode == {mode: NAMES | {"base", "random", "full"} for mode in ("finetune", "icl")}
    sizes = project.ask("SELECT DISTINCT subset, n_train FROM evaluation WHERE mode = 'finetune'")
    pool = project.ask("SELECT count(*) AS n FROM examples WHERE role = 'pool'")[0]["n"]
    assert {r["subset"]: r["n_train"] for r in sizes} == dict.fromkeys(NAMES | {"random"}, 6) | {"full": pool}


@pytest.mark.heavy
def test_gains_are_over_random_rows_by_the_means_that_stand_beside_them(
    project: Project, first: dict[str, Any]
) -> None:
    rows = project.ask(
        "SELECT method, value, gain, gain_lower, gain_upper, verdict FROM compare_summary "
        "WHERE task = 'all' AND mode = 'finetune'"
    )
    by = {r["method"]: r for r in rows}
    for name, row in by.items():
        if name == "random":
            assert row["gain"] is None
            continue
        # Less loss is a gain.
        assert row["gain"] == pytest.approx(by["random"]["value"] - row["value"], abs=1e-9)
        assert row["gain_lower"] < row["gain"] < row["gain_upper"]
    means = project.ask(
        "SELECT subset, avg(value) AS value FROM evaluation WHERE task = 'all' AND mode <> 'icl' GROUP BY 1"
    )
    assert {m["subset"]: pytest.approx(m["value"]) for m in means} == {n: r["value"] for n, r in by.items()}


@pytest.mark.heavy
def test_estimates_come_from_their_own_labels_whatever_the_exact_method_left(
    project: Project, first: dict[str, Any]
) -> None:
    found = {m["method"]: m for m in project.ask("SELECT * FROM methods")}
    exact, estimated = found["delift-se, exact"], found["delift-se, estimated"]
    assert exact["exact_pairs"] == exact["pairs"] and exact["predictor"] is None
    assert 0 < estimated["exact_pairs"] < estimated["pairs"] and estimated["predictor"] is not None
    assert estimated["verdict"] in ("trusted", "weak", "refused")
    # A comparison in a fresh workspace that asks for estimates alone picks the same rows.
    alone = (
        Project(project.folder / "alone", project.env) if (project.folder / "alone").mkdir() is None else None
    )
    assert alone is not None
    compared(alone, with_held_out(alone, values=["estimated"]))
    sql = "SELECT train_id FROM method_selection WHERE method = 'delift-se, estimated' ORDER BY rank"
    prompts = "SELECT prompt FROM ({}) JOIN examples ON train_id = example_id".format(
        sql.replace("ORDER BY rank", "")
    )
    picked = [{r["prompt"] for r in p.ask(prompts)} for p in (project, alone)]
    assert picked[0] == picked[1] and len(picked[0]) == 6


@pytest.mark.heavy
def test_a_second_comparison_computes_nothing_and_says_what_it_would_have_cost(
    project: Project, first: dict[str, Any]
) -> None:
    again = compared(project, project.folder / "job.toml")
    assert (again["run_id"], again["attempt"]) == (first["run_id"], 2)
    done = {c["stage"]: c["computed"] for c in again["costs"] if c["stage"] != "report"}
    assert {stage: n for stage, n in done.items() if n and not stage.startswith("assess")} == {}
    costs = {m["method"]: m["seconds"] for m in again["methods"]}
    assert all(seconds is not None and seconds > 0 for seconds in costs.values())


@pytest.mark.heavy
def test_the_page_names_every_method_and_carries_no_script(project: Project, first: dict[str, Any]) -> None:
    page = (project.workspace / Path(first["report"])).read_text(encoding="utf-8")
    assert NAMES <= {name for name in NAMES if name in page}
    assert "<script" not in page and "None" not in page and "Which rows are worth training on" in page
    found = report_of(Workspace.open(project.workspace), first["run_id"])
    assert found.path.read_text(encoding="utf-8") == page
    # Every number is asked again by the query that it carries.
    assert check_values(parse(page), Workspace.open(project.workspace)) > 100


@pytest.mark.heavy
def test_a_method_that_fails_leaves_the_table_of_the_others(
    make_project: Callable[[str], Project], monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.method_stages import MethodStages

    project, value = make_project("failing"), MethodStages.value

    def broken(self: MethodStages) -> Any:
        if self.method.name == "bm25, exact":
            raise RunError("no memory")
        return value(self)

    monkeypatch.setattr(MethodStages, "value", broken)
    job = with_held_out(project, functions=["bm25"], rivals=["random", "similarity"])
    with pytest.raises(RunError, match=r"1 parts? of the comparison failed \(bm25, exact: no memory\)"):
        compared(project, job)
    kept = {r["method"] for r in project.ask("SELECT DISTINCT method FROM compare_summary")}
    assert kept == {"bm25, estimated", "similarity", "random"}
    failed = project.ask("SELECT method, failed FROM methods WHERE failed IS NOT NULL")
    assert failed == [{"method": "bm25, exact", "failed": "no memory"}]
    monkeypatch.undo()
    whole = {m["method"]: m["failed"] for m in compared(project, job)["methods"]}
    assert whole == dict.fromkeys(["bm25, exact", "bm25, estimated", "similarity"])


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({}, "finetune"),
        ({"finetune": TRAINING}, "target.test"),
        ({"compare": {"functions": ["nobody"]}}, "no such influence function"),
        ({"compare": {"function": ["less"]}}, "functions"),
    ],
)
def test_what_cannot_be_compared_is_told_before_anything_starts(
    offline_project: Project, sections: dict[str, Any], said: str
) -> None:
    project = offline_project
    job = project.configure(**sections)
    with pytest.raises(UserError, match=said):
        compare_methods(job, project.workspace)
    assert not project.workspace.exists()


def test_a_plan_counts_the_work_and_starts_nothing(offline_project: Project) -> None:
    project = offline_project
    with_held_out(project)
    done = project.call("compare", "job.toml", "--plan", "--json", "--workspace", str(project.workspace))
    found = json.loads(done.stdout)
    assert set(found["methods"]) == NAMES and found["models"] == (5 + 2) * 2
    assert load_config(project.folder / "job.toml").compare.functions == ["bm25", "delift-se"]
    assert not project.workspace.exists()
