"""The shipped files: the language model, its tokenizer, the quickstart rows, the training corpus."""

from __future__ import annotations

import csv
import json
import math
import re
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.builtin_lm.artifacts import CORPUS, read_corpus
from benchmarks.builtin_lm.prepare import message, normalise, overlap, reserved
from nncift_core.builtin import data_names, data_path, lm_path
from nncift_core.config import TEMPLATE_WITH, TEMPLATE_WITHOUT
from nncift_core.errors import UserError

COLUMNS = {"id", "source", "task", "instruction", "input", "output"}
TARGETS = ("target", "target_intent")


def rows(name: str) -> list[dict[str, Any]]:
    text = data_path(name).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.split("\n") if line]


@pytest.fixture(scope="module")
def model() -> Any:
    return AutoModelForCausalLM.from_pretrained(lm_path(), dtype=torch.float32).train(False)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(lm_path())


def response_loss(model: Any, tokenizer: Any, prompt: str, response: str) -> tuple[float, int]:
    """Sum of -log p(token) over the response's tokens and eos, and their number."""
    p, r = tokenizer(prompt)["input_ids"], [*tokenizer(response)["input_ids"], tokenizer.eos_token_id]
    ids = torch.tensor([p + r])
    with torch.no_grad():
        logp = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
    picked = logp.gather(1, ids[0, 1:, None])[len(p) - 1 :, 0]
    return -float(picked.sum()), len(r)


def test_model_size_and_shape(model: Any) -> None:
    assert (lm_path() / "model.safetensors").stat().st_size < 3_000_000
    assert sum(p.numel() for p in model.parameters()) == 1_420_672
    assert next(model.parameters()).dtype == torch.float32
    assert model.config.max_position_embeddings == 1024
    assert model.config.tie_word_embeddings
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()


def test_special_tokens(model: Any, tokenizer: Any) -> None:
    assert tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|pad|>"]) == [0, 1]
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.bos_token_id) == (0, 1, None)
    assert (model.config.eos_token_id, model.config.pad_token_id, model.config.bos_token_id) == (0, 1, None)
    assert len(tokenizer) == model.config.vocab_size == 2048


@pytest.mark.parametrize(
    "text",
    [
        "plain words, 1,234.50 $ and  two spaces ",
        "emoji 👩‍🔬🎉 and flags 🇩🇪",
        "עברית ואז english",
        "نص عربي\u200f مع ١٢٣",
        "e\u0301 is not é; line\u2028separator\r\n\ttab",
        " leading space and trailing newline\n",
    ],
)
def test_tokenizer_round_trip(tokenizer: Any, text: str) -> None:
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert 0 not in ids and 1 not in ids


def test_prompt_and_response_give_the_same_tokens_apart_and_joined(tokenizer: Any) -> None:
    """Influence functions tokenise them apart, the training texts were whole: both must agree."""
    checked = 0
    for r in rows("pool"):
        prompt = TEMPLATE_WITHOUT.replace("{prompt}", f"{r['instruction']}\n{r['input']}")
        ids = tokenizer([prompt, r["output"], prompt + r["output"]])["input_ids"]
        assert ids[0] + ids[1] == ids[2], r["id"]
        checked += 1
    assert checked >= 1500


def test_held_out_loss_is_below_the_unigram_bound(model: Any, tokenizer: Any) -> None:
    """GSM8K test responses against an oracle that knows these very responses' token frequencies.

    The unigram entropy H = -sum_v f_v log f_v of the scored tokens is the least loss that any model
    blind to context can reach on them, so falling below it needs context. 60 % of it is asked for.
    """
    total, count, seen = 0.0, 0, Counter[int]()
    for r in [r for r in rows("target") if r["split"] == "test"][:20]:
        loss, n = response_loss(
            model, tokenizer, TEMPLATE_WITHOUT.format(prompt=r["instruction"]), r["output"]
        )
        total, count = total + loss, count + n
        seen.update([*tokenizer(r["output"])["input_ids"], 0])
    unigram = -sum(c / count * math.log(c / count) for c in seen.values())
    assert seen.total() == count
    assert total / count < 0.6 * unigram


