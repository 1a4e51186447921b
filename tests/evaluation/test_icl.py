"""Examples in context: which, in what order, and as many as fit."""

from __future__ import annotations

import dataclasses
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nncift_core.config import LanguageModelConfig
from nncift_core.evaluation import icl, nearest, prompt_groups, with_examples
from nncift_core.language_models import LanguageModel, load_tokenizer

TINY = Path(__file__).parents[1] / "data" / "oracles" / "tiny-lm"
TEMPLATE = "Instruction: {prompt}\nResponse: "
PAIRS = [("near {prompt}", "one"), ("less near", "two"), ("far", "three")]


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return load_tokenizer(LanguageModelConfig(model=str(TINY)))


def text_of(model: LanguageModel, ids: list[int]) -> str:
    text: str = model.tokenizer.decode(ids)
    return text


def test_the_nearest_come_first_and_ties_in_order() -> None:
    vectors = np.eye(4, dtype=np.float32)[[0, 1, 1, 2, 3]]
    queries = np.array([[0.1, 0.9, 0.2, 0.0], [1, 0, 0, 0]], np.float32)
    assert nearest(queries, vectors, 3).tolist() == [[1, 2, 3], [0, 1, 2]]
    assert nearest(queries, vectors[:2], 5).shape == (2, 2)


def plainly(queries: Any, vectors: Any, k: int, groups: Any = None) -> list[list[int]]:
    """`nearest` by the whole matrix of cosines."""
    cosines = queries.astype(np.float64) @ vectors.astype(np.float64).T
    if groups is not None:
        cosines[groups[0][:, None] == groups[1][None, :]] = -np.inf
    order = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
    kept = np.isfinite(np.take_along_axis(cosines, order, axis=1))
    found: list[list[int]] = np.where(kept, order, -1).tolist()
    return found


@pytest.mark.parametrize("k", [1, 5, 23, 40])
def test_blocks_give_what_the_whole_matrix_gives(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(icl, "_QUERIES", 3)
    monkeypatch.setattr(icl, "_CANDIDATES", 7)
    rng = np.random.default_rng(0)
    # Halves are exact in every order of adding, so most of these cosines are ties.
    tied = [rng.choice([-0.5, 0.5], (n, 4)).astype(np.float32) for n in (8, 23)]
    free = [rng.normal(size=(n, 4)).astype(np.float32) for n in (8, 23)]
    groups = rng.integers(0, 3, 8), rng.integers(0, 3, 23)
    alive: list[int] = []
    for queries, vectors in (tied, free):
        assert nearest(queries, vectors, k, progress=alive.append).tolist() == plainly(queries, vectors, k)
        some = nearest(queries, vectors, k, groups)
        assert some.tolist() == plainly(queries, vectors, k, groups) and (k < 23 or (some == -1).any())
    assert alive == [0] * 24
    assert nearest(tied[0], tied[1][:0], k).shape == (8, 0) and nearest(tied[0][:0], tied[1], 1).shape == (
        0,
        1,
    )


def test_a_large_pool_needs_no_matrix_of_cosines() -> None:
    rng = np.random.default_rng(0)
    queries, vectors = (rng.normal(size=(n, 8)).astype(np.float32) for n in (1024, 16_384))
    tracemalloc.start()
    try:
        found = nearest(queries, vectors, 5)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < queries.shape[0] * vectors.shape[0] * 8 / 2
    assert found[:20].tolist() == plainly(queries[:20], vectors, 5)


def test_prompts_are_alike_but_for_white_space_and_composed_letters() -> None:
    own, others = prompt_groups(["caf\u00e9  at\nnoon ", "", "B"], ["cafe\u0301 at noon", "b", "\t", "B"])
    assert (own[:, None] == others).tolist() == [
        [True, False, False, False], [False, False, True, False], [False, False, False, True],
    ]  # fmt: skip


def test_the_most_similar_example_stands_next_to_the_question(model: LanguageModel) -> None:
    found = with_examples(model, ["What?", "Why?"], [PAIRS, []], TEMPLATE, reserve=8)
    wanted = (
        "Instruction: far\nResponse: three\n\nInstruction: less near\nResponse: two\n\n"
        "Instruction: near {prompt}\nResponse: one\n\nInstruction: What?\nResponse: "
    )
    assert found.prompts == model.tokenize([wanted, "Instruction: Why?\nResponse: "])
    assert (found.dropped, found.bare) == (0, 0)


def test_what_does_not_fit_is_dropped_and_counted_and_a_shorter_one_may_take_its_place(
    model: LanguageModel,
) -> None:
    pairs = [("near", "one"), ("word " * 200, "two"), ("far", "three")]
    kept = with_examples(model, ["What?"], [[pairs[0], pairs[2]]], TEMPLATE, reserve=8).prompts[0]
    short = dataclasses.replace(model, context_length=len(kept) + 8)
    found = with_examples(short, ["What?", "What?"], [pairs, [pairs[1]]], TEMPLATE, reserve=8)
    assert found.prompts[0] == kept and (found.dropped, found.bare) == (2, 1)
    one_less = dataclasses.replace(model, context_length=len(kept) + 7)
    tighter = with_examples(one_less, ["What?"], [pairs], TEMPLATE, reserve=8)
    assert "near" in text_of(model, tighter.prompts[0]) and "far" not in text_of(model, tighter.prompts[0])
    assert tighter.dropped == 2


def test_a_prompt_too_long_alone_keeps_no_example(model: LanguageModel) -> None:
    short = dataclasses.replace(model, context_length=40)
    alive: list[int] = []
    found = with_examples(short, ["word " * 100], [PAIRS], TEMPLATE, reserve=8, progress=alive.append)
    assert alive == [0, 0]
    assert found.prompts == model.tokenize([TEMPLATE.replace("{prompt}", "word " * 100)])
    assert (found.dropped, found.bare) == (3, 1)


def test_a_chat_template_gets_the_examples_as_turns(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = (
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    monkeypatch.setattr(model.tokenizer, "chat_template", template)
    chat = dataclasses.replace(model, template="chat")
    found: Any = with_examples(chat, ["What?"], [PAIRS[1:]], "unused {prompt}", reserve=8)
    assert text_of(model, found.prompts[0]) == (
        "[user]far\n[assistant]three\n[user]less near\n[assistant]two\n[user]What?\n[assistant]"
    )
