"""`store_matrix`: the same subset whatever is stored, left-out values computed where a query asks."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from conftest import Project

from nncift_core.pipeline import choose

VALUES = "SELECT train_id, target_id, origin, influence, upper FROM influence ORDER BY 1, 2"


@pytest.mark.heavy
def test_what_is_stored_changes_nothing_else(make_project: Callable[[str], Project]) -> None:
    p = make_project("stored")
    found, everything = {}, []
    for kept in ("none", "exact", "all"):
        p.configure(shards={"store_matrix": kept}, influence={"audit_pairs": 90})
        result = p.value()
        tables = ("selection", "scores", "influence_best", "influence_histogram", "estimator_quality")
        found[kept] = {t: p.ask(f"SELECT * EXCLUDE (run_id) FROM {t} ORDER BY ALL") for t in tables}
        rows = p.ask(VALUES)
        condition = "row_number % 2 = 0"
        args = ("--workspace", str(p.workspace), "--compute", condition, "--json")
        done = p.call("query", VALUES, *args)
        part = json.loads(done.stdout)
        some = {r["example_id"] for r in p.ask(f"SELECT example_id FROM examples WHERE {condition}")}
        if kept == "none":
            assert rows == []
            everything = part
        if kept == "exact":
            assert {r["origin"] for r in rows} == {"exact"} and 0 < len(rows) < 24 * 12
        if kept != "all":
            assert result["costs"] and "estimate-influence" not in p.costs(result)
        else:
            expected = [r for r in rows if r["train_id"] in some]
            assert len(rows) == 24 * 12
            for mine in (part, everything):
                assert [{**r, "influence": 0, "upper": 0} for r in mine] == [
                    {**r, "influence": 0, "upper": 0} for r in expected
                ]
                for key in ("influence", "upper"):
                    assert [r[key] for r in mine] == pytest.approx([r[key] for r in expected], abs=1e-5)
        page = (p.folder / result["report"]).read_text(encoding="utf-8")
        assert ("are not stored" in page) == (kept != "all")
    for table in ("selection", "influence_best"):
        for other in ("none", "exact"):
            a, b = found[other][table], found["all"][table]
            assert [r["train_id"] for r in a] == [r["train_id"] for r in b]
    best = found["all"]["influence_best"]
    top = p.ask("SELECT target_id, max(influence) AS best FROM influence GROUP BY 1")
    firsts = {r["target_id"]: r["influence"] for r in best if r["rank"] == 1}
    assert firsts == pytest.approx({r["target_id"]: r["best"] for r in top}, abs=1e-6)
    histogram = found["all"]["influence_histogram"]
    pairs = {o: sum(r["pairs"] for r in histogram if r["origin"] == o) for o in ("exact", "baseline")}
    counted = p.ask(
        "SELECT origin, count(DISTINCT (content_hash, target_id)) AS n FROM influence "
        "JOIN examples ON example_id = train_id GROUP BY 1"
    )
    assert pairs == {r["origin"]: r["n"] for r in counted}


@pytest.mark.heavy
def test_a_matrix_too_large_for_scratch_space_gives_the_same_subset(
    make_project: Callable[[str], Project], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for name, scratch in (("usual", choose.SCRATCH_BYTES), ("large", 1000)):
        p = make_project(name)
        p.configure(selection={"rule": "flmi"}, shards={"store_matrix": "none"})
        monkeypatch.setattr(choose, "SCRATCH_BYTES", scratch)
        result = p.value()
        found.append(p.ask("SELECT train_id, gain FROM selection ORDER BY rank"))
    before, after = found
    assert [r["train_id"] for r in after] == [r["train_id"] for r in before]
    assert [r["gain"] for r in after] == pytest.approx([r["gain"] for r in before], abs=1e-4)
    assert result["facts"]["selection_mode"] == "exact" and result["facts"]["selection_gap"] is None


@pytest.mark.heavy
def test_another_mode_is_another_run(make_project: Callable[[str], Project]) -> None:
    p = make_project("modes")
    found = []
    for mode in ("stochastic", "exact", "sparse"):
        p.configure(selection={"rule": "fl", "mode": mode})
        result = p.value()
        found.append(result["run_id"])
        assert result["facts"]["selection_mode"] == mode
    assert len(set(found)) == 3


@pytest.mark.heavy
def test_computing_values_of_a_run_whose_pairs_are_all_exact(make_project: Callable[[str], Project]) -> None:
    p = make_project("exact")
    p.configure(shards={"store_matrix": "none"}, influence={"label_fraction": 1.0})
    p.value()
    args = ("--workspace", str(p.workspace), "--json", "--compute", "source_id = 'pool-06'")
    done = p.call("query", VALUES, *args)
    rows = json.loads(done.stdout)
    assert len(rows) == 12 and {r["origin"] for r in rows} == {"exact"}, "its copy was not asked for"
    hint = p.call("query", "SELECT count(*) FROM influence", "--workspace", str(p.workspace))
    assert "stores no estimates" in hint.stderr and "--compute" in hint.stderr


@pytest.mark.heavy
def test_an_approximate_selection_says_so(make_project: Callable[[str], Project]) -> None:
    p = make_project("approximate")
    p.configure(selection={"rule": "fl", "mode": "stochastic"})
    done = p.call("run", "job.toml", "--workspace", str(p.workspace))
    assert "facility location was maximised approximately (stochastic): " in done.stdout
    facts = {r["fact"]: r for r in p.ask("SELECT * FROM facts")}
    gains = p.ask("SELECT sum(gain) AS total FROM selection")[0]["total"]
    assert facts["objective"]["value"] == pytest.approx(gains, rel=1e-6)
    assert facts["selection_mode"]["text"] == "stochastic" and abs(facts["selection_gap"]["value"]) < 0.5
    (page,) = p.workspace.glob("runs/*/report.html")
    assert "The rule’s objective is" in page.read_text(encoding="utf-8")


@pytest.mark.heavy
def test_wrong_conditions_are_told(make_project: Callable[[str], Project]) -> None:
    p = make_project("asked")
    p.configure(shards={"store_matrix": "none"})
    p.value()
    asked = {
        "nonsense = 1": "nonsense",
        "row_number < 0": "no pool row meets",
        "row_number <": "field --compute: 'row_number <' is no condition",
    }
    for condition, told in asked.items():
        args = ("--workspace", str(p.workspace), "--compute", condition)
        done = p.call("query", "SELECT 1", *args, check=2)
        assert told in done.stderr and "Traceback" not in done.stderr
