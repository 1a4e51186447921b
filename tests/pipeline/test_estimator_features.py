"""Features of estimators in the workspace: which are wanted, planned, computed once, resumed and loaded."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ORACLES, oracle_rows, write_jsonl

from nncift_core.bm25 import Okapi
from nncift_core.config import Config, LanguageModelConfig, parse_config
from nncift_core.config_sections import CHEAP, LEARNED
from nncift_core.encoders import example_text
from nncift_core.errors import RunError
from nncift_core.estimator.contract import PAIR_FEATURES, SIDE_GROUPS, Features
from nncift_core.forward_features import ForwardFeatures
from nncift_core.language_models import LanguageModel, load_language_model
from nncift_core.pipeline import estimator_features
from nncift_core.pipeline.embed import embed_shard, embedded_parts, embeddings_needed, plan_embed
from nncift_core.pipeline.estimator_features import (
    ForwardShard,
    compute_estimator_features,
    estimator_features_needed,
    features_key,
    groups_of,
    load_features,
    plan_estimator_features,
    readable,
)
from nncift_core.pipeline.inputs import read_inputs
from nncift_core.pipeline.problem import Keys, Problem
from nncift_core.store.dataset_writer import store_dataset
from nncift_core.store.workspace import Workspace

TINY = str(ORACLES / "tiny-lm")
FORWARD = {"hidden", "error", "loss"}
# The prompt of a target row that is a pool row, too.
SHARED = 2


class WordLengths:
    """An encoder whose unit vectors are easily made by hand."""

    def __init__(self) -> None:
        self.truncated, self.asked = 0, 0

    def embed(
        self, texts: Sequence[str], progress: Callable[[int], None] | None = None, prefix: str = ""
    ) -> np.ndarray:
        self.asked += len(texts)
        return np.stack([vector(prefix + text) for text in texts])


def vector(text: str) -> np.ndarray:
    x = np.array([len(text), text.count("e"), text.count(" "), 1], np.float32)
    return np.asarray(x / np.linalg.norm(x))


def config(**sections: Any) -> Config:
    job: dict[str, Any] = {
        "pool": {"source": "pool.jsonl"},
        "target": {"source": "target.jsonl"},
        "language_model": {"model": TINY},
        "influence": {"function": "less", "label_fraction": 0.3},
        "shards": {"rows": 16, "columns": 16},
    }
    for name, keys in sections.items():
        job[name] = job.get(name, {}) | keys
    return parse_config(job)


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    torch.set_num_threads(1)
    return load_language_model(LanguageModelConfig(model=TINY), "cpu")


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Problem]:
    """A stored problem over the oracle's rows; every call is another view of the same workspace."""
    pool, target = oracle_rows("pool"), oracle_rows("target")
    target = target + pool[:SHARED]
    write_jsonl(tmp_path / "pool.jsonl", pool)
    write_jsonl(tmp_path / "target.jsonl", target)

    def problem(prefix: str = "", **sections: Any) -> Problem:
        c = config(**sections).model_copy(update={"base_dir": str(tmp_path)})
        ws = Workspace.create(tmp_path / "ws")
        refs = [
            store_dataset(
                ws, i.examples, dataset=i.name, role=i.role, block_rows=16, fingerprint=i.fingerprint
            )
            for i in read_inputs(c)
        ]
        keys = Keys("words", "function", column_encoder="prefixed words" if prefix else None)
        return Problem.load(ws, c, keys, refs)

    return problem


def prepared(problem: Problem, model: LanguageModel) -> Problem:
    """With every vector that its features need."""
    for shard in plan_embed(problem)[0]:
        embed_shard(problem, WordLengths(), shard)  # type: ignore[arg-type]
    for forward in plan_estimator_features(problem)[0]:
        # As a task gets it.
        plain = json.loads(json.dumps(asdict(forward)))
        compute_estimator_features(problem, model, ForwardShard(**plain))
    return problem


def test_every_group_of_a_pairwise_function_that_asks_a_model() -> None:
    assert readable(config()) == groups_of(config()) == (*SIDE_GROUPS, *PAIR_FEATURES)
    assert estimator_features_needed(config()) and embedded_parts(config()) == ("example", "response")


def test_functions_without_a_model_or_a_target_have_no_features_of_it() -> None:
    without = set(groups_of(config(influence={"function": "delift-se"})))
    assert without == {*SIDE_GROUPS, *PAIR_FEATURES} - FORWARD - {"gradient proxy"}
    pointwise = config(influence={"function": "selectit"})
    assert set(groups_of(pointwise)) == {*SIDE_GROUPS, "length"}
    assert estimator_features_needed(pointwise)
    other = config(influence={"function": "selectit", "selectit": {"models": [TINY]}})
    assert set(groups_of(other)) == {*SIDE_GROUPS, "length"} - FORWARD
    assert not estimator_features_needed(config(influence={"function": "length"}))


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [
        ("mlp-paper", {"embedding"}),
        ("cosine", {"embedding cosine"}),
        ("bm25", {"bm25"}),
        ("length", {"length"}),
        ("proxy", {"gradient proxy"}),
        ("constant", set()),
        ("means", set()),
        ("random", set()),
    ],
)
def test_an_estimator_that_reads_little_costs_little(architecture: str, expected: set[str]) -> None:
    c = config(estimator={"architecture": architecture})
    assert set(readable(c)) == expected
    assert set(groups_of(c)) == expected | {"embedding cosine", "bm25", "length"}
    assert estimator_features_needed(c) == (architecture == "proxy")
    assert embedded_parts(c) == ("example",)


