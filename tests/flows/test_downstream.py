"""After selection: fine-tuning, evaluation and comparison through the real flow, and what is reused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Project, oracle_rows, write_jsonl
from judge_server import Said, judge_server

from flows.downstream import Downstream
from flows.valuation import value_pool
from nncift_core.config import load_config, parse_config
from nncift_core.errors import IntegrityError, RunError, UserError
from nncift_core.finetune import load_fine_tuned
from nncift_core.language_models import load_language_model
from nncift_core.pipeline.inputs import held_out, read_inputs
from nncift_core.pipeline.plan import plan
from nncift_core.sequences import fill

FINETUNE = {"epochs": 1, "batch_size": 4, "learning_rate": 1e-3, "rank": 4}
EVALUATION = {"seeds": 2, "max_new_tokens": 6}


def with_test_rows(project: Project) -> Project:
    """Eight held-out rows of two tasks beside the oracle pool and target, one of them also in the pool."""
    rows = [{**r, "task": "odd" if k % 2 else "even"} for k, r in enumerate(oracle_rows("target")[:7])]
    held = [{**r, "prompt": r["prompt"] + " Please."} for r in rows]
    write_jsonl(project.folder / "held_out.jsonl", [*held, {**oracle_rows("pool")[0], "task": "odd"}])
    project.configure(
        target={"source": "target.jsonl", "test": "held_out.jsonl"}, finetune=FINETUNE, evaluation=EVALUATION
    )
    return project


@pytest.fixture(scope="module")
def module_project(
    tmp_path_factory: pytest.TempPathFactory, prefect_env: dict[str, str]
) -> Iterator[Project]:
    folder = tmp_path_factory.mktemp("downstream")
    yield with_test_rows(Project(folder, prefect_env))


@pytest.fixture(scope="module")
def first(module_project: Project) -> dict[str, Any]:
    return module_project.value()


def test_every_subset_is_trained_with_every_seed(module_project: Project, first: dict[str, Any]) -> None:
    sql = """SELECT subset, list(DISTINCT seed ORDER BY seed) AS seeds, max(n_train) AS n_train,
 max(n_tokens) AS tokens FROM evaluation WHERE task = 'all' GROUP BY subset"""
    found = {r["subset"]: r for r in module_project.ask(sql)}
    assert set(found) == {"selected", "random", "random-tokens", "longest", "base"}
    assert found.pop("base")["n_train"] == 0
    assert all(r["seeds"] == [0, 1] for r in found.values())
    assert found["selected"]["n_train"] == found["random"]["n_train"] == found["longest"]["n_train"] == 6
    longest = max(found["random-tokens"]["tokens"], found["selected"]["tokens"])
    assert abs(found["random-tokens"]["tokens"] - found["selected"]["tokens"]) < longest
    assert first["costs"][-3]["stage"] == "fine-tune" and first["costs"][-3]["computed"] > 0


def test_random_subsets_differ_by_seed_and_longest_are_the_longest(
    module_project: Project, first: Any
) -> None:
    rows = module_project.ask("SELECT subset, seed, train_id FROM subsets")
    drawn: dict[tuple[str, int], set[int]] = {}
    for r in rows:
        drawn.setdefault((r["subset"], r["seed"]), set()).add(r["train_id"])
    assert drawn["random", 0] != drawn["random", 1]
    assert drawn["selected", 0] == drawn["selected", 1]
    chosen = {r["train_id"] for r in module_project.ask("SELECT train_id FROM selection")}
    assert drawn["selected", 0] == chosen
    sql = "SELECT example_id, length(response) AS n FROM examples WHERE role = 'pool'"
    lengths = {r["example_id"]: r["n"] for r in module_project.ask(sql)}
    outside = [n for i, n in lengths.items() if i not in drawn["longest", 0]]
    assert min(lengths[i] for i in drawn["longest", 0]) >= max(outside)


def test_means_and_gains_follow_from_the_rows(module_project: Project, first: dict[str, Any]) -> None:
    rows = module_project.ask("SELECT * FROM evaluation_rows")
    for e in module_project.ask("SELECT * FROM evaluation"):
        mine = [
            r["value"] for r in rows
            if (r["subset"], r["seed"], r["metric"]) == (e["subset"], e["seed"], e["metric"])
            and e["task"] in ("all", r["task"])
        ]  # fmt: skip
        assert len(mine) == e["n_rows"] and e["value"] == pytest.approx(np.mean(mine), abs=1e-9)
        assert e["lower"] <= e["value"] <= e["upper"]
    sql = "SELECT avg(value) AS v FROM evaluation WHERE task = 'all' AND metric = 'loss' AND subset = '{}'"
    ours, theirs = (module_project.ask(sql.format(s))[0]["v"] for s in ("selected", "random"))
    compared = [
        c for c in first["comparison"] if (c["against"], c["task"], c["metric"]) == ("random", "all", "loss")
    ]
    assert compared[0]["gain"] == pytest.approx(theirs - ours, abs=1e-9)
    assert compared[0]["lower"] <= compared[0]["gain"] <= compared[0]["upper"]
    assert {c["task"] for c in first["comparison"]} == {"all", "odd", "even"}


def test_scores_are_those_of_the_stored_adapter(module_project: Project, first: dict[str, Any]) -> None:
    config = load_config(module_project.folder / "job.toml")
    tuned = load_fine_tuned(config, Path(first["adapter"]), "cpu")
    base = load_language_model(config.language_model, "cpu")
    sql = """SELECT prompt, response, value, subset
 FROM evaluation_rows JOIN examples ON target_id = example_id
 WHERE metric = 'loss' AND (subset = 'base' OR subset = 'selected' AND seed = 0)"""
    found = module_project.ask(sql)
    assert len(found) == 16
    for r in found:
        model = base if r["subset"] == "base" else tuned
        prompt = model.tokenize([fill("Instruction: {prompt}\nResponse: ", prompt=r["prompt"])])[0]
        response = [*model.tokenize([r["response"]])[0], model.eos_id]
        loss = -model.response_log_probs([[*model.bos_ids, *prompt]], [response])[0].mean()
        assert r["value"] == pytest.approx(float(loss), abs=1e-5)


def test_the_adapter_says_what_it_was_trained_on(module_project: Project, first: dict[str, Any]) -> None:
    card = json.loads((Path(first["adapter"]) / "training.json").read_text(encoding="utf-8"))
    chosen = {r["train_id"] for r in module_project.ask("SELECT train_id FROM selection")}
    assert set(card["example_ids"]) == chosen and card["rows"] == 6 and card["seed"] == 0
    sql = "SELECT artifact, parents, producer FROM lineage WHERE kind = 'adapter' ORDER BY artifact"
    lineage = [r for r in module_project.ask(sql) if "safetensors" in r["artifact"]]
    subsets = module_project.ask("SELECT artifact FROM lineage WHERE kind = 'subsets'")[0]["artifact"]
    assert len(lineage) >= 7 and all(subsets in r["parents"] for r in lineage)


def test_held_out_rows_of_the_pool_are_counted(module_project: Project, first: dict[str, Any]) -> None:
    assert first["facts"]["test_rows"] == 8
    assert first["facts"]["test_rows_in_pool"] == 1 and first["facts"]["test_rows_in_target"] == 0
    value = module_project.ask("SELECT value FROM facts WHERE fact = 'test_rows_in_pool'")
    assert value == [{"value": 1.0}]


def test_a_second_run_trains_and_scores_nothing(module_project: Project, first: dict[str, Any]) -> None:
    again = module_project.value()
    assert again["run_id"] == first["run_id"] and again["comparison"] == first["comparison"]
    costs = module_project.costs(again)
    assert costs["fine-tune"]["computed"] == costs["evaluate"]["computed"] == 0
    assert costs["fine-tune"]["reused"] == module_project.costs(first)["fine-tune"]["computed"]


def test_a_damaged_adapter_alone_is_trained_again(module_project: Project, first: dict[str, Any]) -> None:
    weights = Path(first["adapter"]) / "adapter_model.safetensors"
    before = weights.read_bytes()
    weights.write_bytes(before[:-8] + b"12345678")
    costs = module_project.costs(module_project.value())
    assert costs["fine-tune"]["computed"] == 6 and costs["evaluate"]["computed"] == 0
    assert weights.read_bytes() == before


def test_a_failed_attempt_leaves_the_earlier_comparison(
    module_project: Project, first: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("the power went")

    monkeypatch.setattr(Downstream, "fine_tune", fail)
    with pytest.raises(RunError, match="the power went"):
        module_project.value()
    found = module_project.ask("SELECT count(*) AS n FROM comparison")
    assert found[0]["n"] == len(first["comparison"])
    assert module_project.ask("SELECT text FROM facts WHERE fact = 'adapter'")


def test_held_out_rows_are_no_parents_of_values(module_project: Project, first: dict[str, Any]) -> None:
    sql = """SELECT DISTINCT unnest(parents) AS parent FROM lineage
 WHERE kind IN ('exact', 'embedding', 'selection', 'subset')"""
    parents = [r["parent"] for r in module_project.ask(sql)]
    assert any("datasets/target/" in p for p in parents)
    assert not any("datasets/test/" in p for p in parents)
    known = {r["artifact"] for r in module_project.ask("SELECT artifact FROM lineage")}
    scores = module_project.ask("SELECT parents[1] AS p FROM lineage WHERE kind = 'evaluation-scores'")
    assert all(r["p"] in known or r["p"].startswith("model:") for r in scores) and len(scores) > 8


def test_more_seeds_cost_only_themselves(module_project: Project, first: dict[str, Any]) -> None:
    module_project.configure(evaluation={**EVALUATION, "seeds": 3, "subsets": ["random"]}, finetune=FINETUNE,
                             target={"source": "target.jsonl", "test": "held_out.jsonl"})  # fmt: skip
    more = module_project.value()
    assert more["run_id"] != first["run_id"]
    costs = module_project.costs(more)
    assert costs["fine-tune"]["computed"] == 12 and costs["fine-tune"]["reused"] == 24
    assert {c["against"] for c in more["comparison"]} == {"random"}


def test_in_context_nothing_is_trained_and_grades_come_from_the_judge(
    module_project: Project, first: dict[str, Any]
) -> None:
    def answer(number: int, body: dict[str, Any]) -> Said:
        return Said("[RESULT] 2") if number % 3 else Said("[RESULT] two")

    with judge_server(answer) as server:
        settings = {**EVALUATION, "modes": ["icl"], "subsets": ["base", "random"], "icl_examples": 2}
        path = module_project.configure(
            target={"source": "target.jsonl", "test": "held_out.jsonl"}, finetune=FINETUNE,
            evaluation={**settings, "metrics": ["loss", "similarity", "judge"]},
        )  # fmt: skip
        with path.open("a", encoding="utf-8") as f:
            f.write(
                f'[evaluation.judge]\nbase_url = "{server.url}"\nmodel = "m"\nretries = 0\nconcurrency = 1'
            )
        result = module_project.value()
        asked = len(server.asked)
        assert module_project.value()["comparison"] == result["comparison"] and len(server.asked) == asked
    costs, facts = module_project.costs(result), result["facts"]
    assert "fine-tune" not in costs and costs["evaluate"]["computed"] == 4 * 8 * 3
    assert facts["judge_answers"] == asked and facts["judge_malformed"] == -(-asked // 3)
    assert facts["judge_failed"] == 0 and facts["icl_examples_dropped"] == 0
    sql = "SELECT subset, mode, count(DISTINCT seed) AS seeds FROM evaluation GROUP BY ALL ORDER BY 1, 2"
    found = [(r["subset"], r["mode"], r["seeds"]) for r in module_project.ask(sql)]
    assert found == [("base", "base", 0), ("random", "icl", 2), ("selected", "icl", 1)]
    graded = module_project.ask(
        "SELECT value, count(*) AS n FROM evaluation_rows WHERE metric = 'judge' GROUP BY 1"
    )
    assert {r["value"] for r in graded} == {2.0, None}
    assert {(c["mode"], c["metric"]) for c in result["comparison"]} == {
        ("icl", m) for m in ("loss", "similarity", "judge")
    }
    report = Path(result["report"]).read_text(encoding="utf-8")
    assert "in context" in report and "With examples out of the selected rows" in report


@pytest.mark.heavy
def test_no_rivals_still_shows_the_scores(make_project: Callable[[str], Project]) -> None:
    project = with_test_rows(make_project("alone"))
    held = project.folder / "held_out.jsonl"
    held.write_text(held.read_text(encoding="utf-8") * 2, encoding="utf-8")
    project.configure(
        target={"source": "target.jsonl", "test": "held_out.jsonl"},
        finetune={**FINETUNE, "device": "cpu"},
        evaluation={"subsets": [], "seeds": 1, "metrics": ["loss"]},
    )
    done = project.call("run", "job.toml", "--workspace", str(project.workspace))
    assert "Asked 8 held-out rows" in done.stdout and "no rival was asked for" in done.stdout
    assert "8 held-out rows repeat another one" in done.stdout
    sizes = project.ask("SELECT task, n_rows FROM evaluation ORDER BY task")
    assert sizes == [
        {"task": "all", "n_rows": 8},
        {"task": "even", "n_rows": 4},
        {"task": "odd", "n_rows": 4},
    ]
    report = next(project.workspace.glob("runs/*/report.html")).read_text(encoding="utf-8")
    assert "No rival was asked for" in report


@pytest.mark.heavy
def test_a_lost_file_of_an_old_run_does_not_stop_a_new_one(make_project: Callable[[str], Project]) -> None:
    project = make_project("lost")
    project.value()
    for table in project.workspace.glob("runs/*/tables/scores-*.parquet"):
        table.unlink()
    project.configure(influence={"audit_pairs": 30})
    result = project.value()
    assert "The other runs could not be read" in Path(result["report"]).read_text(encoding="utf-8")
    with pytest.raises(IntegrityError, match="missing or damaged"):
        project.ask("SELECT * FROM scores", "all")
    assert project.ask("SELECT count(*) AS n FROM runs", "all") == [{"n": 2}]


@pytest.mark.heavy
def test_without_held_out_rows_the_subset_alone_is_trained(make_project: Callable[[str], Project]) -> None:
    project = make_project("no_test")
    project.configure(finetune=FINETUNE)
    done = project.call("run", "job.toml", "--workspace", str(project.workspace))
    assert "evaluate: skipped" in done.stderr and "target.test" in done.stderr
    assert "adapter" in done.stdout
    assert project.ask("SELECT count(*) AS n FROM evaluation") == [{"n": 0}]
    assert project.ask("SELECT count(DISTINCT (subset, seed)) AS n FROM subsets") == [{"n": 1}]


@pytest.mark.heavy
def test_the_student_may_be_another_model(make_project: Callable[[str], Project]) -> None:
    project = make_project("student")
    project.configure(finetune={**FINETUNE, "model": "builtin"})
    result = project.value()
    card = json.loads((Path(result["adapter"]) / "training.json").read_text(encoding="utf-8"))
    assert card["student"] == "builtin"
    shape = json.loads((Path(result["adapter"]) / "adapter_config.json").read_text(encoding="utf-8"))
    assert shape["base_model_name_or_path"] == "builtin"


def plan_of(config: Path, workspace: Path) -> dict[str, Any]:
    """`nncift plan` as a call."""
    return plan(load_config(config), workspace)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"finetune": {"epoch": 1}}, 'field finetune.epoch: unknown key. Did you mean "epochs"?'),
        ({"finetune": {"template": "no place"}}, "template needs the placeholder {prompt}"),
        ({"finetune": {"dtype": "bfloat16"}}, "dtype belongs to a model"),
        ({"finetune": {"model": "nowhere/at/all/here"}}, "finetune.model"),
        ({"finetune": {}, "target": {"test": "test"}}, "is a split, but its rows would also be valued"),
        ({"finetune": {}, "target": {"test": "gone.jsonl"}}, "gone.jsonl"),
        ({"finetune": {}, "target": {"test": "a", "split": "a"}}, "no row is held out"),
        ({"finetune": {}, "evaluation": {"subsets": ["best"]}}, "evaluation.subsets"),
        ({"evaluation": {"seeds": 2}}, "there is no model to evaluate. Add [finetune]"),
        (
            {"finetune": {}, "target": {"test": "./target.jsonl"}, "evaluation": {"max_new_tokens": 5000}},
            "evaluation.max_new_tokens",
        ),
    ],
)  # fmt: skip
def test_wrong_input_ends_in_one_message(
    offline_project: Project, sections: dict[str, Any], message: str
) -> None:
    offline_project.configure(**sections)
    for ask in (plan_of, value_pool):
        with pytest.raises(UserError, match=re.escape(message)):
            ask(offline_project.folder / "job.toml", offline_project.workspace)
        assert not offline_project.workspace.exists()


def test_plan_counts_models_and_held_out_rows(offline_project: Project) -> None:
    with_test_rows(offline_project)
    found = json.loads(offline_project.call("plan", "job.toml", "--json").stdout)
    assert found["fine_tunes"] == 8 and found["test_rows"] == 8


def test_target_test_names_a_split_or_a_source(tmp_path: Path) -> None:
    rows = [{"prompt": f"p{k}", "response": "r", "split": s} for k, s in enumerate("aab")]
    write_jsonl(tmp_path / "t.jsonl", rows)
    write_jsonl(tmp_path / "pool.jsonl", rows)
    write_jsonl(tmp_path / "other.jsonl", rows[:1])

    def config(**target: Any) -> Any:
        return parse_config(
            {"pool": {"source": "pool.jsonl", "split": "a"}, "target": target, "finetune": {}},
            base_dir=tmp_path,
        )

    by_split = config(source="t.jsonl", split="a", limit=1, test="b")
    assert [(d.source, d.split, d.limit) for d in held_out(by_split)] == [("t.jsonl", "b", None)]
    sizes = {i.role: len(i.examples) for i in read_inputs(by_split)}
    assert sizes == {"pool": 2, "target": 1, "test": 1}
    by_file = config(source="t.jsonl", split="a", test="other.jsonl")
    assert [(d.source, d.split) for d in held_out(by_file)] == [("other.jsonl", None)]
    of_pool = config(source="self", test="b")
    assert [(d.source, d.split) for d in held_out(of_pool)] == [("pool.jsonl", "b")]
    with pytest.raises(UserError, match="would also be valued"):
        held_out(config(source=["t.jsonl", "other.jsonl"], test="b"))
