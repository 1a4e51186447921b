"""The token rule, the context rule, and prompts cut into what belongs to a row and what to a column."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from nncift_core.config import LanguageModelConfig
from nncift_core.config_sections import TEMPLATE_WITH
from nncift_core.errors import UserError
from nncift_core.language_models import LanguageModel, load_language_model
from nncift_core.sequences import common_prefix, encode_prompts, fill, fit, halves

TINY = Path(__file__).parent / "data" / "oracles" / "tiny-lm"
EXAMPLES = [("Add 2 and 3.", "5"), ("Spell it", "c a t \n"), ("", ""), ("Weigh {prompt}", "naïve 😀")]
PROMPTS = ["What is 2 + 3?", "", " two spaces", "\n\nlines", "Response:", "{example_prompt}"]

Encode = Callable[[np.ndarray, np.ndarray], list[list[int]]]


@pytest.fixture(scope="module")
def tiny() -> LanguageModel:
    return load_language_model(LanguageModelConfig(model=str(TINY)), "cpu")


def encoder(model: LanguageModel, template: str, asked: list[int] | None = None) -> Encode:
    def encode(i: np.ndarray, j: np.ndarray) -> list[list[int]]:
        if asked is not None:
            asked.append(len(i))
        texts = []
        for a, b in zip(i, j, strict=True):
            (x, y), prompt = EXAMPLES[a], PROMPTS[b]
            texts.append(fill(template, example_prompt=x, example_response=y, prompt=prompt))
        return model.tokenize(texts)

    return encode


@pytest.mark.parametrize(("m", "n"), [(4, 6), (4, 1), (1, 6), (1, 1), (2, 5), (4, 2)])
def test_halves_join_to_the_tokens_of_the_whole_text(tiny: LanguageModel, m: int, n: int) -> None:
    asked: list[int] = []
    encode = encoder(tiny, TEMPLATE_WITH, asked)
    found = halves(encode, m, n)
    assert found is not None and sum(asked) == m + n + max(m, n)
    assert (len(found.prefixes), len(found.suffixes)) == (m, n) and all(found.suffixes)
    for a in range(m):
        for b in range(n):
            (whole,) = encode(np.array([a]), np.array([b]))
            assert found.prefixes[a] + found.suffixes[b] == whole
    if m > 1 and n > 1:
        # What belongs to an example is in its prefix.
        x, y = EXAMPLES[0]
        assert len(found.prefixes[0]) >= len(tiny.tokenize([f"Instruction: {x}\nResponse: {y}"])[0])


@pytest.mark.parametrize(
    "template", ["{example_prompt}{example_response}{prompt}", "{prompt} {example_prompt}"]
)
def test_no_halves_where_tokens_may_reach_across_the_border(tiny: LanguageModel, template: str) -> None:
    assert halves(encoder(tiny, template + "."), 4, 6) is None


def test_no_halves_where_a_checked_pair_differs(tiny: LanguageModel) -> None:
    honest = encoder(tiny, TEMPLATE_WITH)

    def odd(i: np.ndarray, j: np.ndarray) -> list[list[int]]:
        whole = honest(i, j)
        return [[9, *ids] if (a, b) == (3, 3) else ids for a, b, ids in zip(i, j, whole, strict=True)]

    assert halves(honest, 4, 6) is not None and halves(odd, 4, 6) is None


def test_common_prefix() -> None:
    assert common_prefix([[1, 2, 3]]) == 3
    assert common_prefix([[1, 2, 3], [1, 2], [1, 2, 9, 9]]) == 2
    assert common_prefix([[1, 2], []]) == 0
    assert common_prefix([[5, 1, 1], [5, 2, 0], [5, 1, 7]]) == 1


def test_plain_prompts_fill_the_template(tiny: LanguageModel) -> None:
    assert tiny.template == "plain"
    texts = ["a {prompt} b", "<|endoftext|>"]
    found = encode_prompts(tiny, texts, "Q: {prompt}\nA: ")
    assert found == tiny.tokenize(["Q: a {prompt} b\nA: ", "Q: <|endoftext|>\nA: "])
    assert tiny.eos_id not in found[1]
    assert encode_prompts(tiny, [], "{prompt}") == []


def test_fit_cuts_the_prompts_front_and_then_the_responses_end(tiny: LanguageModel) -> None:
    model = LanguageModel(**{**vars(tiny), "context_length": 6, "bos_ids": (1,)})
    assert fit(model, [5, 6], [7, 8, 0], "f") == ([1, 5, 6], [7, 8, 0], False)
    assert fit(model, [4, 5, 6], [7, 8, 0], "f") == ([1, 5, 6], [7, 8, 0], True)
    assert fit(model, [5], [1, 2, 3, 4, 5, 6, 7], "f") == ([1], [1, 2, 3, 4, 5], True)
    with pytest.raises(UserError, match="field f: a filled prompt has no tokens"):
        fit(tiny, [], [0], "f")
