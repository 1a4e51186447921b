"""Greedy answers: against a plain loop, in any batch, under any of a model's own settings."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, Gemma2Config, GenerationConfig, GPT2Config, PretrainedConfig

from nncift_core.builtin import data_path
from nncift_core.config import LanguageModelConfig
from nncift_core.errors import UserError
from nncift_core.evaluation import Answers, check_room, greedy_answers
from nncift_core.language_models import LanguageModel, load_language_model

TINY = Path(__file__).parents[1] / "data" / "oracles" / "tiny-lm"


def load(model: str = "builtin") -> LanguageModel:
    return load_language_model(LanguageModelConfig(model=model), "cpu")


@pytest.fixture(scope="module")
def builtin() -> LanguageModel:
    return load()


@pytest.fixture(scope="module")
def prompts() -> list[str]:
    """Real prompts of very different lengths, filled."""
    lines = data_path("target").read_text(encoding="utf-8").splitlines()[:60:5]
    filled = [f"Instruction: {json.loads(line)['instruction']}\n\nResponse: " for line in lines]
    return [*filled, "2 + 2 = ", "A"]


def loop(model: LanguageModel, prompts: list[str], steps: int) -> tuple[list[str], int]:
    """One prompt at a time, whole sequence through the model at every step, no cache, no padding."""
    texts, unfinished = [], 0
    for ids in model.tokenize(prompts):
        ids = [*model.bos_ids, *ids]
        start = len(ids)
        for _ in range(steps):
            with torch.inference_mode():
                logits = model.model(input_ids=torch.tensor([ids]), use_cache=False).logits
            token = int(logits[0, -1].argmax())
            if token == model.eos_id:
                break
            ids.append(token)
        else:
            unfinished += 1
        texts.append(model.tokenizer.decode(ids[start:], skip_special_tokens=True))
    return texts, unfinished


def answers(model: LanguageModel, prompts: list[str], steps: int = 24, tokens: int = 2000) -> Answers:
    return greedy_answers(model, prompts, max_new_tokens=steps, batch_tokens=tokens)


def test_equals_a_plain_greedy_loop(builtin: LanguageModel, prompts: list[str]) -> None:
    # This model seldom ends by itself so early, so its answers here end with their first sentence.
    model = dataclasses.replace(builtin, eos_id=builtin.tokenize(["A sentence."])[0][-1])
    found = answers(model, prompts, steps=24)
    texts, unfinished = loop(model, prompts, 24)
    assert list(found.texts) == texts
    assert (found.unfinished, found.truncated_prompts) == (unfinished, 0)
    assert 0 < unfinished < len(prompts) and len(set(texts)) > 5


def test_batches_do_not_change_answers(builtin: LanguageModel, prompts: list[str]) -> None:
    done: list[int] = []
    together = greedy_answers(
        builtin, prompts, max_new_tokens=16, batch_tokens=10**6, progress=lambda n: done.append(n)
    )
    assert done == [len(prompts)]
    done.clear()
    alone = greedy_answers(
        builtin, prompts, max_new_tokens=16, batch_tokens=1, progress=lambda n: done.append(n)
    )
    assert done == [1] * len(prompts)
    assert alone == together
    assert list(answers(builtin, prompts[::-1], steps=16).texts) == list(together.texts)[::-1]


def test_batches_hold_prompt_and_answer(builtin: LanguageModel) -> None:
    done: list[int] = []
    greedy_answers(builtin, ["A"] * 6, max_new_tokens=9, batch_tokens=20, progress=lambda n: done.append(n))
    assert done == [2, 2, 2]


@pytest.mark.parametrize(
    "config",
    [
        GPT2Config(vocab_size=1000, n_positions=1024, n_embd=32, n_layer=2, n_head=2),
        Gemma2Config(
            vocab_size=1000,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=16,
            sliding_window=8,
        ),
    ],
    ids=["learned positions", "sliding window"],
)
def test_other_architectures_in_a_padded_batch(config: PretrainedConfig, prompts: list[str]) -> None:
    torch.manual_seed(0)
    other = AutoModelForCausalLM.from_config(config).eval()
    for weight in other.parameters():
        # At their initial size these models copy the last token whatever stands before it.
        weight.data *= 4 if weight.dim() > 1 else 1
    model = dataclasses.replace(load(str(TINY)), model=other)
    found = answers(model, prompts[-4:], steps=10, tokens=10**6)
    assert list(found.texts) == loop(model, prompts[-4:], 10)[0]
    assert len(set(found.texts)) == 4


def test_the_models_own_settings_change_nothing(
    prompts: list[str], capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    model = load()
    plain = answers(model, prompts)
    own = GenerationConfig(
        do_sample=True,
        temperature=5.0,
        top_p=0.5,
        num_beams=3,
        max_length=30,
        min_new_tokens=20,
        repetition_penalty=3.0,
        no_repeat_ngram_size=1,
        suppress_tokens=list(range(2, 900)),
        num_return_sequences=2,
    )
    model.model.generation_config = own
    before = own.to_dict()
    assert answers(model, prompts) == plain
    assert model.model.generation_config is own and own.to_dict() == before
    assert capfd.readouterr() == ("", "")
    assert [str(w.message) for w in recwarn] == []


def test_further_stop_tokens_of_the_model_are_kept(prompts: list[str]) -> None:
    model = load()
    plain = answers(model, prompts)
    first = [model.tokenize([text])[0] for text in plain.texts]
    stop = first[0][3]
    model.model.generation_config.eos_token_id = [stop]
    found = answers(model, prompts)
    assert found.texts[0] == model.tokenizer.decode(first[0][: first[0].index(stop)])
    assert found.unfinished < plain.unfinished


def test_a_tokenizer_without_pad_token(prompts: list[str]) -> None:
    model = load()
    plain = answers(model, prompts)
    model.tokenizer.pad_token = None
    model.model.config.pad_token_id = None
    model.model.generation_config.pad_token_id = None
    assert model.tokenizer.pad_token_id is None
    assert answers(model, prompts) == plain


def test_begin_of_sequence_tokens_stand_before_the_prompt(builtin: LanguageModel, prompts: list[str]) -> None:
    model = dataclasses.replace(builtin, bos_ids=(7, 8))
    found = answers(model, prompts, steps=8)
    assert list(found.texts) == loop(model, prompts, 8)[0]
    assert found.texts != answers(builtin, prompts, steps=8).texts


def test_adapters_take_part(prompts: list[str]) -> None:
    base, student = load(), load()
    torch.manual_seed(0)
    adapted: Any = get_peft_model(
        student.model, LoraConfig(target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    ).eval()
    model = dataclasses.replace(student, model=adapted)
    found = answers(model, prompts[-3:])
    assert list(found.texts) == loop(model, prompts[-3:], 24)[0]
    assert found.texts != answers(base, prompts[-3:]).texts
    assert adapted.get_base_model().generation_config.max_new_tokens == 128


def test_long_prompts_lose_their_first_tokens(builtin: LanguageModel) -> None:
    model = dataclasses.replace(builtin, context_length=30)
    long = "one two three four five six seven eight nine ten " * 20 + "Question: 2 + 2 ="
    found = answers(model, ["A", long], steps=10)
    kept = builtin.tokenizer.decode(builtin.tokenize([long])[0][-20:])
    assert builtin.tokenize([kept])[0] == builtin.tokenize([long])[0][-20:]
    assert found.texts == (answers(builtin, ["A"], 10).texts[0], answers(builtin, [kept], 10).texts[0])
    assert found.truncated_prompts == 1


def test_answers_up_to_the_last_position(builtin: LanguageModel) -> None:
    long = "word " * 3000
    found = answers(builtin, [long], steps=64, tokens=1)
    assert found.truncated_prompts == 1


def test_no_room_for_a_prompt_is_refused(builtin: LanguageModel) -> None:
    model = dataclasses.replace(builtin, context_length=32, bos_ids=(7,))
    check_room(model, 30)
    assert answers(model, ["some words that are many"], steps=30).truncated_prompts == 1
    with pytest.raises(UserError, match=r"evaluation\.max_new_tokens: 31 tokens .* context of 32"):
        answers(model, ["A"], steps=31)
    check_room(dataclasses.replace(builtin, context_length=None), 10**6)


def test_a_prompt_without_tokens_is_refused(builtin: LanguageModel) -> None:
    with pytest.raises(UserError, match=r"finetune\.template"):
        answers(builtin, ["fine", ""])


def test_no_prompts_no_answers(builtin: LanguageModel) -> None:
    assert answers(builtin, []) == Answers((), 0, 0)
