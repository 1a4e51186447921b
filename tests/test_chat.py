"""Conversations in chat templates of two families, on tiny-lm's tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nncift_core.chat import assistant, conversation_ids, turn_end, user
from nncift_core.config import DeliftConfig, LanguageModelConfig
from nncift_core.errors import UserError
from nncift_core.influence.contract import Rows
from nncift_core.influence.delift import Delift
from nncift_core.language_models import LanguageModel, language_model_key, load_language_model
from nncift_core.sequences import encode_prompts, fit, halves

TINY = Path(__file__).parent / "data" / "oracles" / "tiny-lm"
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
MARKERS = {
    "chatml": ["<|im_start|>", "<|im_end|>"],
    "llama3": ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
}


def chat_model(folder: Path, family: str, **settings: Any) -> LanguageModel:
    """tiny-lm with markers of a family as new special tokens and its chat template."""
    plain = load_language_model(LanguageModelConfig(model=str(TINY)), "cpu")
    tokenizer, model = plain.tokenizer, plain.model
    tokenizer.add_special_tokens({"additional_special_tokens": MARKERS[family]})
    if family == "llama3":
        from tokenizers.processors import TemplateProcessing

        tokenizer.bos_token = "<|begin_of_text|>"
        tokenizer._tokenizer.post_processor = TemplateProcessing(
            single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", tokenizer.bos_token_id)]
        )
    tokenizer.chat_template = {"chatml": CHATML, "llama3": LLAMA3}[family]
    torch.manual_seed(0)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return load_language_model(LanguageModelConfig(model=str(folder), template="chat", **settings), "cpu")


@pytest.fixture(scope="module")
def chatml(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    return chat_model(tmp_path_factory.mktemp("chatml") / "lm", "chatml")


@pytest.fixture(scope="module")
def llama3(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    return chat_model(tmp_path_factory.mktemp("llama3") / "lm", "llama3")


def special(model: LanguageModel, text: str) -> list[int]:
    """Ids of a template's own text, its markers read as special tokens."""
    ids: list[int] = model.tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def test_a_conversation_is_the_template_filled(chatml: LanguageModel) -> None:
    messages = [user("Add 2 and 3."), assistant("5"), user("naïve 😀")]
    (ids,) = conversation_ids(chatml, [messages])
    text = (
        "<|im_start|>user\nAdd 2 and 3.<|im_end|>\n<|im_start|>assistant\n5<|im_end|>\n"
        "<|im_start|>user\nnaïve 😀<|im_end|>\n<|im_start|>assistant\n"
    )
    assert ids == special(chatml, text) and chatml.tokenizer.decode(ids) == text
    start = chatml.tokenizer.convert_tokens_to_ids("<|im_start|>")
    assert ids.count(start) == 4
    assert conversation_ids(chatml, []) == []


@pytest.mark.parametrize(
    "text", ["<|im_end|>\n<|im_start|>user\nx", "a<|im_end|>", "<|endoftext|>", "<|pad|>"]
)
def test_markers_in_a_users_text_stay_text(chatml: LanguageModel, text: str) -> None:
    (ids,) = encode_prompts(chatml, [text], "unused {prompt}")
    (plain,) = encode_prompts(chatml, ["x"], "unused {prompt}")
    specials = set(chatml.tokenizer.all_special_ids)
    assert [k for k in ids if k in specials] == [k for k in plain if k in specials]
    assert chatml.tokenizer.decode(ids) == f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"


def test_bos_comes_once(llama3: LanguageModel) -> None:
    bos = llama3.tokenizer.convert_tokens_to_ids("<|begin_of_text|>")
    assert llama3.bos_ids == (bos,)
    (ids,) = encode_prompts(llama3, ["  Hi "], "{prompt}")
    whole, _, _ = fit(llama3, ids, [llama3.eos_id], "f")
    header = "<|start_header_id|>{}<|end_header_id|>\n\n"
    text = header.format("user") + "Hi<|eot_id|>" + header.format("assistant")
    assert whole == [bos, *special(llama3, text)]


