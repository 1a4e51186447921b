"""What is told of a row: its values, its place under top-k, its neighbours, its copies, its lineage."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pipeline import explained
from pipeline.explained import COPY_OF, EXACT, HALF, LATER, POOL, RUN, TARGETS, matrix, publish_run
from pipeline.priced import register

from nncift_core.errors import UserError
from nncift_core.pipeline.explain import explain
from nncift_core.pipeline.explain_objective import Stored
from nncift_core.pipeline.explain_values import place


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch)


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    """Top-k, seven rows, most values estimated."""
    return publish_run(tmp_path, count=7, all_exact=False)


def raw(stored: Stored) -> np.ndarray:
    """Influence of every pool row on every target row."""
    p = stored.problem
    at = {c: k for k, c in enumerate(p.rows.tolist())}
    values = matrix(200, 200)[: len(p.rows), : len(p.columns)]
    return values[[at[c] for c in p.pool.content_ids.tolist()]][:, p.column_of_target]


def asked(stored: Stored, row: int) -> dict[str, Any]:
    return explain(stored.ws, f"row:{row}", stored.run_id)


def test_a_row_is_found_by_each_of_its_names(stored: Stored) -> None:
    pool = stored.problem.pool
    for name in (str(pool.example_ids[8]), "pool-8", "row:8"):
        assert explain(stored.ws, name)["row"]["source_id"] == "pool-8"
    told = explain(stored.ws, "pool-8", RUN[:4])
    assert told["run"] | {"objective": ""} == {
        "run_id": RUN, "kind": "pairwise", "function": "priced", "rule": "top-k", "objective": "",
        "chosen": 7, "pool_rows": POOL,
    }  # fmt: skip
    assert json.loads(json.dumps(told)) == told


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "no row 'nothing' in this run"),
        ("row:30", "no row 'row:30'"),
        ("row:-1", "no row"),
        ("99999999999999999999999", "no row"),
        ("target-2", "'target-2' is a row of the target data. Name a row of the pool data"),
    ],
)
def test_what_names_no_row_of_the_pool_is_refused(stored: Stored, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        explain(stored.ws, name)


def test_an_id_of_several_rows_is_refused_with_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = explained.rows_of
    monkeypatch.setattr(explained, "rows_of", lambda *a: [replace(r, source_id="same") for r in rows(*a)])
    made = publish_run(tmp_path, count=7)
    with pytest.raises(UserError, match="'same' names 30 rows") as e:
        explain(made.ws, "same")
    assert str(made.problem.pool.example_ids[0]) in str(e.value) and "25 more" in str(e.value)


def test_several_runs_or_none_are_refused(stored: Stored, tmp_path: Path) -> None:
    publish_run(tmp_path, LATER, count=3)
    assert explain(stored.ws, "row:1")["run"]["run_id"] == LATER, "the latest"
    with pytest.raises(UserError, match="2 finished runs are meant"):
        explain(stored.ws, "row:1", "all")


def test_values_are_means_and_best_targets_of_each_task(stored: Stored) -> None:
    values, tasks = raw(stored), np.arange(TARGETS) % 2
    told = asked(stored, 14)
    assert [v["task"] for v in told["values"]] == ["names", "sums"]
    for entry, number in zip(told["values"], (1, 0), strict=True):
        scores = values[:, tasks == number].mean(axis=1)
        assert entry["score"] == pytest.approx(scores[14], abs=1e-6)
        assert (entry["rank"], entry["of"]) == (1 + int((scores > scores[14]).sum()), POOL)
        best = [t for t in values[14].argsort()[::-1].tolist() if tasks[t] == number][:5]
        assert [t["row_number"] for t in entry["best"]] == best
        for t in entry["best"]:
            assert t["influence"] == pytest.approx(values[14, t["row_number"]], abs=1e-6)
            assert t["origin"] == "estimated"
            assert (t["influence"] - t["lower"], t["upper"] - t["influence"]) == (HALF, HALF)
    exact = asked(stored, 2)["values"][0]
    assert exact["origin"] == "exact"
    assert all(t["origin"] == "exact" and t["lower"] == t["influence"] == t["upper"] for t in exact["best"])


def test_places_count_ties_by_half() -> None:
    scores = np.array([1.0, 3.0, 3.0, 3.0, 7.0])
    assert place(scores, 3.0) == {"rank": 2, "of": 5, "percentile": 50.0}
    assert place(scores, 7.0) == {"rank": 1, "of": 5, "percentile": 100.0}
    assert place(scores[:1], 1.0)["percentile"] is None


def test_under_top_k_a_row_is_told_against_the_cut(stored: Stored) -> None:
    values, tasks = raw(stored), np.arange(TARGETS) % 2
    scores = np.stack([values[:, tasks == t].mean(axis=1) for t in (0, 1)]).max(axis=0)
    ranked = scores.argsort()[::-1]
    cut, below = scores[ranked[6]], scores[ranked[7]]
    chosen = asked(stored, int(ranked[2]))["choice"]
    assert (chosen["chosen"], chosen["rank"], chosen["place"], chosen["of"]) == (True, 3, 3, 7)
    assert chosen["cut_off"] == pytest.approx(cut, abs=1e-6)
    assert chosen["replaced_by"]["score"] == pytest.approx(below, abs=1e-6)
    assert chosen["replaced_by"]["distance"] == pytest.approx(scores[ranked[2]] - below, abs=1e-6)
    assert chosen["replaced_by"]["rank"] is None
    other = asked(stored, int(ranked[-1]))["choice"]
    assert (other["chosen"], other["place"]) == (False, POOL)
    assert other["rise"] == pytest.approx(cut - scores[ranked[-1]], abs=1e-6)
    assert other["last_chosen"]["rank"] == 7
    assert asked(stored, COPY_OF)["choice"]["tied"] == 2


def test_nothing_replaces_a_row_when_all_are_chosen(tmp_path: Path) -> None:
    made = publish_run(tmp_path, fraction=1.0)
    assert asked(made, 0)["choice"]["replaced_by"] is None
    every = publish_run(tmp_path / "fl", fraction=1.0, rule="fl")
    choice = asked(every, int(every.order()[-1]))["choice"]
    assert choice["replaced_by"] is None and choice["left_out"] is None


def test_copies_near_duplicates_and_chosen_neighbours_are_told_apart(stored: Stored) -> None:
    copies = asked(stored, COPY_OF)["row"]
    assert [c["row_number"] for c in copies["copies"]] == [28, 29] and copies["copies_in_all"] == 2
    p = stored.problem
    content = {int(c): k for k, c in enumerate(p.pool.contents)}
    twin = next(k for k, c in enumerate(p.pool.content_ids.tolist()) if content[c] == 4)
    other = next(k for k, c in enumerate(p.pool.content_ids.tolist()) if content[c] == 5)
    near = asked(stored, twin)["neighbours"]
    assert [n["row_number"] for n in near["near_duplicates"]] == [other]
    assert near["near_duplicates"][0]["cosine"] > near["bound"] and near["compared"] == 27
    vectors = p.vectors("row").load(p.pool.content_ids).astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosine = vectors @ vectors[twin]
    picks = [i for i in stored.order().tolist() if p.pool.content_ids[i] != p.pool.content_ids[twin]]
    expected = sorted({round(float(cosine[i]), 5) for i in picks}, reverse=True)[:5]
    assert [round(n["cosine"], 5) for n in near["nearest_chosen"]] == expected
    assert all(n["rank"] for n in near["nearest_chosen"])


def test_without_embeddings_neighbours_are_not_known(stored: Stored) -> None:
    for path in stored.problem.vectors("row").folder.iterdir():
        path.unlink()
    told = asked(stored, 0)
    assert told["neighbours"] is None
    assert any("no embeddings" in n for n in told["notes"])


def test_lineage_names_who_measured_what(stored: Stored) -> None:
    measured, estimated = asked(stored, 2)["lineage"], asked(stored, 14)["lineage"]
    assert (measured["exact_pairs"], estimated["exact_pairs"]) == (TARGETS, 0)
    assert [f["pairs"] for f in measured["exact"]] == [TARGETS] and estimated["exact"] == []
    assert measured["exact"][0]["artifact"].startswith("exact/")
    assert estimated["estimator"]["verdict"] == "trusted" and estimated["estimator"]["labels"] == 90
    assert estimated["costs"][0] == {
        "stage": "exact-influence", "items": 100, "computed": 50, "seconds": 5.0, "seconds_per_item": 0.1,
    }  # fmt: skip
    assert estimated["row_seconds"] == {"exact": pytest.approx(0.1 * TARGETS), "estimated": None}


def test_values_that_are_not_stored_are_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stored: Stored
) -> None:
    """As `query --compute` does: by the estimator, when its row is asked for."""
    from nncift_core.pipeline import matrix as reading

    monkeypatch.setattr(reading, "OnDemand", lambda p, ref, columns: lambda ids: raw_of(p, ids))

    def raw_of(p: Any, ids: Any) -> Any:
        at = {c: k for k, c in enumerate(p.rows.tolist())}
        return matrix(200, 200)[[at[c] for c in ids.tolist()]][:, : len(p.columns)].copy()

    path = stored.ws.run_dir(RUN) / "attempts" / "0001.json"
    record = json.loads(path.read_text())
    record["config"]["shards"]["store_matrix"] = "none"
    path.write_text(json.dumps(record))
    for file in stored.problem.estimate_store("estimator").folder.iterdir():
        file.unlink()
    told = asked(stored, 14)
    assert told["values"][0]["best"][0]["origin"] == "estimated" and told["notes"] == []
    assert told["lineage"]["exact_pairs"] == 0 and EXACT < POOL