def test_every_other_estimator_reads_everything() -> None:
    little = {"mlp-paper", *CHEAP}
    for name in {*LEARNED, *CHEAP} - little:
        assert readable(config(estimator={"architecture": name})) == (*SIDE_GROUPS, *PAIR_FEATURES)
    few = config(estimator={"candidates": ["mlp-paper"]})
    assert set(readable(few)) == {"embedding", "embedding cosine", "bm25", "length", "gradient proxy"}


def test_groups_can_be_switched_off() -> None:
    c = config(estimator={"features": ["response", "loss"]})
    assert readable(c) == ("response", "loss", "response cosine")
    # What baselines read stays.
    assert set(groups_of(c)) == {*readable(c), "embedding cosine", "bm25", "length"}
    lengths = config(influence={"function": "selectit"}, estimator={"features": ["lengths"]})
    assert groups_of(lengths) == ("lengths", "length") and not embeddings_needed(lengths)
    assert embeddings_needed(config(influence={"function": "delift-se", "label_fraction": 1}))
    assert not embeddings_needed(config(influence={"label_fraction": 1}))


def test_each_content_is_computed_once_and_a_killed_task_keeps_its_pieces(
    make: Callable[..., Problem], model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimator_features, "PIECE", 8)
    monkeypatch.setattr(estimator_features, "SHARD", 16)
    problem = make()
    shards, total = plan_estimator_features(problem)
    contents = np.union1d(problem.rows, problem.columns)
    assert total == len(contents) == len(problem.rows) + len(problem.columns) - SHARED
    planned = [c for shard in shards for c in shard.content_ids]
    assert sorted(planned) == contents.tolist() and max(len(s.content_ids) for s in shards) == 16
    done = 0

    def stop(k: int) -> None:
        nonlocal done
        done += k
        if done > 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compute_estimator_features(problem, model, shards[0], stop)
    again, same = plan_estimator_features(make())
    assert same == total and sum(len(s.content_ids) for s in again) == total - 8
    counts = [compute_estimator_features(problem, model, shard) for shard in shards]
    assert sum(counts) == total - 8
    assert plan_estimator_features(make())[0] == []
    assert compute_estimator_features(problem, model, shards[0]) == 0
    # Another function with the same model and template finds them, another template does not.
    assert plan_estimator_features(make(influence={"function": "delift"}))[0] == []
    other = make(influence={"function": "less", "less": {"template": "Q: {prompt} A: "}})
    assert sum(len(s.content_ids) for s in plan_estimator_features(other)[0]) == total


def test_nothing_is_planned_where_nothing_is_estimated(make: Callable[..., Problem]) -> None:
    assert plan_estimator_features(make(influence={"label_fraction": 1.0})) == ([], 0)
    assert plan_estimator_features(make(influence={"function": "bm25"})) == ([], 0)


def test_responses_are_embedded_beside_their_examples(make: Callable[..., Problem]) -> None:
    problem, encoder = make(), WordLengths()
    shards, total = plan_embed(problem)
    contents = np.union1d(problem.rows, problem.columns)
    assert total == 2 * len(contents)
    assert {s.part for s in shards} == {"example", "response"}
    assert len({s.name for s in shards}) == len(shards)
    for shard in shards:
        assert embed_shard(problem, encoder, shard) == len(shard.content_ids)  # type: ignore[arg-type]
    assert encoder.asked == total and plan_embed(make())[0] == []
    texts = problem.texts(contents)
    found = problem.response_vectors("column").load(contents)
    np.testing.assert_array_equal(found, [vector(r) for r in texts.responses])
    off = make(estimator={"architecture": "mlp-paper"})
    assert plan_embed(off) == ([], len(contents))


def test_sides_with_prefixes_of_their_own_have_vectors_of_their_own(
    make: Callable[..., Problem], model: LanguageModel
) -> None:
    problem = prepared(make("query: ", encoder={"target_prefix": "query: "}), model)
    features = load_features(problem, problem.rows, problem.columns)
    rows, columns = problem.texts(problem.rows), problem.texts(problem.columns)
    np.testing.assert_array_equal(features.rows["response"], [vector(r) for r in rows.responses])
    expected = [vector(f"query: {r}") for r in columns.responses]
    np.testing.assert_array_equal(features.columns["response"], expected)


