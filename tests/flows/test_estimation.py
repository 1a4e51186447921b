"""Choice, gate, fallback, intervals and refinement of whole valuations."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from conftest import Project, write_jsonl
from new_domain import MARK

from nncift_core.errors import RunError
from nncift_core.functions import CATALOGUE, Entry

AUTO = {"architecture": "auto", "candidates": ["kernel", "ridge"]}


@pytest.fixture(scope="module")
def chosen(tmp_path_factory: pytest.TempPathFactory, prefect_env: dict[str, str]) -> Project:
    """A run whose labels are scattered and whose estimator was chosen; tests of this module only read it."""
    p = Project(tmp_path_factory.mktemp("chosen"), prefect_env)
    p.configure(influence={"labels": "auto", "audit_pairs": 90}, estimator=AUTO)
    p.first = p.value()  # type: ignore[attr-defined]
    return p


def test_the_winner_and_its_rivals_are_recorded(chosen: Project) -> None:
    first = chosen.first  # type: ignore[attr-defined]
    rows = chosen.ask("SELECT DISTINCT rank, predictor, learned, failed FROM estimator_candidates ORDER BY 1")
    names = {r["predictor"] for r in rows}
    assert {"kernel", "ridge", "constant", "row + column means", "gradient proxy"} <= names
    assert [r["rank"] for r in rows] == list(range(1, len(rows) + 1))
    assert rows[0]["predictor"] == first["facts"]["estimator"]
    assert first["facts"]["estimator_choice"].startswith(("kernel", "ridge", "means", "constant", "length"))


def test_pairs_that_chose_do_not_measure(chosen: Project) -> None:
    measured = chosen.ask("SELECT count(*) AS n FROM audit")[0]["n"]
    pooled = chosen.ask("SELECT DISTINCT n_pairs AS n FROM estimator_quality WHERE quadrant = 'all'")
    assert 40 <= measured < 90 and [r["n"] for r in pooled] == [measured]
    fitted = chosen.ask("SELECT max(n_pairs) AS n FROM estimator_quality WHERE quadrant = 'labels'")[0]["n"]
    assert fitted == chosen.first["facts"]["label_pairs"]  # type: ignore[attr-defined]


def test_scattered_labels_have_no_quadrant_and_estimates_an_interval(chosen: Project) -> None:
    rows = chosen.ask(
        "SELECT origin, count(*) AS n, count(quadrant) AS named, min(influence - lower) AS low, "
        "max(upper - influence) AS high FROM influence GROUP BY 1"
    )
    by = {r["origin"]: r for r in rows}
    assert sum(r["n"] for r in rows) == 24 * 12 and all(r["named"] == 0 for r in rows)
    assert by["exact"]["low"] == by["exact"]["high"] == 0
    width = chosen.first["facts"]["interval_half_width"]  # type: ignore[attr-defined]
    (other,) = (r for origin, r in by.items() if origin != "exact")
    assert width > 0 and other["low"] == pytest.approx(width, rel=1e-3) == other["high"]


def test_a_second_attempt_computes_nothing(chosen: Project) -> None:
    again = chosen.costs(chosen.value())
    assert {stage for stage, c in again.items() if c["computed"]} <= {"report"}


@pytest.mark.heavy
def test_appended_rows_keep_the_chosen_estimator(make_project: Callable[[str], Project]) -> None:
    p = make_project("appended")
    p.configure(influence={"labels": "auto", "audit_pairs": 90}, estimator=AUTO)
    pool = (p.folder / "pool.jsonl").read_text().splitlines(keepends=True)
    (p.folder / "pool.jsonl").write_text("".join(pool[:20]))
    p.value()
    (p.folder / "pool.jsonl").write_text("".join(pool))
    costs = p.costs(p.value())
    assert costs["train-influence-network"]["computed"] == 0
    assert costs["estimate-influence"]["computed"] == 3 * 12, "pool-20 is a copy of pool-06"


@pytest.mark.heavy
def test_a_new_domain_under_a_frozen_estimator_is_caught_and_told(
    make_project: Callable[[str], Project], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CATALOGUE, "turned-letters", Entry("new_domain:Turned", "pairwise", "top-k"))
    p = make_project("domain")
    p.configure(
        influence={"function": "turned-letters", "audit_pairs": 160},
        estimator={"architecture": "kernel", "refit_growth": 9},
    )
    before = p.value()
    pool = (p.folder / "pool.jsonl").read_text()
    rows = [json.loads(line) for line in pool.splitlines()]
    more = [r | {"id": f"more-{r['id']}", "prompt": f"Once more. {r['prompt']}"} for r in rows]
    write_jsonl(p.folder / "pool.jsonl", rows + more)
    same = p.value()
    assert same["facts"]["estimator_drift"].startswith("no sign that estimates of what came after")
    new = [r | {"id": f"new-{r['id']}", "prompt": f"{MARK} {r['prompt']}"} for r in rows]
    write_jsonl(p.folder / "pool.jsonl", rows + new)
    done = p.value()
    facts = done["facts"]
    assert done["facts"]["label_pairs"] == before["facts"]["label_pairs"], "frozen: no label was added"
    assert facts["estimator_verdict"] == "refused" and facts["estimator_used"] != "kernel"
    assert facts["estimator_reason"].startswith("the estimator does not hold for what came after its labels")
    (line,) = p.ask(
        "SELECT DISTINCT verdict FROM estimator_quality WHERE quadrant = 'all' AND role = 'estimator'"
    )
    assert "does not hold for what came after" in line["verdict"]
    page = (p.folder / done["report"]).read_text(encoding="utf-8")
    assert "On data that came later" in page
    assert {r["origin"] for r in p.ask("SELECT DISTINCT origin FROM scores")} <= {"exact", "baseline"}


REFUSED = {"architecture": "mlp-paper", "hidden": 2}


@pytest.mark.heavy
def test_refused_estimates_never_select(make_project: Callable[[str], Project]) -> None:
    p = make_project("refused")
    p.configure(estimator=REFUSED, influence={"label_fraction": 0.2})
    done = p.call("run", "job.toml", "--workspace", str(p.workspace))
    last = done.stdout.strip().splitlines()[-1]
    assert last.startswith("estimates by mlp-paper: refused: ") and "baseline" in last
    origins = {r["origin"] for r in p.ask("SELECT DISTINCT origin FROM influence")}
    assert origins == {"exact", "baseline"}
    assert {r["origin"] for r in p.ask("SELECT DISTINCT origin FROM scores")} <= {"exact", "baseline"}
    verdict = p.ask("SELECT verdict FROM estimator_quality WHERE quadrant = 'all' AND role = 'estimator'")
    assert verdict[0]["verdict"].startswith("refused: ")


@pytest.mark.heavy
def test_or_the_run_stops(make_project: Callable[[str], Project]) -> None:
    p = make_project("stopped")
    p.configure(estimator={**REFUSED, "on_refusal": "stop"}, influence={"label_fraction": 0.2})
    with pytest.raises(RunError, match=r"the audit refuses the estimates of 'mlp-paper'.*on_refusal"):
        p.value()
    assert p.ask("SELECT count(*) AS n FROM selection")[0]["n"] == 0


@pytest.mark.heavy
def test_exact_values_are_bought_at_the_edge_of_the_subset_once(
    make_project: Callable[[str], Project],
) -> None:
    p = make_project("refined")
    p.configure(influence={"refine_pairs": 40, "refine_rounds": 2})
    before = p.value()
    rounds = p.ask("SELECT * FROM refinement ORDER BY round")
    assert rounds and 0 < sum(r["exact_pairs"] for r in rounds) <= 40
    assert before["facts"]["refined_pairs"] == sum(r["exact_pairs"] for r in rounds)
    assert before["facts"]["exact_pairs_from_other_runs"] == 0
    exact = p.ask("SELECT count(*) AS n FROM influence WHERE origin = 'exact'")[0]["n"]
    again = p.value()
    assert p.ask("SELECT count(*) AS n FROM influence WHERE origin = 'exact'")[0]["n"] == exact
    assert again["facts"]["refined_pairs"] == before["facts"]["refined_pairs"]
