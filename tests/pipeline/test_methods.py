"""Methods that are compared: which there are, under which config, and which labels an estimate sees."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pipeline.priced import COLUMNS, ROWS, Priced, config, problem, register

from nncift_core.config import parse_config
from nncift_core.errors import UserError
from nncift_core.pipeline.exact import compute_exact, plan_exact
from nncift_core.pipeline.matrix import OwnValues
from nncift_core.pipeline.methods import Method, check_methods, method_config, methods_of
from nncift_core.pipeline.problem import Problem

JOB: dict[str, Any] = {
    "pool": {"source": "pool.jsonl"},
    "target": {"source": "target.jsonl", "test": "held.jsonl"},
    "finetune": {},
}


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Problem]:
    register(monkeypatch)

    def made(pool: range = range(ROWS), columns: int = COLUMNS, **settings: Any) -> Problem:
        return problem(tmp_path, config(**settings), pool, columns)

    return made


def test_a_method_stands_once_for_each_function_value_and_teacher() -> None:
    compare = {"functions": ["delift", "delift-se"], "teachers": {"small": {"model": "builtin"}}}
    found = [m.name for m in methods_of(parse_config({**JOB, "compare": compare}))]
    assert found == [
        "bm25", "similarity",
        "delift, exact", "delift, estimated", "delift by small, exact", "delift by small, estimated",
        "delift-se, exact", "delift-se, estimated",
    ]  # fmt: skip


def test_without_functions_the_job_compares_its_own() -> None:
    job = {**JOB, "influence": {"function": "less"}, "compare": {"rivals": ["base", "random"]}}
    assert methods_of(parse_config(job)) == [Method("less", "exact"), Method("less", "estimated")]


def test_every_method_has_the_rule_of_its_function_and_rivals_take_the_highest_scores() -> None:
    job = parse_config(
        {**JOB, "influence": {"function": "delift"}, "selection": {"rule": "fl", "mode": "sparse"}}
    )
    own = method_config(job, Method("delift", "exact"))
    assert own.resolve_rule() == "fl" and own.selection.mode == "sparse" and own.influence.label_fraction == 1
    assert method_config(job, Method("delift-se", "exact")).resolve_rule() == "flmi"
    assert method_config(job, Method("less", "estimated")).resolve_rule() == "top-k"
    rival = method_config(job, Method("delift-se", rival="similarity"))
    assert rival.resolve_rule() == "top-k" and rival.finetune is None
    # As a worker process reads it again.
    for made in (own, rival):
        assert parse_config(made.model_dump(mode="json")) == made.model_copy(
            update={"base_dir": str(Path.cwd())}
        )


def test_a_teacher_is_the_language_model_of_its_methods_alone() -> None:
    job = parse_config({**JOB, "compare": {"teachers": {"chat": {"model": "other", "dtype": "float32"}}}})
    assert method_config(job, Method("delift", "exact", "chat")).language_model.model == "other"
    assert method_config(job, Method("delift", "exact")).language_model.model == "builtin"


def test_functions_without_a_model_are_learned_from_a_block_where_the_job_names_no_design() -> None:
    job = parse_config(JOB)
    assert method_config(job, Method("delift-se", "estimated")).influence.labels == "block"
    assert method_config(job, Method("delift", "estimated")).influence.labels == "auto"


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"functions": ["delft"]}, "no such influence function as 'delft'"),
        ({"functions": ["less", "less"]}, "twice"),
        ({"rivals": ["nobody"]}, "compare.rivals"),
        ({"teachers": {"Big One": {}}}, "small letters"),
        ({"teacher": {}}, "teachers"),
    ],
)
def test_wrong_sections_are_told_by_field(section: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        parse_config({**JOB, "compare": section})


@pytest.mark.parametrize("labels", ["block", "scattered"])
def test_an_estimated_matrix_takes_only_the_exact_values_it_asked_for(
    make: Callable[..., Problem], labels: str
) -> None:
    p = make(labels=labels)
    plan = plan_exact(p)
    for shard in plan.shards:
        compute_exact(p, Priced(), shard)
    asked = p.exact_store.coverage(p.rows, p.columns)
    # Another job of the same function leaves all values here.
    everything = make(label_fraction=1.0)
    for shard in plan_exact(everything).shards:
        compute_exact(everything, Priced(), shard)
    p.exact_store.refresh()
    assert p.exact_store.coverage(p.rows, p.columns).all() and not asked.all()

    own = OwnValues(p.exact_store, plan_exact(replace(p, own_values=True)))
    np.testing.assert_array_equal(own.coverage(p.rows, p.columns), asked)
    values = np.full(asked.shape, -7, np.float32)
    own.fill(p.rows, p.columns, values)
    truth = np.empty(asked.shape, np.float32)
    p.exact_store.fill(p.rows, p.columns, truth)
    np.testing.assert_array_equal(values, np.where(asked, truth, -7))


@pytest.mark.parametrize(
    ("sections", "methods", "said"),
    [
        (
            {"influence": {"label_fraction": 1.0}},
            [Method("less", "estimated")],
            "nothing is left to estimate",
        ),
        (
            {
                "influence": {"delift": {"template_without": "Q: {prompt} A: "}},
                "compare": {"teachers": {"chat": {"template": "chat"}}},
            },
            [Method("delift", "exact"), Method("delift", "exact", "chat")],
            "the method 'delift by chat, exact': .*keep one",
        ),
    ],
)
def test_what_no_method_could_use_is_told_before_anything_is_computed(
    sections: dict[str, Any], methods: list[Method], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        check_methods(parse_config({**JOB, **sections}), methods, fetch=False)


def test_rows_already_trained_on_count_for_the_function_that_has_the_rule_for_them() -> None:
    selection = {"rule": "flcg", "existing": {"source": "old.jsonl"}}
    job = parse_config({**JOB, "influence": {"function": "delift-se"}, "selection": selection})
    assert method_config(job, Method("delift-se", "exact")).selection.existing is not None
    for other in (Method("less", "exact"), Method("bm25", rival="bm25"), Method("delift", "estimated")):
        assert method_config(job, other).selection.existing is None
