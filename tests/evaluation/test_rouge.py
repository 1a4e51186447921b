"""ROUGE against the reference package and by hand; hostile texts."""

from __future__ import annotations

import json

import pytest
from rouge_score.rouge_scorer import RougeScorer

from nncift_core.builtin import data_path
from nncift_core.evaluation import rouge_scores


def test_equals_the_reference_package_on_real_rows() -> None:
    lines = data_path("pool").read_text(encoding="utf-8").splitlines()[:120]
    texts = [json.loads(line)["output"] for line in lines]
    references, answers = texts[:60], texts[60:]
    found = rouge_scores(references, answers)
    plain = RougeScorer(["rouge1", "rougeL"], use_stemmer=True)
    expected = [plain.score(r, a) for r, a in zip(references, answers, strict=True)]
    assert found.rouge1.tolist() == [e["rouge1"].fmeasure for e in expected]
    assert found.rougeL.tolist() == [e["rougeL"].fmeasure for e in expected]
    assert found.rouge1.max() > 0.2 and (found.empty_references, found.clipped) == (0, 0)


def test_by_hand() -> None:
    # Words: "the cat sat" / "sat the cat down": all 3 of 3 and 3 of 4 shared, common subsequence 2.
    found = rouge_scores(["The cat, sat."], ["Sat! The cat down"])
    assert found.rouge1[0] == pytest.approx(2 * 1 * 0.75 / 1.75)
    assert found.rougeL[0] == pytest.approx(2 * (2 / 3) * 0.5 / (2 / 3 + 0.5))


def test_stems_count_as_equal() -> None:
    # runs, running -> run, but quickly -> quickli.
    assert rouge_scores(["runs quickly"], ["running quick"]).rouge1[0] == 0.5


def test_words_that_are_none_are_not_stemmed() -> None:
    # nltk before 3.10 breaks on long runs of y, so such words never reach its stemmer.
    assert rouge_scores(["y" * 60 + "s", "y" * 64 + "s"], ["y" * 60, "y" * 64]).rouge1.tolist() == [1, 0]


def test_references_without_words_score_zero_and_are_counted() -> None:
    found = rouge_scores(["", "日本語 …", "ok", "!?"], ["", "日本語 …", "", ""])
    assert found.rouge1.tolist() == found.rougeL.tolist() == [0, 0, 0, 0]
    assert found.empty_references == 3


def test_only_the_first_512_words_count_and_clipping_is_counted() -> None:
    words = [f"w{k}" for k in range(600)]
    found = rouge_scores(
        [" ".join(words), " ".join(words[:512]), "w0", " ".join(words)],
        [" ".join(words[:512]), " ".join(words[:512]), " ".join(words), " ".join(words[512:])],
    )
    assert found.rouge1[:2].tolist() == found.rougeL[:2].tolist() == [1, 1]
    assert found.rouge1[2] == pytest.approx(2 / 513) and found.rouge1[3] == 0
    assert found.clipped == 3


@pytest.mark.parametrize(
    "text",
    [
        "y" * 200_000,
        "ab " * 66_000,
        "\x00\x1b[2J\u202e" * 50_000,
        "🙂" * 200_000,
        "aeiouy" * 33_000,
        "İ" * 200_000,
        "\ud800",
    ],
    ids=["one word of y", "many words", "control", "emoji", "vowels", "dotted capital", "lone surrogate"],
)
def test_hostile_texts_neither_stall_nor_crash(text: str) -> None:
    found = rouge_scores([text, text, "plain words"], [text, "plain words", text])
    assert found.rouge1[0] in (0, 1)
    assert found.rouge1[1:].tolist() == [0, 0]


def test_unequal_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        rouge_scores(["a", "b"], ["a"])
