"""`nncift sweep` end to end, on the oracle rows and the tiny language model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Project

from flows.sweep import study_estimators
from nncift_core.errors import UserError
from tasks.progress import reporter

SMALL = {
    "rows": 14, "columns": 8, "label_fractions": [0.5], "fractions": [0.2, 0.5], "hidden": [3],
    "architectures": ["ridge", "mlp"], "designs": ["scattered"], "seeds": 2,
}  # fmt: skip


def studied(project: Project, study: str, **keys: Any) -> dict[str, Any]:
    """The sweep by the Python call, in this process."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    reporter.mode = "quiet"
    job = project.configure(influence={"function": "bm25"}, sweep={**SMALL, **keys})
    url = f"http://127.0.0.1:{project.env['NNCIFT_SERVER_PORT']}/api"
    with temporary_settings({PREFECT_API_URL: url}):
        return study_estimators(job, study, project.workspace).model_dump(mode="json")


def made(result: dict[str, Any]) -> dict[str, int]:
    return {c["stage"]: c["computed"] for c in result["costs"] if c["stage"] != "report"}


@pytest.mark.heavy
def test_a_second_sweep_computes_nothing_and_a_larger_grid_only_what_it_adds(
    make_project: Callable[[str], Project],
) -> None:
    project = make_project("p")
    first = studied(project, "figures")
    assert first["facts"]["rows"] == 14 and first["facts"]["columns"] == 8
    # Two estimators and seven baselines at one u, and the network at another width: two draws each.
    assert made(first)["study-fits"] == (2 + 7 + 1) * 2
    assert made(first)["exact-influence"] == 14 * 8

    quality = project.ask(
        "SELECT predictor, quadrant, avg(value) AS value FROM sweep WHERE metric = 'spearman' GROUP BY ALL"
    )
    found = {(q["predictor"], q["quadrant"]): q["value"] for q in quality}
    # A function is perfectly predicted by itself, and a constant ranks nothing.
    assert found["bm25", "Q4"] > 0.999 and found["constant", "Q4"] is None
    gains = project.ask(
        "SELECT v, seed, value FROM sweep WHERE metric = 'share_of_gain' AND predictor = 'bm25' ORDER BY ALL"
    )
    assert [(g["v"], g["seed"]) for g in gains] == [(0.2, 0), (0.2, 1), (0.5, 0), (0.5, 1)]
    assert all(g["value"] == pytest.approx(1, abs=1e-4) for g in gains)
    assert project.ask("SELECT DISTINCT note FROM sweep WHERE metric = 'failed'") == [
        {"note": "needs the pair feature 'gradient proxy'"}
    ]
    page = (project.folder / first["report"]).read_text(encoding="utf-8")
    assert page.count("data:image/svg+xml") >= 6 and "What could not be fitted" in page
    assert "<script" not in page and "None" not in page

    again = studied(project, "figures")
    assert (again["run_id"], again["attempt"]) == (first["run_id"], 2)
    assert set(made(again).values()) == {0}
    wider = studied(project, "figures", label_fractions=[0.5, 0.6], fractions=[0.2, 0.5, 0.3])
    # The new u of nine predictors, and the new v of those of the old u that can be fitted.
    assert made(wider)["study-fits"] == (9 + 8) * 2
    assert wider["run_id"] != first["run_id"]
    one = project.ask("SELECT count(*) AS n FROM sweep WHERE u = 0.6", first["run_id"])
    assert one == [{"n": 0}]
    both = project.ask("SELECT DISTINCT run_id FROM sweep", "all")
    assert {r["run_id"] for r in both} == {first["run_id"], wider["run_id"]}


@pytest.mark.heavy
def test_the_tournament_shares_exact_values_with_a_run_and_is_shown(
    make_project: Callable[[str], Project],
) -> None:
    project = make_project("p")
    valued = project.configure(influence={"function": "bm25"}) and project.value()
    studied(project, "estimators", architectures=["ridge"])
    done = project.call(
        "sweep", "job.toml", "--study", "estimators", "--workspace", str(project.workspace), "--json"
    )
    result = json.loads(done.stdout)
    assert result["study"] == "estimators" and result["facts"]["fits_computed"] == 0
    assert set(result["summary"]) == {"block", "scattered", "groups"}
    best = result["summary"]["scattered"][0]
    assert best["predictor"] == "bm25" and best["spearman"] > 0.999 and best["seeds"] == 2
    assert {f["setting"] for f in result["failed"]} >= {"tournament", "without hidden"}
    groups = project.ask(
        "SELECT DISTINCT setting FROM sweep WHERE setting LIKE 'without %' AND metric = 'r2'"
    )
    assert {g["setting"] for g in groups} == {
        f"without {g}" for g in ("embedding", "response", "lengths", "bm25")
    }
    shown = project.call("sweep", "job.toml", "--study", "estimators", "--workspace", str(project.workspace))
    assert "Labels: scattered" in shown.stdout and "share of gain" in shown.stdout
    assert "loses without a group of features" in shown.stdout
    page = Path(result["report"])
    written = page.read_text(encoding="utf-8")
    page.unlink()
    again = project.call("report", "--run", result["run_id"], "--workspace", str(project.workspace))
    assert Path(again.stdout.strip()).samefile(page) and page.read_text(encoding="utf-8") == written
    # Queries without --run go on speaking of the valuation; costs and runs know both.
    assert project.ask("SELECT DISTINCT run_id FROM selection") == [{"run_id": valued["run_id"]}]
    stages = project.ask("SELECT DISTINCT stage FROM costs", result["run_id"])
    assert {"study-fits", "exact-influence"} <= {s["stage"] for s in stages}
    runs = project.ask('SELECT count(*) AS n FROM runs WHERE config LIKE \'%"study": "estimators"%\'')
    assert runs == [{"n": 3}]


@pytest.mark.parametrize(
    ("study", "sections", "words"),
    [
        ("figure", {}, ["--study", "'figure'", "estimators"]),
        ("figures", {"sweep": {"label_fractions": []}}, ["sweep.label_fractions", "at least 1"]),
        ("figures", {"sweep": {"fractions": [0.1, 1.5]}}, ["sweep.fractions.1", "less than or equal to 1"]),
        (
            "estimators",
            {"sweep": {"architectures": ["forest"]}},
            ["sweep.architectures", "'forest'", "'ridge'"],
        ),
        ("figures", {"influence": {"label_fraction": 1}}, ["influence.label_fraction", "no pair to predict"]),
    ],
)
def test_wrong_input_ends_in_one_message(
    offline_project: Project, study: str, sections: dict[str, dict[str, Any]], words: list[str]
) -> None:
    job = offline_project.configure(**sections)
    with pytest.raises(UserError) as refused:
        study_estimators(job, study, offline_project.workspace)
    for word in words:
        assert word in str(refused.value)
    assert not offline_project.workspace.exists()
