"""An audit's derived data sets, models and losses, without a server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import ORACLES, oracle_rows, write_jsonl

from nncift_core.config import Config, parse_config
from nncift_core.execution.job import Job
from nncift_core.pipeline.attribution import (
    about,
    audit_config,
    audit_key,
    bank,
    controls,
    method_names,
    model_counts,
    queries,
    query_tasks,
    removed_queries,
    row_means,
    subsets_table,
    without_top,
)
from nncift_core.pipeline.attribution_data import Planted, draw_queries, plant
from nncift_core.pipeline.attribution_losses import has_losses, loss_key, measure_losses, read_losses
from nncift_core.pipeline.attribution_measures import Measures, Subject, of_planted, random_values
from nncift_core.pipeline.downstream import Cell, base_cell, cells
from nncift_core.pipeline.inputs import read_inputs
from nncift_core.pipeline.problem import Problem, keys_of
from nncift_core.store.dataset_writer import store_dataset
from nncift_core.store.datasets import Dataset
from nncift_core.store.files import publish
from nncift_core.store.workspace import Workspace


def config_of(folder: Path, **audit: Any) -> Config:
    return audit_config(
        parse_config(
            {
                "pool": {"source": "pool.jsonl"},
                "target": {"source": "target.jsonl"},
                "language_model": {"model": str(ORACLES / "tiny-lm")},
                "influence": {"function": "bm25"},
                "audit": audit,
            },
            base_dir=folder,
        )
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = oracle_rows("pool")
    # One row twice, for contents are not rows; two tasks.
    write_jsonl(tmp_path / "pool.jsonl", [*rows, {**rows[0], "id": "again"}])
    targets = [{**r, "task": "odd" if k % 2 else "even"} for k, r in enumerate(oracle_rows("target"))]
    write_jsonl(tmp_path / "target.jsonl", [*targets, targets[0], {**rows[3], "task": "even"}])
    return tmp_path


def problem_of(folder: Path, **audit: Any) -> Problem:
    config = config_of(folder, **audit)
    ws = Workspace.create(folder / "ws")
    refs = tuple(
        store_dataset(ws, i.examples, dataset=i.name, role=i.role, block_rows=8, fingerprint=i.fingerprint)
        for i in read_inputs(config)
    )
    job = Job(
        workspace=str(ws.root), config_json=config.model_dump_json(), base_dir=config.base_dir,
        identity=keys_of(config), datasets=refs,
    )  # fmt: skip
    return job.problem()


def test_queries_are_distinct_rows_of_the_targets_and_store_no_text_again(folder: Path) -> None:
    problem = problem_of(folder, queries=5)
    before = sorted((problem.ws.root / "datasets" / "target").rglob("*.parquet"))
    (ref,) = draw_queries(problem.ws, problem.config, problem.targets)
    drawn = Dataset(problem.ws, ref)
    assert len(drawn.content_ids) == 5 and len(set(drawn.content_ids.tolist())) == 5
    assert set(drawn.example_ids.tolist()) <= set(problem.targets[0].example_ids.tolist())
    after = sorted((problem.ws.root / "datasets" / "target").rglob("*.parquet"))
    assert [p for p in after if p not in before] == [problem.ws.root / ref.path]
    # All of them, copies among them, where no limit is set.
    unlimited = problem_of(folder)
    refs = draw_queries(unlimited.ws, unlimited.config, unlimited.targets)
    assert refs == [d.ref for d in unlimited.targets]
    assert len(queries(unlimited)) == len(unlimited.target_contents) - 1
    assert set(query_tasks(unlimited)) == {"even", "odd"}


def test_a_planted_pool_keeps_all_other_rows_and_plants_by_the_seed(folder: Path) -> None:
    problem = problem_of(folder, wrong=0.2, duplicates=4)
    found = plant(problem.ws, problem.config, problem.pool, problem.targets)
    planted, pool = Dataset(problem.ws, found.ref), problem.pool
    assert found.shared == 1 and len(found.copies) == 4
    assert len(found.wrong) == round(0.2 * len(pool.contents))
    assert len(planted.content_ids) == len(pool.content_ids) + 4
    assert not np.isin(found.wrong, pool.contents).any()
    kept = planted.contents[~np.isin(planted.contents, np.concatenate([found.wrong, found.copies]))]
    assert np.isin(kept, pool.contents).all()
    # A wrong answer is another row's, under the row's own prompt.
    texts, own = planted.texts(found.wrong), pool.texts(pool.contents)
    right = dict(zip(own.prompts, own.responses, strict=True))
    for prompt, response in zip(texts.prompts, texts.responses, strict=True):
        assert response != right[prompt] and response in own.responses
    again = plant(problem.ws, problem.config, problem.pool, problem.targets)
    assert again.ref.version == found.ref.version and again.ref.new_rows == 0
    only_wrong = problem_of(folder, wrong=0.2, tests=["wrong"])
    assert len(plant(only_wrong.ws, only_wrong.config, only_wrong.pool, only_wrong.targets).copies) == 0


def test_models_leave_out_what_their_test_says(folder: Path) -> None:
    problem = problem_of(folder, models=3, share=0.5, remove=[0.1], removed_queries=2, controls=2, seeds=2)
    n = len(problem.pool.example_ids)
    assert [len(s.rows) for s in bank(problem)] == [round(n / 2)] * 3
    out = round(0.1 * n)
    assert [len(s.rows) for s in controls(problem)] == [n - out] * 2
    values = random_values(problem.pool.contents, queries(problem), 0)
    sets = without_top(problem, "mine", values)
    assert [s.kind for s in sets] == ["qld", "qld", "top-k"]
    j = int(removed_queries(problem)[0])
    place = {c: k for k, c in enumerate(problem.pool.contents.tolist())}
    of_row = values[[place[c] for c in problem.pool.content_ids.tolist()], j]
    left_out = np.setdiff1d(np.arange(n), sets[0].rows)
    assert sets[0].query == queries(problem)[j]
    assert of_row[left_out].min() >= np.delete(of_row, left_out).max()
    counts = model_counts(problem.config)
    assert counts == {"subsets": 6, "controls": 4, "qld": 2 * 2 * len(method_names(problem.config)),
                      "top_k": 2 * len(method_names(problem.config))}  # fmt: skip
    # A model for each query is trained for the smallest share alone.
    two = problem_of(folder, remove=[0.2, 0.1], removed_queries=2)
    kinds = [(s.kind, s.share) for s in without_top(two, "mine", values)]
    assert kinds == [("top-k", 0.2), ("qld", 0.1), ("qld", 0.1), ("top-k", 0.1)]
    found = cells(problem, subsets_table(problem, "r", [*bank(problem), *sets]))
    assert len(found) == 2 * 6 and {c.seed for c in found} == {0, 1}


def test_losses_are_those_of_the_model_and_are_found_again(folder: Path) -> None:
    problem = problem_of(folder)
    cell = base_cell(problem.config)
    assert not has_losses(problem, cell)
    told: list[int] = []
    assert measure_losses(problem, cell, "cpu", told.append) == len(queries(problem)) == sum(told)
    found = read_losses(problem, cell)
    assert has_losses(problem, cell) and len(found.losses) == len(queries(problem))
    assert (found.losses > 0).all() and len(set(found.losses.tolist())) > 1
    (problem.ws.root / found.path).write_bytes(b"damaged")
    assert not has_losses(problem, cell)


def test_the_identity_of_an_audit_holds_what_decides_its_numbers(folder: Path) -> None:
    data = {"pool:pool": "1", "target:target": "2"}
    key = audit_key(config_of(folder), data)
    assert key == audit_key(config_of(folder), data) and len(key) == 16
    others = [
        audit_key(config_of(folder, models=41), data),
        audit_key(config_of(folder), {**data, "pool:pool": "3"}),
        audit_key(config_of(folder, functions=["delift-se"]), data),
    ]
    assert len({key, *others}) == 4
    batches = config_of(folder).model_copy(update={"shards": config_of(folder).shards.model_copy(
        update={"rows": 7})})  # fmt: skip
    assert audit_key(batches, data) == key


def test_what_is_told_of_a_training_is_what_bounds_it(folder: Path) -> None:
    config = config_of(folder)
    assert config.finetune is not None
    by_epochs = config.finetune.model_copy(update={"epochs": 2})
    by_tokens = config.finetune.model_copy(update={"tokens": 900})
    told = [about(config.model_copy(update={"finetune": f})) for f in (by_epochs, by_tokens)]
    assert [(t["epochs"], t["tokens"]) for t in told] == [(2, None), (1, 900)]


def test_means_of_rows_are_those_of_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(size=(50, 7)).astype(np.float32)
    whole = values.astype(np.float64).mean(axis=1)
    assert np.array_equal(row_means(values), whole)
    monkeypatch.setattr("nncift_core.pipeline.attribution._FLOATS", 20)
    assert np.array_equal(row_means(values), whole) and len(row_means(values[:0])) == 0


def test_sets_without_losses_are_left_out_and_the_others_measured(folder: Path) -> None:
    problem = problem_of(folder, models=3, tests=["lds"])
    sets = bank(problem)
    found = cells(problem, subsets_table(problem, "r", sets))
    values = random_values(problem.pool.contents, queries(problem), 0)
    method = Subject("m", "f", "exact", False)
    for cell in found[:2]:
        write_losses(problem, cell)
    measured = Measures(problem, found[:2], sets[:2])
    lds = measured.of_bank(method, values)
    assert lds and all(-1 <= r["value"] <= 1 for r in lds)
    one = Measures(problem, found[:1], sets[:1])
    assert one.of_bank(method, values) == [] and one.agreement() is None


def write_losses(problem: Problem, cell: Cell) -> None:
    """Losses of a model that was never trained."""
    contents = np.sort(queries(problem))
    rng = np.random.default_rng(len(cell.subset) + cell.rows.sum())
    table = pa.table({"content_id": contents, "loss": rng.random(len(contents))})
    key = loss_key(problem, cell)
    publish(
        problem.ws.root, problem.ws.evaluation_file(key), lambda part: pq.write_table(table, part),
        kind="evaluation-scores", key=key, rows=len(table), producer="test",
    )  # fmt: skip


def test_planted_rows_are_judged_by_mean_value_and_copies_by_their_own_query() -> None:
    from nncift_core.store.references import DatasetRef

    ref = DatasetRef(role="pool", dataset="p", version="v", path="p", rows=5)
    contents, wanted = np.array([10, 11, 12, 13, 14]), np.array([14, 99])
    planted = Planted(ref, np.array([10]), np.array([14]), 0)
    values = np.array([[0.0, 0.0], [1, 1], [2, 0], [0.5, 3], [9, 9]], np.float32)
    found = {
        r["metric"]: r
        for r in of_planted(Subject("m", "f", "exact", False), values, contents, wanted, planted)
    }
    # The copy is no other row for the wrong one, whatever its value.
    assert found["wrong auc"]["value"] == 1 and found["wrong auc"]["n"] == 1
    assert found["duplicate rank"]["value"] == 1 and found["duplicate recall@1"]["value"] == 1
    assert json.dumps(list(found.values()))
