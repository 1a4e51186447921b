"""Whole valuations through the command line, against a real Prefect server."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
from conftest import ORACLES, Project, oracle_rows, write_jsonl

COLUMNS = {
    "examples": "example_id dataset role split task source source_id row_number label prompt response "
    "content_hash",
    "influence": "run_id function quadrant origin predictor train_id target_id influence lower upper",
    "scores": "run_id function task variant seed origin train_id score",
    "estimator_quality": "run_id function quadrant target_task role predictor n_pairs mse r2 pearson "
    "spearman spearman_per_target recall_at_k lower upper verdict spearman_centred",
    "estimator_candidates": "run_id function rank predictor learned criterion component value seconds failed",
    "estimator_gains": "run_id function study setting labels spearman r2 gain extrapolated",
    "audit": "run_id function predictor train_id target_id exact predicted",
    "refinement": "run_id round exact_pairs entered left_subset jaccard",
    "selection": "run_id rank train_id gain score",
    "subsets": "run_id subset seed train_id",
    "evaluation": "run_id function subset model mode task metric value lower upper seed fraction n_train"
    " n_tokens n_rows",
    "evaluation_rows": "run_id subset model mode task seed target_id metric value generated",
    "comparison": "run_id function subset against model mode task metric value against_value gain lower upper"
    " n_seeds n_rows verdict",
    "facts": "run_id fact value text",
    "costs": "run_id attempt stage device items computed reused seconds peak_rss_mb",
    "lineage": "artifact kind key parents created_at producer run_id attempt rows size",
    "runs": "run_id attempt config status started_at finished_at versions",
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, prefect_env: dict[str, str]) -> Project:
    """A project that has run once; tests of this module only read it or add to it."""
    p = Project(tmp_path_factory.mktemp("valued"), prefect_env)
    p.first = p.run()  # type: ignore[attr-defined]
    return p


def test_every_view_answers_with_its_stable_columns(project: Project) -> None:
    for view, columns in COLUMNS.items():
        rows = project.query(f"SELECT column_name FROM (DESCRIBE {view})")
        assert [r["column_name"] for r in rows] == columns.split(), view


def test_influence_has_rows_times_columns_rows_and_q1_is_exact(project: Project) -> None:
    found = project.ask(
        "SELECT quadrant, origin, count(*) AS n, count(DISTINCT (train_id, target_id)) AS pairs "
        "FROM influence GROUP BY ALL"
    )
    assert sum(r["n"] for r in found) == 24 * 12 == sum(r["pairs"] for r in found)
    assert {r["origin"] for r in found if r["quadrant"] == "Q1"} == {"exact"}
    assert {r["quadrant"] for r in found} == {"Q1", "Q2", "Q3", "Q4"}
    assert sum(r["n"] for r in found if r["origin"] == "exact") >= 12 * 6 + 40


def test_exact_values_equal_the_oracle(project: Project) -> None:
    truth = np.load(ORACLES / "delift.npz", allow_pickle=False)["influence"]
    rows = project.ask(
        "SELECT r.source_id AS pool, c.source_id AS target, influence FROM influence i "
        "JOIN examples r ON r.example_id = i.train_id JOIN examples c ON c.example_id = i.target_id "
        "WHERE origin = 'exact'"
    )
    errors = [
        abs(r["influence"] - truth[int(r["pool"].split("-")[1]), int(r["target"].split("-")[1])])
        for r in rows
    ]
    assert len(errors) > 100
    assert max(errors) < 1e-6


def test_duplicates_are_rows_of_their_own_that_share_values(project: Project) -> None:
    rows = project.ask(
        "SELECT train_id, list(influence ORDER BY target_id) AS v FROM influence JOIN examples "
        "ON example_id = train_id WHERE source_id IN ('pool-06', 'pool-20') GROUP BY train_id"
    )
    assert len(rows) == 2
    assert rows[0]["v"] == rows[1]["v"]


def test_subset_has_the_shape_of_the_users_file(project: Project) -> None:
    first = project.first  # type: ignore[attr-defined]
    lines = [json.loads(x) for x in Path(first["subset"]).read_text(encoding="utf-8").splitlines()]
    pool = {r["id"]: r for r in oracle_rows("pool")}
    assert [x["rank"] for x in lines] == [1, 2, 3, 4, 5, 6]
    for line in lines:
        assert {k: line[k] for k in ("id", "prompt", "response", "source")} == pool[line["id"]]
    chosen = project.ask(
        "SELECT source_id, rank, gain, score FROM selection "
        "JOIN examples ON example_id = train_id ORDER BY rank"
    )
    assert [(x["id"], x["gain"], x["score"]) for x in lines] == [
        (c["source_id"], c["gain"], c["score"]) for c in chosen
    ]


def test_selection_is_the_rule_applied_to_the_matrix(project: Project) -> None:
    """Replay of flmi in float64 on the matrix as the view gives it (min-max scaled, eta = 1)."""
    rows = project.ask("SELECT train_id, target_id, influence FROM influence")
    pool = sorted({r["train_id"] for r in rows})
    target = sorted({r["target_id"] for r in rows})
    s = np.zeros((len(pool), len(target)))
    for r in rows:
        s[pool.index(r["train_id"]), target.index(r["target_id"])] = r["influence"]
    s = (s - s.min()) / (s.max() - s.min())
    cover = np.zeros(len(target))
    taken: list[int] = []
    for pick in project.ask("SELECT train_id, gain FROM selection ORDER BY rank"):
        gains = np.maximum(s - cover, 0).sum(axis=1) + s.max(axis=1)
        gains[taken] = -np.inf
        at = pool.index(pick["train_id"])
        assert pick["gain"] == pytest.approx(gains[at], abs=1e-4)
        assert gains[at] >= gains.max() - 1e-4
        cover, taken = np.maximum(cover, s[at]), [*taken, at]


def test_scores_are_row_means_of_the_matrix(project: Project) -> None:
    rows = project.ask(
        "SELECT max(abs(score - mean)) AS worst, count(*) AS n FROM scores JOIN "
        "(SELECT train_id, avg(influence) AS mean FROM influence GROUP BY 1) USING (train_id)"
    )
    assert rows[0]["n"] == 24
    assert rows[0]["worst"] < 1e-6


def test_quality_stands_beside_baselines_in_every_quadrant(project: Project) -> None:
    rows = project.ask("SELECT quadrant, role, predictor, n_pairs, verdict FROM estimator_quality")
    for quadrant in ("Q1", "Q2", "Q3", "Q4"):
        predictors = {r["predictor"]: r for r in rows if r["quadrant"] == quadrant}
        baselines = {"constant", "row + column means", "embedding cosine", "bm25", "length", "gradient proxy"}
        assert set(predictors) == baselines | {"mlp"}
        assert predictors["mlp"]["role"] == "estimator"
    assert {r["verdict"] for r in rows if r["quadrant"] == "Q1" and r["role"] == "estimator"} == {
        "fit on labels"
    }
    audited = {r["quadrant"]: r["n_pairs"] for r in rows if r["quadrant"] != "Q1"}
    assert audited.pop("all") == 40 == sum(audited.values())
    verdicts = [r["verdict"] for r in rows if r["quadrant"] == "all" and r["role"] == "estimator"]
    assert len(verdicts) == 1 and verdicts[0].split(":")[0] in ("trusted", "weak", "refused")


def test_running_again_reuses_everything(project: Project) -> None:
    first = project.first  # type: ignore[attr-defined]
    again = project.run()
    assert (again["run_id"], again["attempt"]) == (first["run_id"], first["attempt"] + 1)
    kept = [c for c in again["costs"] if c["stage"] != "report"]
    assert all(c["computed"] == 0 and c["reused"] == c["items"] for c in kept), kept
    assert Path(again["subset"]).read_text() == Path(first["subset"]).read_text()


def test_attempts_record_config_versions_and_revision(project: Project) -> None:
    row = project.ask("SELECT config, versions, status FROM runs ORDER BY attempt LIMIT 1")[0]
    assert json.loads(row["config"])["influence"]["label_fraction"] == 0.5
    versions = json.loads(row["versions"])
    assert versions["torch"].startswith("2.")
    assert len(versions["git"].split("-")[0]) in (40, 4)
    assert row["status"] == "completed"


def test_lineage_leads_from_the_subset_back_to_the_source(project: Project) -> None:
    rows = {r["artifact"]: r for r in project.ask("SELECT * FROM lineage")}
    seen: set[str] = set()
    queue = [a for a, r in rows.items() if r["kind"] == "subset"]
    assert queue
    while queue:
        artifact = queue.pop()
        if artifact not in seen:
            seen.add(artifact)
            queue += rows[artifact]["parents"] if artifact in rows else []
    kinds = {rows[a]["kind"] for a in seen if a in rows}
    assert {"selection", "estimator", "label-design", "exact", "embedding", "dataset-block"} <= kinds
    assert any(a.startswith("source:") for a in seen)
    assert all((project.workspace / a).is_file() for a in rows)


def test_the_ui_has_the_run_its_tasks_and_its_artifacts(project: Project) -> None:
    first = project.first  # type: ignore[attr-defined]
    api = first["ui_url"] + "/api"
    keys = {a["key"] for a in httpx.post(f"{api}/artifacts/latest/filter", json={"limit": 200}).json()}
    for kind in ("lineage", "stages", "quality"):
        assert f"{kind}-{first['run_id']}" in keys
    assert "progress-exact-influence" in keys
    names = {
        t["name"].split(" ")[0] for t in httpx.post(f"{api}/task_runs/filter", json={"limit": 200}).json()
    }
    assert {
        "ingest", "embed", "exact-influence", "train-influence-network", "estimate-influence", "select",
    } <= names  # fmt: skip


def test_appending_computes_only_what_the_new_rows_need(make_project: Callable[[str], Project]) -> None:
    p = make_project("append")
    pool = [{k: v for k, v in r.items()} for r in oracle_rows("pool")]
    write_jsonl(p.folder / "pool.jsonl", pool[:20])
    first = p.value()
    tiles = {r["artifact"] for r in p.ask("SELECT artifact FROM lineage WHERE kind IN ('estimate', 'exact')")}
    write_jsonl(p.folder / "pool.jsonl", pool)
    second = p.value()
    before, costs = p.costs(first), p.costs(second)
    assert second["run_id"] != first["run_id"]
    assert costs["ingest"]["computed"] == 4
    assert costs["embed"]["computed"] == 2 * 3, "text and response; pool-20 is a copy of pool-06"
    assert costs["estimate-influence"]["computed"] == 3 * 12
    assert costs["estimate-influence"]["reused"] == before["estimate-influence"]["items"]
    assert costs["train-influence-network"]["reused"] == 1
    assert costs["exact-influence"]["computed"] < 40
    after = {r["artifact"] for r in p.ask("SELECT artifact FROM lineage WHERE kind IN ('estimate', 'exact')")}
    assert tiles < after
    assert p.ask("SELECT count(*) AS n FROM influence")[0]["n"] == 24 * 12
    assert p.ask("SELECT count(*) AS n FROM influence", first["run_id"])[0]["n"] == 20 * 12
    assert p.ask("SELECT count(*) AS n FROM influence", "all")[0]["n"] == 44 * 12


def test_everything_exact_fits_nothing_and_the_views_still_answer(
    make_project: Callable[[str], Project],
) -> None:
    p = make_project("exact")
    p.configure(influence={"label_fraction": 1})
    result = p.value()
    assert result["quality"] == []
    assert {c["stage"] for c in result["costs"]} == {"ingest", "exact-influence", "select", "report"}
    found = p.ask("SELECT origin, quadrant, count(*) AS n FROM influence GROUP BY ALL")
    assert found == [{"origin": "exact", "quadrant": "Q1", "n": 288}]
    for view in COLUMNS:
        p.ask(f"SELECT * FROM {view} LIMIT 1")


@pytest.mark.parametrize("rule", ["top-k", "fl", "flcg"])
def test_every_rule_is_reachable(make_project: Callable[[str], Project], rule: str) -> None:
    p = make_project(rule)
    write_jsonl(p.folder / "old.jsonl", [{"prompt": "What is 2 + 2?", "response": "4"}])
    extra = {"existing": None} if rule == "flcg" else {}
    config = p.configure(
        influence={"function": "delift-se", "label_fraction": 1}, selection={"rule": rule, "count": 5}
    )
    if extra:
        config.write_text(
            config.read_text() + '[selection.existing]\nsource = "old.jsonl"\n', encoding="utf-8"
        )
    result = p.value()
    picks = p.ask("SELECT train_id, gain, score FROM selection ORDER BY rank")
    assert len({x["train_id"] for x in picks}) == 5
    assert result["facts"]["rule"] == rule
    gains = [x["gain"] for x in picks]
    assert gains == sorted(gains, reverse=True)
    assert p.ask("SELECT count(*) AS n FROM influence")[0]["n"] == 288
    if rule == "top-k":
        best = p.ask("SELECT train_id FROM scores ORDER BY score DESC LIMIT 5")
        assert {b["train_id"] for b in best} == {x["train_id"] for x in picks}


def test_a_pool_can_be_valued_against_itself(make_project: Callable[[str], Project]) -> None:
    p = make_project("self")
    p.configure(target={"source": "self"}, influence={"function": "delift-se", "label_fraction": 1})
    result = p.value()
    assert result["facts"]["rule"] == "fl"
    rows = p.ask(
        "SELECT count(*) AS n, min(influence) FILTER (train_id = target_id) AS diagonal FROM influence"
    )
    assert rows[0]["n"] == 24 * 24
    assert rows[0]["diagonal"] == pytest.approx(1, abs=1e-5)


def test_several_targets_are_tasks(make_project: Callable[[str], Project]) -> None:
    p = make_project("tasks")
    target = oracle_rows("target")
    write_jsonl(p.folder / "one.jsonl", target[:5])
    write_jsonl(p.folder / "two.jsonl", target[5:])
    p.configure(target={"source": ["one.jsonl", "two.jsonl"]}, selection={"rule": "top-k", "count": 4})
    p.value()
    scores = p.ask("SELECT task, count(*) AS n FROM scores GROUP BY 1 ORDER BY 1")
    assert scores == [{"task": "one", "n": 24}, {"task": "two", "n": 24}]
    wrong = p.ask(
        "WITH best AS (SELECT train_id, max(score) AS s FROM scores GROUP BY 1) "
        "SELECT count(*) AS n FROM selection JOIN best USING (train_id) WHERE abs(score - s) > 1e-7"
    )
    assert wrong[0]["n"] == 0


@pytest.mark.heavy
def test_a_damaged_tile_is_computed_again(make_project: Callable[[str], Project]) -> None:
    p = make_project("damage")
    first = p.value()
    subset = Path(first["subset"]).read_text()
    victim = p.ask("SELECT artifact FROM lineage WHERE kind = 'estimate' ORDER BY 1 LIMIT 1")[0]["artifact"]
    path = p.workspace / victim
    path.write_bytes(path.read_bytes()[:-5])
    costs = p.costs(p.value())
    assert 0 < costs["estimate-influence"]["computed"] < costs["estimate-influence"]["items"]
    assert Path(first["subset"]).read_text() == subset


@pytest.mark.heavy
def test_the_terminal_shows_tables_and_next_steps(
    make_project: Callable[[str], Project],
) -> None:
    p = make_project("shown")
    done = p.call("run", "job.toml", "--workspace", str(p.workspace))
    for part in ("Estimates against exact values", "Subset: 6 of 24 rows by flmi", "Costs", "Try next:"):
        assert part in done.stdout
    assert "exact-influence: 112 pairs computed" in done.stderr
    assert p.call("run", "job.toml", "--workspace", str(p.workspace), "--quiet").stderr == ""
