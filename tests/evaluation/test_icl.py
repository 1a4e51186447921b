"""Examples in context: which, in what order, and as many as fit."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nncift_core.config import LanguageModelConfig
from nncift_core.evaluation import nearest, with_examples
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
    found = with_examples(short, ["word " * 100], [PAIRS], TEMPLATE, reserve=8)
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