def test_example_with_the_answer_helps(model: Any, tokenizer: Any) -> None:
    """An in-context example of the same intent lowers the response's loss below that of another intent."""
    by_answer: dict[str, list[dict[str, Any]]] = {}
    for r in rows("pool"):
        if r["source"] == "banking77":
            by_answer.setdefault(r["output"], []).append(r)
    targets = [r for r in rows("target_intent") if r["output"] in by_answer][:40]

    def loss(target: dict[str, Any], example: dict[str, Any]) -> float:
        prompt = TEMPLATE_WITH.format(
            example_prompt=f"{example['instruction']}\n{example['input']}".strip(),
            example_response=example["output"],
            prompt=f"{target['instruction']}\n{target['input']}".strip(),
        )
        return response_loss(model, tokenizer, prompt, target["output"])[0]

    answers = sorted(by_answer)
    helped = 0
    for t in targets:
        other = by_answer[answers[answers.index(t["output"]) - 20]][0]
        helped += loss(t, by_answer[t["output"]][0]) < loss(t, other)
    assert len(targets) == 40
    assert helped >= 30


def test_loss_log_falls() -> None:
    with (lm_path() / "loss.csv").open(newline="", encoding="utf-8") as f:
        log = list(csv.DictReader(f))
    assert list(log[0]) == ["step", "tokens", "seconds", "train_loss", "heldout_loss"]
    assert float(log[-1]["heldout_loss"]) < float(log[0]["heldout_loss"])


def test_pool() -> None:
    pool = rows("pool")
    assert len(pool) >= 1500
    assert all(set(r) == COLUMNS for r in pool)
    assert len({r["id"] for r in pool}) == len(pool)
    assert all(r["output"].strip() and r["instruction"].strip() for r in pool)
    counts = Counter(r["source"] for r in pool)
    assert counts == {"gsm8k": 650, "clinc150": 400, "banking77": 400, "own": 72, "templated": 105}


@pytest.mark.parametrize(("name", "counts"), [("target", (120, 60)), ("target_intent", (100, 60))])
def test_targets(name: str, counts: tuple[int, int]) -> None:
    target = rows(name)
    assert all(set(r) == COLUMNS | {"split"} for r in target)
    assert Counter(r["split"] for r in target) == dict(zip(("validation", "test"), counts, strict=True))
    assert len({r["id"] for r in target}) == len(target)
    assert all(r["output"].strip() for r in target)


def test_targets_are_not_in_the_pool() -> None:
    pool = {normalise(message(r)) for r in rows("pool")}
    assert not pool & {normalise(message(r)) for name in TARGETS for r in rows(name)}


def test_corpus_is_disjoint_from_pool_and_targets() -> None:
    assert CORPUS.stat().st_size < 2_500_000
    corpus = [{"text": t} for t in read_corpus()]
    assert len(corpus) > 10_000
    shipped = [r for name in ("pool", *TARGETS) for r in rows(name)]
    held = reserved(shipped)
    assert len(held) > 1800
    assert overlap(corpus, held) == []
    planted = {"text": f"Instruction: {message(shipped[0]).upper()}!\nResponse: x"}
    assert overlap([*corpus[:10], planted], held) == [normalise(message(shipped[0]))]


def test_message_of_an_intent_row_is_inside_the_outer_quotes() -> None:
    instruction = 'A user says: "play "Hey Jude" now" Which intent is this?'
    row = {"task": "intent", "input": "", "instruction": instruction}
    assert message(row) == 'play "Hey Jude" now'


def calculated(expression: str) -> Fraction:
    """Value of "a + b * c ..." (products and quotients first), digits and operators only."""
    total = Fraction(0)
    for term in re.split(r" (?=[+-] )", f"+ {expression}"):
        sign, first, *rest = term.split(" ")
        value = Fraction(first)
        for operator, number in zip(rest[::2], rest[1::2], strict=True):
            value = value * int(number) if operator == "*" else value / int(number)
        total += value if sign == "+" else -value
    return total


def test_templated_arithmetic_is_right() -> None:
    checked = 0
    for r in rows("pool"):
        if r["source"] not in ("templated", "own"):
            continue
        for left, right in re.findall(r"((?:\d+ [*+/-] )+\d+) = \$?(\d+)", r["output"]):
            assert calculated(left) == int(right), r["id"]
            checked += 1
    assert checked > 80


def test_unknown_data_name() -> None:
    assert data_names() == ("intents", "pool", "target", "target_intent")
    with pytest.raises(UserError, match=r'no built-in data set "nope".*"builtin:pool", "builtin:target"'):
        data_path("nope")


def test_missing_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("nncift_core.builtin._root", lambda: tmp_path)
    with pytest.raises(UserError, match="builtin language model is missing.*Install the package again"):
        lm_path()
