"""Rows: what is learned of them, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from finetune.small import PAIRS, ROWS, job, rows_of, tuned

from nncift_core.errors import UserError
from nncift_core.finetune import encode, student
from nncift_core.finetune.batches import padded
from nncift_core.language_models import LanguageModel, load_tokenizer


def test_only_the_response_is_learned_even_when_the_prompt_speaks_the_template(tiny: LanguageModel) -> None:
    pairs = [("Say Response: twice.\nResponse: no", "Response: Response:"), ("short", "a")]
    template = "Instruction: {prompt}\nResponse: "
    encoded = encode(tiny, rows_of(pairs), template)
    batch = padded(encoded, [0, 1], pad=7)
    for k, (prompt, response) in enumerate(pairs):
        before = tiny.tokenizer.encode(f"Instruction: {prompt}\nResponse: ", add_special_tokens=False)
        after = [*tiny.tokenizer.encode(response, add_special_tokens=False), tiny.eos_id]
        n, padding = len(before) + len(after), batch["input_ids"].shape[1] - len(before) - len(after)
        assert batch["input_ids"][k].tolist() == before + after + [7] * padding
        assert batch["labels"][k].tolist() == [-100] * len(before) + after + [-100] * padding
        assert batch["attention_mask"][k].tolist() == [1] * n + [0] * padding
    assert batch["attention_mask"][1].min() == 0
    assert encoded.response_tokens == int((batch["labels"] != -100).sum())
    assert encoded.tokens == int(batch["attention_mask"].sum()) and encoded.truncated == 0


def test_rows_longer_than_the_context_lose_the_prompts_start_and_are_counted(tiny: LanguageModel) -> None:
    encoded = encode(tiny, rows_of([("word " * 3000, "yes"), ("hi", "no")]), "{prompt}")
    response = [*tiny.tokenize(["yes"])[0], tiny.eos_id]
    assert len(encoded.sequences[0]) == 1024 and encoded.truncated == 1
    assert encoded.sequences[0][encoded.n_prompt[0] :] == response


def test_a_tokenizer_alone_is_enough_to_count() -> None:
    unloaded = load_tokenizer(student(job()))
    assert encode(unloaded, ROWS, "{prompt} ").tokens > 0


def test_responses_without_tokens_are_refused_by_name(tmp_path: Path) -> None:
    rows = rows_of([*PAIRS[:3], *[("p", "")] * 7])
    with pytest.raises(UserError) as e:
        tuned(tmp_path / "a", rows=rows)
    text = str(e.value)
    assert "7 of 10" in text and 'example 1003, pool row 3 (id "r3")' in text
    assert 'pool row 7 (id "r7")' in text and "pool row 8" not in text and "and 2 more" in text


def test_responses_that_the_context_leaves_nothing_of_are_refused_by_name(tiny: LanguageModel) -> None:
    short = replace(tiny, context_length=1)
    with pytest.raises(UserError, match=r"2 of 2 training rows lose .* 1 tokens: example 1000, pool row 0"):
        encode(short, rows_of([("a", "yes"), ("b", "no")]), "{prompt}")
    # One token of context more, and a response's first token is learned.
    assert encode(replace(tiny, context_length=2), rows_of([("a", "yes")]), "{prompt}").response_tokens == 1
