"""Every influence function through the whole pipeline, on the oracle rows and the tiny language model."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import ORACLES, Project, oracle_rows, write_jsonl

from flows.valuation import value_pool
from nncift_core.errors import UserError
from nncift_core.functions import CATALOGUE, Entry

# Warm-up and gradients at a size that a test can wait for.
SMALL_LESS = {"epochs": 2, "rank": 2, "alpha": 4, "warm_up_rows": 6, "batch_size": 3, "learning_rate": 1e-3}
SETTINGS: dict[str, dict[str, dict[str, Any]]] = {"less": {"influence.less": SMALL_LESS}}


def configured(project: Project, function: str, **sections: dict[str, Any]) -> Project:
    project.configure(**{"influence": {"function": function}, **SETTINGS.get(function, {}), **sections})
    return project


def with_tasks(project: Project) -> None:
    """Give the target rows a task each: even ones "a", odd ones "b"."""
    rows = [{**r, "task": "ab"[k % 2]} for k, r in enumerate(oracle_rows("target"))]
    write_jsonl(project.folder / "target.jsonl", rows)


@pytest.mark.parametrize(
    "function",
    [
        "less",
        "selectit",
        *(pytest.param(name, marks=pytest.mark.heavy) for name in ("delift-se", "bm25", "length")),
    ],
)
def test_a_run_gives_scores_quality_and_a_subset_and_a_second_one_computes_nothing(
    make_project: Callable[[str], Project], function: str
) -> None:
    project = configured(make_project("p"), function)
    with_tasks(project)
    result = project.value()
    pointwise = CATALOGUE[function].kind == "pointwise"
    tasks = ["all"] if pointwise else ["a", "b"]
    scores = project.ask("SELECT task, count(*) AS n, min(function) AS f FROM scores GROUP BY ALL ORDER BY 1")
    assert scores == [{"task": t, "n": 24, "f": function} for t in tasks]
    pairs = project.ask("SELECT count(*) AS n FROM influence")[0]["n"]
    assert pairs == (0 if pointwise else 24 * 12)
    assert result["facts"]["rule"] == ("top-k" if CATALOGUE[function].rule == "top-k" else "flmi")
    assert result["facts"].get("target_rows_not_read") == (12 if pointwise else 0)

    if function == "less":
        facts = result["facts"]
        assert (facts["state_rows"], facts["state_steps"]) == (6, 4)
        assert 0 < facts["state_last_loss"] < 20
    found = {(q["quadrant"], q["predictor"]) for q in result["quality"]}
    baselines = {"constant", "length"} if pointwise else {"constant", "bm25", "length", "embedding cosine"}
    assert {("Q3", name) for name in baselines | {"mlp"}} <= found
    # The table proves itself where the truth is known: a function is perfectly predicted by itself.
    if function in ("bm25", "length"):
        own = [q for q in result["quality"] if q["predictor"] == function and q["quadrant"] == "Q3"]
        assert own[0]["spearman"] > 0.999

    again = project.costs(project.value())
    assert {stage: c["computed"] for stage, c in again.items() if stage != "report"} == dict.fromkeys(
        set(again) - {"report"}, 0
    )


@pytest.mark.heavy
def test_top_k_takes_the_rows_of_the_best_task(make_project: Callable[[str], Project]) -> None:
    project = configured(make_project("p"), "bm25")
    with_tasks(project)
    project.value()
    best = project.ask(
        "SELECT train_id, max(score) AS score FROM scores GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 6"
    )
    chosen = project.ask("SELECT train_id, score FROM selection ORDER BY rank")
    assert [round(c["score"], 6) for c in chosen] == [round(b["score"], 6) for b in best]


def test_length_values_are_characters_and_the_longest_are_chosen(
    make_project: Callable[[str], Project],
) -> None:
    project = configured(make_project("p"), "length", influence={"function": "length", "label_fraction": 1})
    project.value()
    rows = project.ask(
        "SELECT score, origin, length(response) AS n FROM scores JOIN examples ON example_id = train_id"
    )
    assert all(r["score"] == r["n"] and r["origin"] == "exact" for r in rows)
    chosen = project.ask("SELECT length(response) AS n FROM selection JOIN examples ON example_id = train_id")
    assert sorted(r["n"] for r in chosen) == sorted(r["n"] for r in rows)[-6:]


@pytest.mark.heavy
def test_less_values_are_cosines_of_stored_features(make_project: Callable[[str], Project]) -> None:
    project = configured(make_project("p"), "less")
    project.value()
    exact = project.ask("SELECT train_id, target_id, influence FROM influence WHERE origin = 'exact'")
    assert len(exact) >= 12 * 6 + 40
    assert max(abs(r["influence"]) for r in exact) <= 1 + 1e-6
    assert np.std([r["influence"] for r in exact]) > 0.01
    kinds = {r["kind"] for r in project.ask("SELECT DISTINCT kind FROM lineage")}
    assert {"function-state", "features"} <= kinds


def appended(project: Project, n: int) -> None:
    extra = [{"id": f"new-{k}", "prompt": f"Name {k} rivers.", "response": f"River {k}."} for k in range(n)]
    write_jsonl(project.folder / "pool.jsonl", [*oracle_rows("pool"), *extra])


@pytest.mark.heavy
def test_the_warm_up_is_kept_while_the_pool_grows_little(make_project: Callable[[str], Project]) -> None:
    project = configured(make_project("p"), "less")
    assert not project.value()["facts"]["state_kept_from_earlier_run"]
    appended(project, 3)
    result = project.value()
    grown = project.costs(result)
    assert result["facts"]["state_kept_from_earlier_run"]
    assert grown["prepare-function"]["computed"] == 0
    # The audit of the grown pool may find another baseline better, so estimates are not counted here.
    assert grown["train-influence-network"]["computed"] == 0
    # The audit is drawn anew over the grown pool; rows that were there keep their features.
    assert grown["features"]["computed"] <= 3 + 12
    assert grown["features"]["reused"] > 0
    appended(project, 12)
    assert project.costs(project.value())["prepare-function"]["computed"] == 1


@pytest.mark.heavy
def test_word_counts_follow_the_pool(make_project: Callable[[str], Project]) -> None:
    everything = {"influence": {"function": "bm25", "label_fraction": 1}}
    sql = "SELECT score FROM scores ORDER BY ALL"
    project, fresh = make_project("grown"), make_project("fresh")
    configured(project, "bm25", **everything).value()
    appended(project, 2)
    appended(fresh, 2)
    assert project.costs(project.value())["prepare-function"]["computed"] == 1
    configured(fresh, "bm25", **everything).value()
    assert project.ask(sql) == fresh.ask(sql)


@pytest.mark.heavy
def test_a_lost_state_is_fitted_again_and_gives_the_same_values(
    make_project: Callable[[str], Project],
) -> None:
    project = configured(make_project("p"), "less")
    project.value()
    sql = "SELECT train_id, target_id, influence FROM influence WHERE origin = 'exact' ORDER BY ALL"
    before = project.ask(sql)
    state = next((project.workspace / "states").rglob("checkpoint-1.safetensors"))
    state.write_bytes(b"damaged")
    for folder in ("features", "exact"):
        for file in (project.workspace / folder).rglob("*.parquet"):
            file.unlink()
    result = project.value()
    assert project.costs(result)["prepare-function"]["computed"] == 1
    assert project.costs(result)["features"]["computed"] > 0
    assert project.ask(sql) == before


@pytest.mark.heavy
def test_encoder_prefixes_embed_the_two_sides_apart(make_project: Callable[[str], Project]) -> None:
    plain = configured(make_project("plain"), "delift-se")
    plain.value()
    project = configured(make_project("p"), "delift-se", encoder={"target_prefix": "query: "})
    costs = project.costs(project.value())
    assert costs["embed"]["computed"] == 2 * (23 + 12), "whole texts and responses"
    sql = "SELECT train_id, target_id, influence FROM influence WHERE origin = 'exact' ORDER BY ALL"
    apart, alike = project.ask(sql), plain.ask(sql)
    assert [r["train_id"] for r in apart] == [r["train_id"] for r in alike]
    differences = [abs(a["influence"] - b["influence"]) for a, b in zip(apart, alike, strict=True)]
    assert 1e-3 < max(differences) < 0.5
    folders = list((project.workspace / "embeddings").iterdir())
    assert len(folders) == 2 * 2


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"influence": {"function": "lest"}}, ["influence.function", "'less'"]),
        (
            {"influence": {"function": "length"}, "selection": {"rule": "fl"}},
            ["length gives one value per pool row", "top-k"],
        ),
        (
            {"influence": {"function": "selectit"}, "influence.selectit": {"prompts": ["Rate {prompt}:"]}},
            ["influence.selectit", "{response}"],
        ),
        (
            {"influence": {"function": "selectit"}, "influence.selectit": {"prompts": "none.toml"}},
            ["none.toml", "influence.selectit.prompts"],
        ),
        (
            {"language_model": {"template": "chat"}},
            ["language_model.template", "chat template"],
        ),
        (
            {"influence": {"function": "less"}, "influence.less": {"template": "no place"}},
            ["influence.less", "{prompt}"],
        ),
        ({"language_model": {"quantization": "4bit"}}, ["language_model.quantization"]),
    ],
)
def test_wrong_settings_end_in_one_message(
    offline_project: Project, sections: dict[str, dict[str, Any]], words: list[str]
) -> None:
    job = offline_project.configure(**sections)
    with pytest.raises(UserError) as refused:
        value_pool(job, offline_project.workspace)
    for word in words:
        assert word in str(refused.value)
    assert not offline_project.workspace.exists()


@pytest.mark.heavy
def test_the_pages_of_a_pointwise_run_speak_of_rows_and_not_of_targets(
    make_project: Callable[[str], Project],
) -> None:
    project = configured(make_project("p"), "length")
    result = project.value()
    page = (project.folder / result["report"]).read_text(encoding="utf-8")
    assert "each by itself" in page and "against 12 target rows" not in page
    done = project.call("run", "job.toml", "--workspace", str(project.workspace))
    assert "Q3: rows without a label" in done.stdout and "FROM scores" in done.stdout
    assert "12 target rows were not read" in done.stdout


@pytest.mark.heavy
def test_a_fifth_function_is_one_file_and_one_line(
    make_project: Callable[[str], Project], monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = Entry("fifth_function:SharedLetters", "pairwise", "coverage")
    monkeypatch.setitem(CATALOGUE, "shared-letters", entry)
    project = configured(make_project("p"), "shared-letters")
    result = project.value()
    assert result["facts"]["rule"] == "flmi" and result["selected"] == 6
    assert {q["quadrant"] for q in result["quality"]} == {"Q1", "Q2", "Q3", "Q4", "all"}
    exact = project.ask(
        "SELECT influence, r.prompt AS a, c.prompt AS b FROM influence JOIN examples r ON "
        "r.example_id = train_id JOIN examples c ON c.example_id = target_id WHERE origin = 'exact'"
    )
    assert len(exact) > 100
    for pair in exact:
        a, b = set(pair["a"]), set(pair["b"])
        assert pair["influence"] == pytest.approx(len(a & b) / len(a | b), abs=1e-6)


def test_plan_knows_pointwise_functions_and_features(offline_project: Project) -> None:
    configured(offline_project, "selectit")
    plan = json.loads(offline_project.call("plan", "job.toml", "--json").stdout)
    # 12 of 23 distinct contents are labelled, half of the others audited; five prompts for each.
    assert (plan["pairs"], plan["exact_pairs"], plan["features"]) == (24, 12 + 5, 0)
    assert plan["forward_passes"] == 5 * 17
    configured(offline_project, "less", influence={"function": "less", "audit_pairs": 5})
    plan = json.loads(offline_project.call("plan", "job.toml", "--json").stdout)
    assert plan["pairs"] == 24 * 12
    assert plan["features"] == 12 + 5 + 6 + 5
    assert plan["exact_pairs"] == 12 * 6 + 5
    assert plan["forward_passes"] == 3 * 2 * (12 + 5 + 6 + 5)
    assert (ORACLES / "tiny-lm").is_dir() and not offline_project.workspace.exists()


@pytest.mark.heavy
@pytest.mark.parametrize("function", ["delift", "less", "selectit"])
def test_two_slots_on_one_device_give_the_values_of_one(
    make_project: Callable[[str], Project], function: str
) -> None:
    everything = {"influence": {"function": function, "label_fraction": 1, "audit_pairs": 0}}
    sql = "SELECT train_id, task, score FROM scores ORDER BY ALL"
    found = []
    for name, devices in (("one", ["cpu"]), ("two", ["cpu", "cpu"])):
        project = configured(
            make_project(name), function, **everything, execution={"devices": devices, "retries": 0},
            shards={"rows": 4, "columns": 8},
        )  # fmt: skip
        project.value()
        found.append(project.ask(sql))
    assert [r["train_id"] for r in found[0]] == [r["train_id"] for r in found[1]]
    np.testing.assert_allclose(
        [r["score"] for r in found[0]], [r["score"] for r in found[1]], rtol=0, atol=1e-6
    )
