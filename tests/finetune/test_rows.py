"""Rows: what is learned of them, what is refused, and the order and size in which they come."""

from __future__ import annotations

from pathlib import Path

import pytest
from finetune.small import PAIRS, ROWS, job, rows_of, tuned

from nncift_core.errors import UserError
from nncift_core.finetune import encode, student
from nncift_core.finetune.loop import Collator, RowOrder, micro_batch
from nncift_core.language_models import LanguageModel, load_tokenizer


def test_only_the_response_is_learned_even_when_the_prompt_speaks_the_template(tiny: LanguageModel) -> None:
    pairs = [("Say Response: twice.\nResponse: no", "Response: Response:"), ("short", "a")]
    template = "Instruction: {prompt}\nResponse: "
    encoded = encode(tiny, rows_of(pairs), template)
    examples = [
        {"input_ids": ids, "n_prompt": n} for ids, n in zip(encoded.sequences, encoded.n_prompt, strict=True)
    ]
    batch = Collator(pad=7)(examples)
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


@pytest.mark.parametrize(
    ("longest", "batch_size", "batch_tokens", "micro"),
    [(100, 16, 8192, 16), (100, 16, 800, 8), (100, 16, 1599, 8), (100, 6, 500, 3), (9000, 16, 8192, 1)],
)
def test_micro_batch_is_a_divisor_that_fits(
    longest: int, batch_size: int, batch_tokens: int, micro: int
) -> None:
    assert micro_batch(longest, batch_size, batch_tokens) == micro


def test_every_epoch_has_an_order_of_its_own_longest_first_within_a_step() -> None:
    lengths = [3, 9, 4, 1, 7, 7, 2, 8, 5, 6]
    order = RowOrder(lengths, 4, seed=3)
    epochs = []
    for epoch in range(3):
        order.set_epoch(epoch)
        rows = list(order)
        assert sorted(rows) == list(range(10)) and rows == list(order)
        for start in range(0, 10, 4):
            step = [lengths[k] for k in rows[start : start + 4]]
            assert step == sorted(step, reverse=True)
        epochs.append(tuple(rows))
    assert len(set(epochs)) == 3
    assert list(RowOrder(lengths, 4, seed=4)) != list(RowOrder(lengths, 4, seed=3))


def test_epochs_take_their_rows_in_their_own_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[int] = []
    set_epoch = RowOrder.set_epoch

    def noted(order: RowOrder, epoch: int) -> None:
        seen.append(epoch)
        set_epoch(order, epoch)

    monkeypatch.setattr(RowOrder, "set_epoch", noted)
    tuned(tmp_path / "a", job(epochs=3))
    assert sorted(set(seen)) == [0, 1, 2]
