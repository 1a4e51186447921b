"""Multiple choice by likelihood: which rows are some, and against log-probabilities computed by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from nncift_core.config import LanguageModelConfig
from nncift_core.errors import UserError
from nncift_core.evaluation import HeldOut, choice_accuracy, choice_of, options_of, score_rows
from nncift_core.language_models import LanguageModel, load_language_model

TINY = Path(__file__).parents[1] / "data" / "oracles" / "tiny-lm"
TEMPLATE = "Instruction: {prompt}\nResponse: "
MMLU = "Which is a bird?\nA. Whale\nB. Robin\nC. Trout"
BBH = "Who is first?\nOptions:\n(A) Ann\n(B) Bob"


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return load_language_model(LanguageModelConfig(model=str(TINY)), "cpu")


@pytest.mark.parametrize(
    ("prompt", "options"),
    [
        (MMLU, ["Whale", "Robin", "Trout"]),
        (BBH, ["Ann", "Bob"]),
        ("Q\nA) x\nB) y", ["x", "y"]),
        ("A. 1\nB. 2\nThen\nA. 3\nB. 4\nC. 5", ["3", "4", "5"]),
        ("A. one of\nseveral lines\nB. two", ["one of", "two"]),
        ("A. only one", []),
        ("A. one\nC. three", []),
        ("A. one\n(B) two", []),
        ("(A) one (B) two", []),
        ("a. one\nb. two", []),
        ("no options", []),
    ],
    ids=[
        "mmlu", "bbh", "bracket", "last list", "long option", "single", "gap", "styles", "one line", "small",
        "none",
    ],
)  # fmt: skip
def test_options_are_the_last_list_of_the_prompt(prompt: str, options: list[str]) -> None:
    assert options_of(prompt) == options


@pytest.mark.parametrize(
    ("prompt", "reference", "candidates", "right"),
    [
        (MMLU, "B", ("A", "B", "C"), 1),
        (MMLU, "B.", ("A.", "B.", "C."), 1),
        (BBH, "(A)", ("(A)", "(B)"), 0),
        (BBH, " (B)", (" (A)", " (B)"), 1),
        (MMLU, "robin.", ("Whale", "Robin", "Trout"), 1),
        (MMLU, "C. Trout", ("A. Whale", "B. Robin", "C. Trout"), 2),
    ],
)
def test_candidates_have_the_form_of_the_reference(
    prompt: str, reference: str, candidates: tuple[str, ...], right: int
) -> None:
    found = choice_of(prompt, reference)
    assert found is not None and (found.candidates, found.right) == (candidates, right)


@pytest.mark.parametrize("reference", ["D", "Eagle", "", "C. Robin", "A bird"])
def test_a_reference_that_is_no_option_is_no_choice(reference: str) -> None:
    assert choice_of(MMLU, reference) is None


def by_hand(model: LanguageModel, prompt: str, option: str) -> float:
    """log p of the option's tokens by one plain forward pass, over its bytes."""
    before, after = model.tokenize([TEMPLATE.replace("{prompt}", prompt), option])
    with torch.inference_mode():
        logits = model.model(input_ids=torch.tensor([[*model.bos_ids, *before, *after]])).logits[0]
    at = torch.log_softmax(logits.float(), -1)[len(model.bos_ids) + len(before) - 1 : -1]
    return float(at.gather(1, torch.tensor(after)[:, None]).sum()) / len(option.encode())


def test_the_likeliest_option_is_the_answer(model: LanguageModel) -> None:
    prompts = [MMLU, BBH, "Pick\nA. a long option with many words\nB. no\nC. perhaps a little of both"]
    options = [["A", "B", "C"], ["(A)", "(B)"], options_of(prompts[2])]
    best = [
        int(np.argmax([by_hand(model, p, o) for o in some])) for p, some in zip(prompts, options, strict=True)
    ]
    for shift in (0, 1):
        references = tuple(some[(b + shift) % len(some)] for some, b in zip(options, best, strict=True))
        for tokens in (1, 2048):
            found, left = choice_accuracy(model, HeldOut(tuple(prompts), references), TEMPLATE, tokens)
            assert found.tolist() == [1.0 - shift] * 3 and left == 0


def test_options_that_are_alike_share_the_point(model: LanguageModel) -> None:
    rows = HeldOut(("Pick\nA. same\nB. same",), ("same",))
    assert choice_accuracy(model, rows, TEMPLATE, 512)[0].tolist() == [0.5]


def test_rows_without_options_are_left_out_and_counted(model: LanguageModel) -> None:
    rows = HeldOut((MMLU, "Say hello"), ("A", "Hello"))
    done: list[int] = []
    found = score_rows(
        model, rows, TEMPLATE, ["choice"], max_new_tokens=4, batch_tokens=512, progress=done.append
    )
    assert np.isnan(found.values["choice"]).tolist() == [False, True]
    assert found.counts == {"choice_rows_left_out": 1} and sum(done) == 2 and found.generated is None


def test_every_batch_of_options_is_a_sign_of_life(model: LanguageModel) -> None:
    rows = HeldOut((MMLU, "Say hello", BBH), ("A", "Hello", "(A)"))
    done: list[int] = []
    choice_accuracy(model, rows, TEMPLATE, 1, done.append)
    # The row that is none, then five options one by one: two of them end a row.
    assert done[0] == 1 and len(done) == 6 and sorted(done[1:]) == [0, 0, 0, 1, 1]


def test_no_multiple_choice_row_at_all_is_refused(model: LanguageModel) -> None:
    with pytest.raises(UserError, match=r"evaluation\.metrics: .*none of 2 held-out rows is multiple choice"):
        choice_accuracy(model, HeldOut(("a", "b"), ("c", "d")), TEMPLATE, 512)