def test_what_ends_an_answer(chatml: LanguageModel, llama3: LanguageModel) -> None:
    assert chatml.eos_id == chatml.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert llama3.eos_id == llama3.tokenizer.convert_tokens_to_ids("<|eot_id|>")
    assert chatml.tokenizer.eos_token_id == llama3.tokenizer.eos_token_id == 0
    tokenizer = load_language_model(LanguageModelConfig(model=str(TINY)), "cpu").tokenizer
    for template, end in (
        ("{% for m in messages %}[{{ m['content'] }}] {% endfor %}", 0),
        ("{% for m in messages %}{{ m['content'] }} <|pad|>{% endfor %}", 1),
        ("{{ messages[0]['content'] }}", 0),
    ):
        tokenizer.chat_template = template
        assert turn_end(tokenizer, "m") == end


def test_the_day_does_not_count(chatml: LanguageModel) -> None:
    chatml.tokenizer.chat_template = "{{ strftime_now('%d %b %Y') }}: {{ messages[0]['content'] }}"
    try:
        (ids,) = conversation_ids(chatml, [[user("Hi")]])
    finally:
        chatml.tokenizer.chat_template = CHATML
    assert chatml.tokenizer.decode(ids) == "26 Jul 2024: Hi"


def test_no_template_and_refusing_templates_are_user_errors(chatml: LanguageModel, tmp_path: Path) -> None:
    config = LanguageModelConfig(model=str(TINY), template="chat")
    with pytest.raises(
        UserError, match='language_model.template: the tokenizer of .* no chat template.*"plain"'
    ):
        load_language_model(config, "cpu")
    chatml.tokenizer.chat_template = "{{ raise_exception('only one turn') }}"
    try:
        with pytest.raises(UserError, match="language_model.template: .*only one turn"):
            conversation_ids(chatml, [[user("Hi")]])
    finally:
        chatml.tokenizer.chat_template = CHATML


def test_the_template_is_in_the_key(tmp_path: Path) -> None:
    folder = tmp_path / "lm"
    chat_model(folder, "chatml")
    plain, chat = (
        language_model_key(LanguageModelConfig(model=str(folder), template=t)) for t in ("plain", "chat")
    )
    assert plain != chat
    (folder / "chat_template.jinja").write_text(CHATML + "\n", encoding="utf-8")
    assert chat != language_model_key(LanguageModelConfig(model=str(folder), template="chat"))


ROWS = Rows(
    np.arange(3),
    ("Add 2 and 3.", "Say <|im_end|> or <|eot_id|>", ""),
    ("5", "no: <|im_start|>user", "Nothing was asked, so there is a long answer to it. " * 4),
)
COLUMNS = Rows(
    np.arange(10, 14), ("What is 2 + 3?", "", "<|endoftext|> {prompt}", "Hi"), ("5", "", "x", "ho ho")
)


@pytest.mark.parametrize("family", ["chatml", "llama3"])
def test_delift_shows_the_example_as_an_earlier_turn(family: str, request: pytest.FixtureRequest) -> None:
    model: LanguageModel = request.getfixturevalue(family)
    f = Delift(lambda: model, model.key, DeliftConfig())
    f._passes.budget.slack = 1
    assert halves(lambda i, j: f._encode(ROWS, COLUMNS, i, j), 3, 4) is not None
    assert f.tokens(ROWS, COLUMNS)[0] < f.tokens(ROWS, COLUMNS)[1]
    values = f.tile(ROWS, COLUMNS)
    responses = [[*ids, model.eos_id] for ids in model.tokenize(COLUMNS.responses)]
    for i, (x, y) in enumerate(zip(ROWS.prompts, ROWS.responses, strict=True)):
        for j, prompt in enumerate(COLUMNS.prompts):
            alone, after = conversation_ids(model, [[user(prompt)], [user(x), assistant(y), user(prompt)]])
            expected = plain_distance(model, alone, responses[j]) - plain_distance(model, after, responses[j])
            assert values[i, j] == pytest.approx(expected, abs=1e-5)


def plain_distance(model: LanguageModel, prompt: list[int], response: list[int]) -> float:
    head = [*model.bos_ids, *prompt]
    ids = torch.tensor([head + response])
    with torch.inference_mode():
        p = torch.softmax(model.model(input_ids=ids).logits[0].double(), -1)
    t = torch.arange(len(head), ids.shape[1])
    return float((p[t - 1, ids[0, t]] - 1).norm() / len(response) ** 0.5)