def expected_side(texts: Any, model: LanguageModel, problem: Problem) -> dict[str, np.ndarray]:
    made = ForwardFeatures(model, problem.config.influence.less.template)
    forward = made.layout.split(made.compute(texts.prompts, texts.responses))
    characters = np.log1p([[len(p), len(r)] for p, r in zip(texts.prompts, texts.responses, strict=True)])
    pairs = list(zip(texts.prompts, texts.responses, strict=True))
    return {
        "embedding": np.array([vector(example_text(p, r)) for p, r in pairs]),
        "response": np.array([vector(r) for _, r in pairs]),
        "lengths": np.concatenate([characters, forward["tokens"]], axis=1),
        "hidden": forward["hidden"],
        "error": forward["error"],
        "loss": forward["loss"],
        "proxy": forward["proxy"],
    }


def close(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5 * max(1.0, float(np.abs(expected).max())))


def test_what_is_loaded_is_what_the_texts_give(make: Callable[..., Problem], model: LanguageModel) -> None:
    problem = prepared(make(), model)
    rng = np.random.default_rng(0)
    row_ids = rng.permutation(problem.rows)[:9]
    column_ids = rng.permutation(problem.columns)[:5]
    features = load_features(problem, row_ids, column_ids)
    rows, columns = problem.texts(row_ids), problem.texts(column_ids)
    r, c = expected_side(rows, model, problem), expected_side(columns, model, problem)
    assert tuple(features.rows) == tuple(features.columns) == SIDE_GROUPS
    assert tuple(features.pairs) == PAIR_FEATURES
    for name in SIDE_GROUPS:
        close(features.rows[name], r[name])
        close(features.columns[name], c[name])

    def cosine(name: str) -> np.ndarray:
        u, v = (x[name] / np.linalg.norm(x[name], axis=1, keepdims=True) for x in (r, c))
        return np.asarray(u @ v.T)

    close(features.pairs["embedding cosine"].tile(), cosine("embedding"))
    close(features.pairs["response cosine"].tile(), cosine("response"))
    close(features.pairs["gradient proxy"].tile(), cosine("proxy"))
    length = np.log1p([len(x) for x in rows.responses])
    close(features.pairs["length"].tile(), np.repeat(length[:, None], 5, axis=1))
    pool = problem.texts(problem.pool.contents)
    texts = [
        [example_text(p, q) for p, q in zip(t.prompts, t.responses, strict=True)]
        for t in (pool, rows, columns)
    ]
    close(features.pairs["bm25"].tile(), Okapi.fit(texts[0]).scores(texts[1], texts[2]))
    i, j = np.array([3, 0, 8]), np.array([4, 1, 0])
    for name in PAIR_FEATURES:
        close(features.pairs[name].at(i, j), features.pairs[name].tile()[i, j])


def test_a_pointwise_function_has_rows_alone(make: Callable[..., Problem], model: LanguageModel) -> None:
    problem = prepared(make(influence={"function": "selectit"}), model)
    features: Features = load_features(problem, problem.rows, problem.columns)
    assert features.pointwise and features.shape == (len(problem.rows), 1)
    assert tuple(features.rows) == SIDE_GROUPS and tuple(features.pairs) == ("length",)
    assert features.pairs["length"].tile().shape == features.shape


def test_words_are_counted_once(
    make: Callable[..., Problem], model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = prepared(make(), model)
    fits, fit = [], Okapi.fit

    def counted(*args: Any) -> Okapi:
        fits.append(len(args[0]))
        return fit(*args)

    monkeypatch.setattr(Okapi, "fit", counted)
    for _ in range(2):
        load_features(problem, problem.rows[:3], problem.columns[:3])
    assert fits == [len(problem.pool.contents)]


def test_a_model_without_hidden_states_leaves_its_groups_out(
    make: Callable[..., Problem], monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = load_language_model(LanguageModelConfig(model=TINY), "cpu")
    monkeypatch.setattr(bare.model, "get_output_embeddings", lambda: None)
    problem = prepared(make(), bare)
    features = load_features(problem, problem.rows, problem.columns)
    assert {"hidden", "error"}.isdisjoint(features.rows) and "loss" in features.rows
    assert "gradient proxy" not in features.pairs and features.rows["lengths"].shape[1] == 4


def test_absent_vectors_are_said_to_be_absent(make: Callable[..., Problem]) -> None:
    with pytest.raises(RunError, match="run again to compute it"):
        load_features(make(), *(np.array([c]) for c in (make().rows[0], make().columns[0])))


def test_the_key_follows_everything_that_changes_what_is_read(make: Callable[..., Problem]) -> None:
    variants: list[dict[str, Any]] = [
        {},
        {"estimator": {"features": ["embedding"]}},
        {"estimator": {"architecture": "mlp-paper"}},
        {"influence": {"less": {"template": "Q: {prompt} A: "}}},
        {"influence": {"bm25": {"k1": 2.0}}},
        {"language_model": {"dtype": "bfloat16"}},
        {"prefix": "query: "},
    ]
    keys = [features_key(make(**v)) for v in variants]
    assert len(set(keys)) == len(variants)
    assert features_key(make(shards={"rows": 7})) == keys[0]
