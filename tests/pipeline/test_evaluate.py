"""Trials on stored data: their keys, what is asked for once, examples in context, grades and their facts."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import ORACLES, oracle_rows, write_jsonl
from judge_server import JudgeServer, Said, judge_server

from nncift_core.config import Config, load_config, parse_config
from nncift_core.encoders import Encoder, load_encoder
from nncift_core.errors import UserError
from nncift_core.evaluation import judge
from nncift_core.finetune import settings, student_key
from nncift_core.hashing import digest
from nncift_core.language_models import load_tokenizer
from nncift_core.pipeline import evaluate
from nncift_core.pipeline.downstream import Cell, base_cell
from nncift_core.pipeline.evaluate import (
    HeldOutRows,
    Scored,
    Trial,
    check_evaluation,
    comparison_table,
    count_scores,
    evaluate_trial,
    evaluation_key,
    evaluation_rows_table,
    evaluation_table,
    is_complete,
    is_evaluated,
    judge_facts,
    read_scores,
    trials,
)
from nncift_core.pipeline.inputs import read_inputs
from nncift_core.pipeline.problem import Problem, keys_of
from nncift_core.store.dataset_writer import store_dataset
from nncift_core.store.files import read_manifest
from nncift_core.store.workspace import Workspace

TEST = 6


def made(folder: Path, *more: dict[str, Any], **evaluation: Any) -> Problem:
    """A stored job with the oracle's rows, `more` in the pool, and six held-out ones of two tasks, the last
    twice."""
    held = [
        {**r, "prompt": r["prompt"] + " Please.", "task": "odd" if k % 2 else "even"}
        for k, r in enumerate(oracle_rows("target")[:TEST])
    ]
    folder.mkdir(exist_ok=True)
    write_jsonl(folder / "pool.jsonl", [*oracle_rows("pool"), *more])
    write_jsonl(folder / "target.jsonl", oracle_rows("target"))
    write_jsonl(folder / "held_out.jsonl", [*held, held[-1]])
    config = parse_config(
        {
            "pool": {"source": "pool.jsonl"},
            "target": {"source": "target.jsonl", "test": "held_out.jsonl"},
            "language_model": {"model": str(ORACLES / "tiny-lm")},
            "finetune": {},
            "evaluation": {"max_new_tokens": 6, **evaluation},
        },
        base_dir=folder,
    )
    ws = Workspace.create(folder / "ws")
    refs = [
        store_dataset(ws, i.examples, dataset=i.name, role=i.role, block_rows=64, fingerprint=i.fingerprint)
        for i in read_inputs(config)
    ]
    return Problem.load(ws, config, keys_of(config), refs)


def asking(problem: Problem, **evaluation: Any) -> Problem:
    """The same job with other keys of [evaluation]."""
    given = {**problem.config.evaluation.model_dump(), **evaluation}
    section = type(problem.config.evaluation).model_validate(given)
    return replace(problem, config=problem.config.model_copy(update={"evaluation": section}))


def cell(subset: str, seed: int, *rows: int) -> Cell:
    return Cell(subset, seed, np.array(rows, np.int64), f"key of {subset} {seed}")


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load_encoder(parse_config({"pool": {"source": "x"}}).encoder, "cpu")


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "_FIRST_WAIT", 0.001)


@pytest.fixture
def server() -> Iterator[JudgeServer]:
    with judge_server(lambda n, body: Said("[RESULT] 3")) as running:
        yield running


def judged(server: JudgeServer, **settings: Any) -> dict[str, Any]:
    return {"base_url": server.url, "model": "grader", "timeout_s": 5, **settings}


def run(problem: Problem, trial: Trial, encoder: Encoder | None = None) -> Scored:
    evaluate_trial(problem, trial, "cpu", encoder)
    return read_scores(problem, trial)


def test_trials_are_every_cell_in_every_mode_and_equal_rows_in_context_once(tmp_path: Path) -> None:
    config = made(tmp_path, modes=["finetune", "icl"]).config
    drawn = [cell("selected", 0, 3, 1), cell("selected", 1, 1, 3), cell("random", 0, 1), cell("random", 1, 2)]
    found = trials(config, drawn)
    assert [(t.cell.subset, t.cell.seed, t.mode) for t in found] == [
        ("base", None, "base"),
        *((c.subset, c.seed, "finetune") for c in drawn),
        ("selected", 0, "icl"), ("random", 0, "icl"), ("random", 1, "icl"),
    ]  # fmt: skip
    assert [t.name for t in found[-3:-1]] == ["selected, seed 0, in context", "random, seed 0, in context"]
    assert [t.mode for t in trials(config, drawn[:1], base=False)] == ["finetune", "icl"]


def test_the_keys_of_scores_that_earlier_versions_stored_stay(tmp_path: Path) -> None:
    problem = made(tmp_path)
    contents = np.unique(HeldOutRows.of(problem).content_ids).tolist()
    template = settings(problem.config).template
    trial = Trial(cell("selected", 0, 1), "finetune")
    old = ["evaluate", 1, trial.cell.key, template, ["loss", "rouge"], 6, contents]
    assert evaluation_key(problem, trial) == digest(old)
    base = Trial(base_cell(problem.config), "base")
    loss = asking(problem, metrics=["loss"])
    assert evaluation_key(loss, base) == digest(
        ["evaluate", 1, student_key(problem.config), template, ["loss"], None, contents]
    )


def test_what_changes_scores_changes_the_key(tmp_path: Path, server: JudgeServer) -> None:
    problem = made(tmp_path)
    trial, shown = Trial(cell("selected", 0, 1, 2), "finetune"), Trial(cell("other", 1, 2, 1), "icl")
    settings = [
        {}, {"metrics": ["loss"]}, {"metrics": ["similarity"]}, {"metrics": ["exact"]}, {"max_new_tokens": 7},
        {"metrics": ["loss", "judge"], "judge": judged(server)},
        {"metrics": ["loss", "judge"], "judge": judged(server, model="another")},
    ]  # fmt: skip
    keys = {evaluation_key(asking(problem, **s), trial) for s in settings}
    assert len(keys) == len(settings)
    more = {"icl_examples": 2}, {"max_new_tokens": 7, "metrics": ["loss"]}
    icl = {evaluation_key(asking(problem, **s), shown) for s in ({}, *more)}
    assert len(icl | keys) == len(keys) + 3
    same = Trial(cell("selected", 0, 1, 2), "icl"), Trial(cell("selected", 0, 1, 3), "icl")
    assert evaluation_key(problem, same[0]) == evaluation_key(problem, shown)
    assert evaluation_key(problem, same[1]) != evaluation_key(problem, shown)
    assert evaluation_key(asking(problem, icl_examples=2), trial) == evaluation_key(problem, trial)


def test_one_generation_serves_every_metric(
    tmp_path: Path, encoder: Encoder, server: JudgeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    real = evaluate.score_rows.__globals__["answers_to"]

    def counted(model: Any, prompts: Any, **how: Any) -> Any:
        calls.append(len(prompts))
        return real(model, prompts, **how)

    monkeypatch.setitem(evaluate.score_rows.__globals__, "answers_to", counted)
    metrics = ["loss", "rouge", "similarity", "exact", "judge"]
    problem = made(tmp_path, metrics=metrics, judge=judged(server, price_per_million_input=2.0))
    trial, done = Trial(base_cell(problem.config), "base"), list[int]()
    assert count_scores(problem, trial) == (30, 30)
    assert evaluate_trial(problem, trial, "cpu", encoder, done.append) == 30 == sum(done)
    assert calls == [TEST] and count_scores(problem, trial) == (30, 0)
    found = read_scores(problem, trial)
    assert list(found.values) == ["loss", "rouge1", "rougeL", "similarity", "exact", "judge"]
    assert found.values["judge"].tolist() == [3.0] * (TEST + 1) and len(found.paths) == 2
    assert np.all(np.abs(found.values["similarity"]) < 1)
    references = [m["messages"][1]["content"] for m in server.asked]
    assert all(any(a in text for text in references) for a in found.generated if a)
    facts = judge_facts(problem, found.paths)
    assert facts == {
        "judge_answers": TEST, "judge_failed": 0, "judge_malformed": 0, "judge_retries": 0,
        "judge_input_tokens": 600, "judge_output_tokens": 42, "judge_unmetered": 0,
        "judge_cost": pytest.approx(0.0012),
    }  # fmt: skip
    assert evaluate_trial(problem, trial, "cpu", encoder) == 0 and len(server.asked) == TEST


def test_adding_a_judge_asks_the_model_nothing(tmp_path: Path, server: JudgeServer) -> None:
    problem = made(tmp_path)
    trial = Trial(base_cell(problem.config), "base")
    run(problem, trial)
    with_judge = asking(problem, metrics=["loss", "rouge", "judge"], judge=judged(server))
    assert not is_evaluated(with_judge, trial) and count_scores(with_judge, trial) == (18, 6)
    assert evaluate_trial(with_judge, trial, "no such device", None) == 6
    assert is_complete(with_judge, trial)


def test_failed_grades_are_nan_counted_and_asked_for_in_the_next_run(tmp_path: Path) -> None:
    broken = [True]

    def answer(number: int, body: dict[str, Any]) -> Said:
        return Said(status=500) if broken else Said("[RESULT] 5")

    with judge_server(answer) as server:
        problem = made(tmp_path, metrics=["judge"], judge=judged(server, retries=0, concurrency=1))
        trial = Trial(base_cell(problem.config), "base")
        found = run(problem, trial)
        assert np.isnan(found.values["judge"]).all() and is_evaluated(problem, trial)
        assert judge_facts(problem, found.paths)["judge_failed"] == TEST
        assert judge_facts(problem, found.paths)["judge_failure"] == "HTTP 500"
        rows = evaluation_table(problem, "run", [found])
        assert [(r["value"], r["n_rows"], r["lower"]) for r in rows] == [(None, 0, None)] * 3
        assert evaluation_rows_table(problem, "run", [found])["value"].unique().to_pylist() == [None]
        assert not is_complete(problem, trial) and count_scores(problem, trial) == (TEST, TEST)
        broken.clear()
        again = run(problem, trial)
    assert again.values["judge"].tolist() == [5.0] * (TEST + 1) and is_complete(problem, trial)
    assert judge_facts(problem, again.paths)["judge_failed"] == 0


def test_tokens_of_failed_grades_stay_in_the_cost_of_the_next_run(tmp_path: Path) -> None:
    broken = [True]

    def answer(number: int, body: dict[str, Any]) -> Said:
        if not broken:
            return Said("[RESULT] 5")
        return Said(status=401) if number % 2 else Said("hm")

    with judge_server(answer) as server:
        settings = judged(server, retries=1, concurrency=1, price_per_million_input=2.0)
        problem = made(tmp_path, metrics=["judge"], judge=settings)
        trial = Trial(base_cell(problem.config), "base")
        found = [judge_facts(problem, run(problem, trial).paths) for _ in range(2)]
        broken.clear()
        found.append(judge_facts(problem, run(problem, trial).paths))
    asked = [TEST, 2 * TEST, 3 * TEST]
    assert [f["judge_failed"] for f in found] == [TEST, TEST, 0]
    assert [f["judge_input_tokens"] for f in found] == [100 * n for n in asked]
    assert [f["judge_cost"] for f in found] == pytest.approx([0.0002 * n for n in asked])


def test_a_temperature_that_the_judge_refuses_is_a_fact_and_old_files_say_nothing_of_it(
    tmp_path: Path,
) -> None:
    refusal = Said(status=400, body=b'{"error": {"param": "temperature", "code": "unsupported_value"}}')
    with judge_server(lambda n, body: refusal if "temperature" in body else Said()) as server:
        problem = made(tmp_path, metrics=["judge"], judge=judged(server))
        path = run(problem, Trial(base_cell(problem.config), "base")).paths[1]
    facts = judge_facts(problem, [path])
    assert facts["judge_own_temperature"] == facts["judge_answers"] == TEST
    table = pq.read_table(problem.ws.root / path).drop_columns("judgement_own_temperature")
    pq.write_table(table, problem.ws.root / path)
    del facts["judge_own_temperature"]
    assert judge_facts(problem, [path]) == facts


def test_some_grades_missing_leave_the_other_rows_compared(tmp_path: Path) -> None:
    problem = made(tmp_path, metrics=["loss"])
    values = np.array([1.0, 2, 3, 4, 5, 6, 6])
    ours, theirs = values + 1, values.copy()
    ours[0], theirs[3] = np.nan, np.nan
    scored = [
        Scored(Trial(cell(name, 0, 1), "icl"), {"judge": v}, [None] * 7, ())
        for name, v in (("selected", ours), ("longest", theirs))
    ]
    rows = {r["task"]: r for r in comparison_table(problem, "run", scored)}
    assert rows["all"]["n_rows"] == 4 and rows["all"]["gain"] == pytest.approx(1.0)
    assert (rows["even"]["n_rows"], rows["odd"]["n_rows"]) == (2, 2)
    assert rows["all"]["verdict"] == "better" and rows["all"]["mode"] == "icl"
    assert all(not isinstance(v, float) or not math.isnan(v) for r in rows.values() for v in r.values())


def test_every_mode_is_compared_with_its_own_and_with_the_base_model(tmp_path: Path) -> None:
    problem = made(tmp_path, metrics=["loss"])
    values = np.arange(7.0)

    def scored(subset: str, seed: int | None, mode: Any, plus: float) -> Scored:
        return Scored(
            Trial(replace(cell(subset, 0, 1), seed=seed), mode), {"loss": values + plus}, [None] * 7, ()
        )

    everything = [
        scored("base", None, "base", 3), scored("selected", 0, "finetune", 1),
        scored("random", 0, "finetune", 2), scored("selected", 0, "icl", 2), scored("random", 0, "icl", 2.5),
        scored("random", 1, "icl", 3.5), scored("longest", 0, "icl", 4),
    ]  # fmt: skip
    rows = [r for r in comparison_table(problem, "run", everything) if r["task"] == "all"]
    assert [(r["mode"], r["against"], r["gain"], r["n_seeds"]) for r in rows] == [
        ("finetune", "base", 2, 1), ("finetune", "random", 1, 1),
        ("icl", "base", 1, 1), ("icl", "random", 1, 2), ("icl", "longest", 2, 1),
    ]  # fmt: skip
    verdicts = [r["verdict"] for r in rows]
    assert verdicts[:2] == ["one seed: no verdict"] * 2 and verdicts[2] == verdicts[4] == "better"
    named = comparison_table(problem, "run", everything, ours="random", function="bm25")
    assert {(r["subset"], r["function"]) for r in named} == {("random", "bm25")}


def test_examples_are_nearest_to_the_prompt_alone(
    tmp_path: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = made(tmp_path, modes=["icl"], icl_examples=3, metrics=["loss", "rouge"])
    trial = Trial(cell("selected", 0, *range(12)), "icl")
    seen: list[list[int]] = []
    real = evaluate.score_rows

    def kept(model: Any, *args: Any, **how: Any) -> Any:
        seen.extend(how["prompts"] or [])
        return real(model, *args, **how)

    monkeypatch.setattr(evaluate, "score_rows", kept)
    found = run(problem, trial, encoder)
    pool, held = problem.pool, evaluate.held_out_texts(problem, HeldOutRows.of(problem).contents)
    contents = np.unique(pool.content_ids[:12])
    texts = pool.texts(contents)
    rows = encoder.embed([f"{p}\n{r}" for p, r in zip(texts.prompts, texts.responses, strict=True)])
    cosines = encoder.embed(held.prompts) @ rows.T
    tokenizer = load_tokenizer(problem.config.language_model)
    for k, ids in enumerate(seen):
        nearest = np.argsort(-cosines[k])[:3][::-1]
        blocks = [f"Instruction: {texts.prompts[i]}\nResponse: {texts.responses[i]}" for i in nearest]
        question = f"Instruction: {held.prompts[k]}\nResponse: "
        assert ids == tokenizer.tokenize(["\n\n".join([*blocks, question])])[0]
    assert len(seen) == TEST
    manifest = read_manifest(problem.ws.root / found.paths[0])
    assert manifest is not None and manifest.meta["icl_rows_shown_themselves"] == 0
    assert manifest.parents[0] == f"model:{student_key(problem.config)}"
    base = run(problem, Trial(base_cell(problem.config), "base"))
    assert np.all(base.values["loss"] != found.values["loss"])


def test_no_example_shows_the_answer_of_the_held_out_row(tmp_path: Path, encoder: Encoder) -> None:
    held = oracle_rows("target")[0]
    same = [
        {"prompt": f"{held['prompt']} Please.", "response": held["response"]},
        {"prompt": f"  {held['prompt']}\n Please.", "response": "another answer"},
    ]
    plain, leaky = made(tmp_path / "plain"), made(tmp_path / "leaky", *same)
    n = len(plain.pool.content_ids)
    assert np.array_equal(leaky.pool.content_ids[:n], plain.pool.content_ids)
    section = {"modes": ["icl"], "icl_examples": 3, "metrics": ["loss"]}
    losses, counts = [], []
    for problem, rows in ((plain, range(4)), (leaky, [*range(4), n, n + 1]), (leaky, [n, n + 1])):
        found = run(asking(problem, **section), Trial(cell("any", 0, *rows), "icl"), encoder)
        losses.append(found.values["loss"])
        manifest = read_manifest(problem.ws.root / found.paths[0])
        assert manifest is not None
        counts.append([manifest.meta[f"icl_rows_{name}"] for name in ("shown_themselves", "bare")])
    first = int(np.flatnonzero(HeldOutRows.of(plain).example_ids == HeldOutRows.of(leaky).example_ids[0])[0])
    assert losses[1][first] == pytest.approx(losses[0][first], abs=1e-6)
    assert counts == [[0, 0], [2, 0], [2, 1]]
    base = run(asking(leaky, metrics=["loss"]), Trial(base_cell(leaky.config), "base")).values["loss"]
    assert (np.abs(losses[2] - base) < 1e-6).tolist() == [k == first for k in range(TEST + 1)]


def test_vectors_of_examples_are_written_piece_by_piece_with_signs_of_life(
    tmp_path: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "PIECE", 4)
    problem = made(tmp_path, modes=["icl"], metrics=["loss"])
    trial, done = Trial(cell("selected", 0, *range(10)), "icl"), list[int]()
    real, broken = encoder.embed, [True]

    def embed(texts: Any, progress: Any = None, prefix: str = "") -> Any:
        assert len(texts) <= 4
        if broken and len(texts) < 4:
            raise RuntimeError("killed")
        return real(texts, progress, prefix)

    monkeypatch.setattr(encoder, "embed", embed)
    with pytest.raises(RuntimeError, match="killed"):
        evaluate_trial(problem, trial, "cpu", encoder, done.append)
    assert done and set(done) == {0}
    contents = np.unique(problem.pool.content_ids[:10])
    store = problem.vectors("row")
    store.refresh()
    assert len(store.missing(contents)) == len(contents) - 8
    broken.clear()
    done.clear()
    assert evaluate_trial(problem, trial, "cpu", encoder, done.append) == TEST == sum(done)
    # Three pieces more, the cosines, the prompts.
    assert done[:5] == [0] * 5


def test_without_its_encoder_nothing_is_asked(tmp_path: Path) -> None:
    problem = made(tmp_path, modes=["icl"])
    with pytest.raises(ValueError, match="need an encoder"):
        evaluate_trial(problem, Trial(cell("selected", 0, 1), "icl"), "cpu", None)


def test_the_answer_stands_on_the_rows_of_one_metric(tmp_path: Path) -> None:
    problem = made(tmp_path, metrics=["exact", "loss"])
    base = Trial(base_cell(problem.config), "base")
    rows = evaluation_rows_table(problem, "run", [run(problem, base)]).to_pylist()
    assert {r["metric"] for r in rows if r["generated"] is not None} == {"exact"}
    assert len(rows) == 2 * (TEST + 1)


def test_what_would_fail_after_the_training_is_refused_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    problem = made(tmp_path)
    check_evaluation(problem)
    remote = {"base_url": "https://judge.invalid/v1", "model": "m"}
    for evaluation, told in (
        ({"metrics": ["choice"]}, "none of 6 held-out rows is multiple choice"),
        ({"metrics": ["judge"], "judge": remote}, "OPENAI_API_KEY is not set"),
        ({"metrics": ["judge"], "judge": {**remote, "rubric": "gone.txt"}}, "gone.txt cannot be read"),
    ):
        with pytest.raises(UserError, match=re.escape(told)):
            check_evaluation(asking(problem, **evaluation))


SECRET = "sk-secret-123"


@pytest.mark.parametrize(
    ("section", "told"),
    [
        ('metrics = ["judge"]', "say in [evaluation.judge] which base_url and model"),
        ('modes = ["base"]', "evaluation.modes"),
        ("modes = []", "evaluation.modes"),
        ("icl_examples = 0", "evaluation.icl_examples"),
        ('[evaluation.judge]\nmodel = "m"', "evaluation.judge.base_url: missing"),
        (f'[evaluation.judge]\nbase_url = "http://h"\nmodel = "m"\napi_key = "{SECRET}"', "unknown key"),
        (
            f'[evaluation.judge]\nbase_url = "http://h"\nmodel = "m"\napi_key_env = "{SECRET}"',
            "name of an environment variable, not the key",
        ),
        (f'[evaluation.judge]\nbase_url = "http://u:{SECRET}@h"\nmodel = "m"', "must hold no user"),
        ('[evaluation.judge]\nbase_url = "ftp://h"\nmodel = "m"', "must begin with http"),
        ('[evaluation.judge]\nbase_url = "http://h:x"\nmodel = "m"', "base_url is no URL"),
    ],
)  # fmt: skip
def test_wrong_settings_are_told_and_secrets_are_not(tmp_path: Path, section: str, told: str) -> None:
    path = tmp_path / "job.toml"
    path.write_text(f'[pool]\nsource = "p.jsonl"\n[finetune]\n[evaluation]\n{section}\n', encoding="utf-8")
    with pytest.raises(UserError, match=re.escape(told)) as e:
        load_config(path)
    assert SECRET not in str(e.value)


def test_settings_of_before_have_no_identity_of_their_own(tmp_path: Path) -> None:
    def identity(**evaluation: Any) -> Any:
        config: Config = made(tmp_path, **evaluation).config
        return config.evaluation.identity(config.base_dir)

    judge = {"base_url": "http://127.0.0.1:1", "model": "m"}
    assert identity() == identity(icl_examples=2, judge=judge) == []
    assert identity(modes=["icl", "finetune"]) == [["finetune", "icl"], 5]
    assert identity(metrics=["judge"], judge=judge) == [["m", None, 0.0, 512]]


def test_grades_are_stored_beside_what_they_are_of(tmp_path: Path, server: JudgeServer) -> None:
    problem = made(tmp_path, metrics=["judge"], judge=judged(server))
    found = run(problem, Trial(base_cell(problem.config), "base"))
    answers, grades = (pq.read_table(problem.ws.root / p) for p in found.paths)
    assert answers["content_id"].equals(grades["content_id"]) and set(found.values) == {"judge"}
    manifest = read_manifest(problem.ws.root / found.paths[1])
    assert manifest is not None and manifest.parents == (found.paths[0],)
    assert manifest.kind == "evaluation-scores"
