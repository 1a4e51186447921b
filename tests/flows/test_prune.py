"""Whole prune runs: every view, what is reused, what the files hold, wrong input at the terminal."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from conftest import write_jsonl
from prune_jobs import COLUMNS, PruneProject, intents

from nncift_core.scores.catalogue import CATALOGUE, shown_name

NAMES = ("vog", "el2n", "forgetting", "pvi", "aum")
SCORES = {name: shown_name(name, "frozen") for name in NAMES}  # type: ignore[arg-type]
# Points of a seed: all rows, random, stratified, EL2N and VoG twice and forgetting, by two ends; forgetting
# and VoG drawn in two ways. Under noise no variants and no draws. Of imbalance VoG twice, cut and drawn.
CURVE, NOISE, IMBALANCE = 3 + 5 * 2 + 2 * 2 * 2, 2 + 3 * 2, 3 + 2 * 2


class Done(PruneProject):
    """A project that has run once; tests of this module read it, or run it again."""

    first: dict[str, Any]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, prefect_env: dict[str, str]) -> Done:
    p = Done(tmp_path_factory.mktemp("pruned"), prefect_env)
    p.first = p.prune()
    return p


def test_every_view_answers_with_its_stable_columns_and_has_rows(project: Done) -> None:
    for view, columns in COLUMNS.items():
        rows = project.ask(f"SELECT column_name FROM (DESCRIBE {view})")
        assert [r["column_name"] for r in rows] == columns.split(), view
        assert project.ask(f"SELECT count(*) AS n FROM {view} WHERE run_id = '{project.first['run_id']}'")[0][
            "n"
        ]


def test_every_score_of_every_row_is_there_and_those_of_new_rows_are_estimated(project: Done) -> None:
    found = project.ask(
        "SELECT function, variant, s.origin, role, count(*) AS n, count(DISTINCT train_id) AS ids, "
        "bool_and(isfinite(score)) AS finite FROM scores s JOIN examples ON example_id = train_id "
        "GROUP BY ALL"
    )
    assert all(r["finite"] and r["n"] == r["ids"] for r in found)
    exact = {(r["function"], r["variant"]): (r["role"], r["n"]) for r in found if r["origin"] == "exact"}
    assert exact == {(SCORES[name], v): ("train", 150) for name in NAMES for v in CATALOGUE[name].variants}
    learned = {r["function"]: (r["role"], r["n"], r["variant"]) for r in found if r["origin"] == "estimated"}
    assert learned == {SCORES[name]: ("new", 7, CATALOGUE[name].variants[0]) for name in NAMES}
    quality = project.ask("SELECT DISTINCT function FROM estimator_quality WHERE verdict IS NOT NULL")
    assert {q["function"] for q in quality} == set(SCORES.values())


def test_points_are_those_of_the_studies_and_every_one_is_measured_on_all_test_rows(project: Done) -> None:
    found = project.ask(
        "SELECT study, count(*) AS n, bool_and(n_rows = 60) AS whole FROM pruning "
        "WHERE scope = 'all' AND metric = 'accuracy' GROUP BY ALL ORDER BY 1"
    )
    assert [(r["study"], r["n"], r["whole"]) for r in found] == [
        ("curve", 2 * CURVE, True), ("imbalance", 2 * IMBALANCE, True), ("noise", 4 * NOISE, True),
    ]  # fmt: skip
    sizes = project.ask("SELECT DISTINCT pruned, n_train FROM pruning ORDER BY 1")
    assert [(s["pruned"], s["n_train"]) for s in sizes] == [(0, 150), (0.5, 75)]
    planted = project.ask("SELECT DISTINCT noise, score, mislabelled FROM pruning WHERE score = 'all'")
    assert {(r["noise"], r["mislabelled"]) for r in planted} == {
        ("", None),
        ("uniform", 15),
        ("confusable", 15),
    }
    assert {r["score"] for r in project.ask("SELECT DISTINCT score FROM pruning")} == {
        "all", "random", "stratified", "el2n", "forgetting", "vog-embedding",
    }  # fmt: skip


def test_the_summary_is_the_mean_of_the_points(project: Done) -> None:
    settings = ("study", "noise", "noise_rate", "score", "variant", "sampling", "pruned_end", "pruned")
    points: dict[tuple[Any, ...], dict[int, float]] = defaultdict(dict)
    for r in project.ask("SELECT * FROM pruning WHERE scope = 'all' AND metric = 'accuracy'"):
        points[tuple(r[s] for s in settings)][r["seed"]] = r["value"]
    summary = project.ask("SELECT * FROM pruning_summary")
    assert len(summary) == len(points) == CURVE + IMBALANCE + 2 * NOISE
    for row in summary:
        key = tuple(row[s] for s in settings)
        seeds = points[key]
        assert row["n_seeds"] == len(seeds) == 2
        assert row["accuracy"] == pytest.approx(sum(seeds.values()) / 2)
        assert row["spread"] == pytest.approx(abs(seeds[0] - seeds[1]) / 2**0.5)
        whole = points[*key[:3], "all", "", "", "", 0.0]
        change = sum(seeds[s] - whole[s] for s in seeds) / 2
        if row["score"] != "all":
            assert row["change"] == pytest.approx(change)
            random = points[*key[:3], "random", "", "", "", row["pruned"]]
            if row["score"] != "random":
                assert row["gain"] == pytest.approx(sum(seeds[s] - random[s] for s in seeds) / 2)
                assert row["verdict"] in ("better", "worse", "no clear difference")
    for scope, metric in (("all", "macro_accuracy"), ("tail", "accuracy")):
        column = "macro_accuracy" if scope == "all" else "tail_accuracy"
        worst = project.ask(
            f"SELECT max(abs(s.{column} - m.mean)) AS worst, count(*) AS n FROM pruning_summary s JOIN "
            f"(SELECT {', '.join(settings)}, avg(value) AS mean FROM pruning WHERE scope = '{scope}' "
            f"AND metric = '{metric}' GROUP BY ALL) m USING ({', '.join(settings)})"
        )[0]
        assert worst["n"] == len(summary) and worst["worst"] < 1e-12


def test_classes_and_groups_add_up_to_all_test_rows(project: Done) -> None:
    wrong = project.ask(
        "SELECT count(*) FILTER (abs(hits - value * 60) > 1e-9 OR n <> 60) AS wrong, count(*) AS n FROM "
        "(SELECT study, noise, score, variant, sampling, pruned_end, pruned, seed, scope AS part, "
        "sum(value * n_rows) AS hits, sum(n_rows) AS n FROM pruning WHERE scope IN ('class', 'group') "
        "GROUP BY ALL) JOIN (SELECT * FROM pruning WHERE scope = 'all' AND metric = 'accuracy') "
        "USING (study, noise, score, variant, sampling, pruned_end, pruned, seed)"
    )[0]
    assert wrong["wrong"] == 0 and wrong["n"] == 2 * (2 * CURVE + 2 * IMBALANCE + 4 * NOISE)
    domains = {r["domain"] for r in intents("test", 60)}
    assert {
        r["name"] for r in project.ask("SELECT DISTINCT name FROM pruning WHERE scope = 'group'")
    } == domains


def test_planted_labels_are_found_better_than_by_chance(project: Done) -> None:
    rows = project.ask("SELECT * FROM noise_detection")
    assert {(r["noise"], r["seed"]) for r in rows} == {
        (k, s) for k in ("uniform", "confusable") for s in (0, 1)
    }
    assert {r["score"] for r in rows} == set(SCORES.values()) and {r["planted"] for r in rows} == {15}
    assert min(r["auc"] for r in rows if r["score"] == "aum" and r["noise"] == "uniform") > 0.8


def test_suspects_are_ranked_and_their_file_is_safe_to_open(project: Done) -> None:
    view = project.ask(
        "SELECT s.*, prompt, label FROM suspects s JOIN examples ON example_id = train_id ORDER BY rank"
    )
    assert [r["rank"] for r in view] == list(range(1, project.first["facts"]["suspects"] + 1))
    assert all(r["given"] == r["label"] != r["predicted"] for r in view)
    path = project.workspace / project.first["facts"]["suspects_csv"]
    with path.open(encoding="utf-8", newline="") as f:
        lines = list(csv.DictReader(f))
    assert [(x["text"], x["given_label"], x["predicted_label"], x["new_label"]) for x in lines] == [
        (r["prompt"], r["given"], r["predicted"], "") for r in view
    ]
    assert not [c for x in lines for c in x.values() if c.startswith(("=", "+", "-", "@", "\t", "\r"))]


def test_the_subset_has_the_shape_of_the_users_file_and_is_the_selection(project: Done) -> None:
    facts = project.first["facts"]
    lines = [json.loads(x) for x in (project.workspace / facts["subset"]).read_text("utf-8").splitlines()]
    given = intents("train", 150)
    assert len(lines) == facts["subset_rows"] == 75 and facts["subset_by"] == "config"
    assert [given.index(x) for x in lines] == sorted(given.index(x) for x in lines)
    chosen = project.ask(
        "SELECT rank, prompt, s.score, t.score AS view FROM selection s "
        "JOIN examples ON example_id = train_id JOIN scores t "
        "ON t.train_id = s.train_id AND function = 'el2n' AND variant = 'early' ORDER BY rank"
    )
    assert {c["prompt"] for c in chosen} == {x["text"] for x in lines} and len(chosen) == 75
    assert [c["score"] for c in chosen] == [c["view"] for c in chosen]
    assert [c["score"] for c in chosen] == sorted((c["score"] for c in chosen), reverse=True)
    middle = project.ask("SELECT median(score) AS middle FROM scores WHERE function = 'el2n' "
                         "AND variant = 'early' AND origin = 'exact'")[0]["middle"]  # fmt: skip
    kept_hard = sum(c["score"] >= middle for c in chosen)
    assert kept_hard >= 65, "the harder half stays, but for what the floors move"


def test_the_report_holds_the_recommendation(project: Done) -> None:
    import html

    page = html.unescape(Path(project.first["report"]).read_text(encoding="utf-8"))
    facts = project.first["facts"]
    assert facts["recommendation"] and facts["recommendation"] in page
    told = {f["fact"]: f["text"] or f["value"] for f in project.ask("SELECT * FROM facts")}
    assert told["recommendation"] == facts["recommendation"] and told["classes"] == 3


def test_gc_frees_nothing_of_a_run_that_stands_and_lineage_knows_its_parts(project: Done) -> None:
    where = ("--workspace", str(project.workspace), "--json")
    found = json.loads(project.call("gc", *where).stdout)
    assert found["groups"] == [] and found["replaced"] == []
    told = json.loads(project.call("lineage", "subset", *where).stdout)
    assert told["made_by"]["run"] == project.first["run_id"]
    assert {"subset", "classifier", "dataset-version"} <= {n["kind"] for n in told["nodes"]}


def test_running_again_trains_nothing_and_gives_the_same_values(project: Done) -> None:
    run = project.first["run_id"]
    before = project.views(run)
    again = project.prune(report=False)
    assert (again["run_id"], again["attempt"]) == (run, project.first["attempt"] + 1)
    kept = [c for c in again["costs"] if c["stage"] != "report"]
    assert {c["stage"] for c in kept} >= {"embed-texts", "train-scores", "train-subsets", "learn-scores"}
    assert all(c["computed"] == 0 and c["reused"] == c["items"] for c in kept), kept
    assert project.views(run) == before
    for key in ("facts", "summary", "detection", "findings"):
        assert again[key] == project.first[key], key


@pytest.mark.parametrize("stage", ["train-scores", "train-subsets"])
def test_a_damaged_training_is_trained_again_alone_with_the_same_result(project: Done, stage: str) -> None:
    run = project.first["run_id"]
    before = project.views(run)
    of_scores = {f.parent for f in project.workspace.glob("classifiers/*/dynamics.parquet")}
    folders = sorted(f.parent for f in project.workspace.glob("classifiers/*/done.json"))
    results = {f: json.loads((f / "done.json").read_text()) for f in folders}
    victim = next(
        f / "done.json"
        for f in folders
        if (f in of_scores if stage == "train-scores" else "accuracy" in results[f])
    )
    whole = victim.read_bytes()
    victim.write_bytes(whole[:-1])
    again = project.prune(report=False)
    computed = project.trained(again)
    assert {s: n for s, n in computed.items() if n and s != "report"} == {stage: 1}
    assert victim.read_bytes() == whole
    assert again["summary"] == project.first["summary"] and project.views(run) == before


def test_a_share_more_trains_its_own_points_alone(project: Done) -> None:
    before = project.views(project.first["run_id"])["pruning"]
    trainings = len(list(project.workspace.glob("classifiers/*/done.json")))
    project.configure(study={"studies": ["curve"], "prune": [0.5, 0.2]})
    result = project.prune(report=False)
    assert result["run_id"] != project.first["run_id"]
    computed = project.trained(result)
    more = len(list(project.workspace.glob("classifiers/*/done.json"))) - trainings
    assert {s: n for s, n in computed.items() if n and s != "report"} == {"train-subsets": more}
    # Two seeds of the points of a curve but for all rows; points whose ties leave the same rows share one.
    assert 2 * (CURVE - 1) - 8 <= more <= 2 * (CURVE - 1)
    kept = [{k: v for k, v in r.items() if k != "run_id"} for r in before if r["study"] == "curve"]
    found = project.ask(
        "SELECT * EXCLUDE (run_id) FROM pruning WHERE pruned <> 0.2 ORDER BY ALL", result["run_id"]
    )
    assert found == kept
    project.configure()


def test_the_plan_counts_and_writes_nothing(tmp_path: Path) -> None:
    p = PruneProject(tmp_path, _offline(tmp_path))
    found = json.loads(
        p.call("prune", "job.toml", "--workspace", str(p.workspace), "--plan", "--json").stdout
    )
    assert found == {
        "rows": 150, "test_rows": 60, "new_rows": 7, "rows_dropped": 0, "classes": 3, "text": "text",
        "mode": "frozen", "label_sets": 5, "trainings_for_scores": 10,
        "trainings_on_subsets": 2 * CURVE + 2 * IMBALANCE + 4 * NOISE, "labels_note": "",
    }  # fmt: skip
    assert not p.workspace.exists() and not Path(p.env["PREFECT_HOME"]).exists()


def test_the_plan_tells_of_a_label_that_may_say_that_there_is_none(tmp_path: Path) -> None:
    p = PruneProject(tmp_path, _offline(tmp_path))
    for name, n in (("mine", 60), ("rest", 9)):
        rows = [{"text": f"{name} {k}", "label": k % 3 - 1} for k in range(n)]
        write_jsonl(p.folder / f"{name}.jsonl", rows)
    data = {"source": "mine.jsonl", "split": None, "test": "./rest.jsonl", "columns": {}, "new": None}
    training = {"batch_size": 16}
    p.configure(data=data, training=training)
    told = p.call("prune", "job.toml", "--workspace", str(p.workspace), "--plan").stdout
    assert 'note: the label "-1" is taken for a class' in told and 'data.unlabelled = ["-1"]' in told
    p.configure(data={**data, "unlabelled": ["-1"], "on_bad_rows": "drop"}, training=training)
    told = p.call("prune", "job.toml", "--workspace", str(p.workspace), "--plan", "--json").stdout
    found = json.loads(told)
    assert (found["rows"], found["rows_dropped"], found["classes"], found["labels_note"]) == (40, 23, 2, "")


def test_the_terminal_tells_of_such_a_label(capsys: pytest.CaptureFixture[str]) -> None:
    from flows.prune import PruneResult
    from flows.prune_summary import show_prune

    facts = {
        "rows": 60, "classes": 3, "mode": "frozen", "accuracy_all": 0.5, "test_rows": 9, "suspects": 0,
        "recommendation": "keep all", "suspects_csv": "s.csv", "labels_note": 'the label "-1" is a class',
    }  # fmt: skip
    result = PruneResult(
        run_id="r", attempt=1, workspace="ws", report="ws/r.html", ui_url=None, facts=facts, summary=[],
        detection=[], findings=[], costs=[],
    )  # fmt: skip
    show_prune(result)
    assert 'note: the label "-1" is a class' in capsys.readouterr().out
    show_prune(result.model_copy(update={"facts": {**facts, "labels_note": ""}}))
    assert "note:" not in capsys.readouterr().out


def _offline(folder: Path) -> dict[str, str]:
    import os

    env = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_API", "NNCIFT"))}
    return {**env, "PREFECT_HOME": str(folder / "prefect-home")}


def unlabelled(p: PruneProject) -> str:
    write_jsonl(p.folder / "mine.jsonl", [{"text": "t", "label": "a"}, {"text": "u", "label": None}])
    write_jsonl(p.folder / "rest.jsonl", [{"text": "v", "label": "a"}])
    p.configure(
        data={"source": "mine.jsonl", "split": None, "test": "./rest.jsonl", "columns": {}, "new": None}
    )
    return "mine.jsonl:2: the row has no label"


def slip(p: PruneProject) -> str:
    p.configure(training={"epoch": 3})
    return 'job.toml field training.epoch: unknown key. Did you mean "epochs"?'


@pytest.mark.parametrize("case", [unlabelled, slip])
def test_wrong_input_exits_2_with_one_message_and_leaves_nothing(tmp_path: Path, case: Any) -> None:
    p = PruneProject(tmp_path, _offline(tmp_path))
    message = case(p)
    done = p.call("prune", "job.toml", "--workspace", str(p.workspace), check=2)
    assert done.stdout == "" and done.stderr.startswith("nncift: ") and message in done.stderr
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
    assert not p.workspace.exists()
    assert not Path(p.env["PREFECT_HOME"], "nncift-server.json").exists()
