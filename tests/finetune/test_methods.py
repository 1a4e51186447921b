"""What is trained: every weight, or adapters on 4-bit weights; chat templates, token budgets, packing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from finetune.small import PAIRS, ROWS, TINY, Trained, chat_student, gap, job, rows_of, same, tuned
from safetensors.torch import load_file

from nncift_core.errors import UserError
from nncift_core.finetune import (
    check_method,
    encode,
    fine_tune,
    fine_tune_key,
    load_fine_tuned,
    load_student,
    load_student_tokenizer,
    prompt_ids,
    student_key,
)
from nncift_core.language_models import LanguageModel

# The key of `job()` before there were other methods: stored adapters are found by it.
KNOWN_KEY = "2b8cf0c06aa871c635d1989ce85575f9"
FULL = {"method": "full", "rank": None, "epochs": 2, "learning_rate": 1e-3}


def whole(folder: Path, **settings: object) -> dict[str, torch.Tensor]:
    """Weights of a student trained whole."""
    folder.mkdir()
    fine_tune(job(**{**FULL, **settings}), ROWS, 0, "cpu", folder)
    return load_file(folder / "model.safetensors")


def test_keys_of_adapters_stored_before_stay() -> None:
    assert fine_tune_key(job(), ["a", "b"], 3) == KNOWN_KEY


def test_every_weight_is_trained_and_loaded_again(tmp_path: Path, tiny: LanguageModel) -> None:
    folder = tmp_path / "a"
    weights = whole(folder)
    before = load_file(TINY / "model.safetensors")
    assert weights.keys() == before.keys()
    assert all(not torch.equal(weights[name], before[name]) for name in before)
    assert not (folder / "adapter_config.json").exists()
    assert str(TINY.parent) not in "".join(p.read_text(encoding="utf-8") for p in folder.glob("*.json"))

    config = job(**FULL)
    loaded = load_fine_tuned(config, folder, "cpu")
    state = loaded.model.state_dict()
    assert all(torch.equal(state[name], weights[name]) for name in weights)
    prompts, responses = [[5, 6, 7]] * 2, tiny.tokenize([r for _, r in PAIRS[:2]])
    assert not torch.equal(
        torch.from_numpy(loaded.response_log_probs(prompts, responses)[0]),
        torch.from_numpy(tiny.response_log_probs(prompts, responses)[0]),
    )


def test_a_whole_student_of_low_precision_keeps_float32_while_it_is_trained(tmp_path: Path) -> None:
    low = whole(tmp_path / "low", model=str(TINY), dtype="bfloat16", learning_rate=1e-5)
    assert {p.dtype for p in low.values()} == {torch.bfloat16}
    before = {k: p.to(torch.bfloat16) for k, p in load_file(TINY / "model.safetensors").items()}
    high = whole(tmp_path / "high", model=str(TINY), dtype="float32", learning_rate=1e-5)
    rounded = {k: p.to(torch.bfloat16) for k, p in high.items()}
    # Updates far below a bfloat16 step add up until some weights take one.
    moved = {k: rounded[k] != before[k] for k in low}
    agree = sum(int((low[k] == rounded[k])[moved[k]].sum()) for k in low)
    assert agree > 0.8 * sum(int(m.sum()) for m in moved.values()) > 0


def test_adapter_settings_beside_all_weights_are_refused() -> None:
    with pytest.raises(UserError, match='rank belongs to adapters, and method = "full"'):
        job(method="full", rank=4)
    keys = {fine_tune_key(job(**FULL), ["a"], 0), fine_tune_key(job(**FULL, weight_decay=0.1), ["a"], 0)}
    assert len(keys) == 2 and fine_tune_key(job(), ["a"], 0) not in keys


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_four_bits_without_a_gpu_say_what_to_do() -> None:
    config = job(method="qlora")
    for refused in (lambda: check_method(config), lambda: load_student(config, "cpu")):
        with pytest.raises(UserError, match=r"nncift\[gpu\]") as e:
            refused()
        assert e.value.field == "finetune.method" and 'method = "qlora" needs a CUDA GPU' in str(e.value)
    assert student_key(config) != student_key(job())
    check_method(job())


def test_chat_prompts_are_the_models_own_and_the_turns_end_is_learned(tmp_path: Path) -> None:
    config = job(model=str(chat_student(tmp_path / "lm")), template="chat")
    model = load_student_tokenizer(config)
    (prompt,) = prompt_ids(model, ["Hi <|im_end|>"], "chat")
    assert (
        model.tokenizer.decode(prompt) == "<|im_start|>user\nHi <|im_end|><|im_end|>\n<|im_start|>assistant\n"
    )
    encoded = encode(model, rows_of([("Hi <|im_end|>", "there")]), "chat")
    end = model.tokenizer.convert_tokens_to_ids("<|im_end|>")
    # Only the turn's own end is the marker: the one in the user's text stayed text.
    assert prompt.count(end) == 1
    assert encoded.sequences[0] == [*prompt, *model.tokenize(["there"])[0], end]
    assert encoded.n_prompt == (len(prompt),)


def test_a_chat_student_trains_stores_its_template_and_stops_at_the_turns_end(tmp_path: Path) -> None:
    config = job(model=str(chat_student(tmp_path / "lm")), template="chat", epochs=1)
    done, _ = tuned(tmp_path / "a", config)
    assert (tmp_path / "a" / "chat_template.jinja").is_file() and done.response_tokens > len(ROWS)
    loaded = load_fine_tuned(config, tmp_path / "a", "cpu")
    assert loaded.template == "chat" and loaded.tokenizer.decode([loaded.eos_id]) == "<|im_end|>"
    assert prompt_ids(loaded, ["Hi"], "chat") == prompt_ids(load_student_tokenizer(config), ["Hi"], "chat")
    plain = job(model=str(tmp_path / "lm"))
    assert fine_tune_key(config, ["a"], 0) != fine_tune_key(plain, ["a"], 0)


def test_a_student_without_a_chat_template_is_refused_by_the_key_that_asks_for_it() -> None:
    with pytest.raises(UserError, match="no chat template") as e:
        load_student_tokenizer(job(template="chat"))
    assert e.value.field == "finetune.template" and '"chat"' in e.value.mend
    with pytest.raises(UserError, match='or it is "chat"'):
        job(template="chatty")


def test_a_budget_of_two_passes_gives_the_adapter_of_two_epochs(trained: Trained, tmp_path: Path) -> None:
    budget = 2 * trained[0].tokens
    done, weights = tuned(tmp_path / "a", job(epochs=None, tokens=budget))
    assert same(weights, trained[1]) and done.seen_tokens == budget and done.seen_rows == 20
    less, _ = tuned(tmp_path / "b", job(epochs=None, tokens=budget // 4))
    longest = max(
        len(s) for s in encode(load_student_tokenizer(job()), ROWS, job().finetune.template).sequences
    )  # type: ignore[union-attr]
    assert budget // 4 <= less.seen_tokens < budget // 4 + longest and len(less.losses) == 1


def test_a_budget_of_tokens_is_part_of_the_key_and_excludes_epochs() -> None:
    keys = {fine_tune_key(job(epochs=None, tokens=n), ["a"], 0) for n in (100, 101, None)}
    assert len(keys) == 3
    with pytest.raises(UserError, match="tokens and epochs exclude each other"):
        job(tokens=100)


def test_packed_rows_do_not_see_each_other(trained: Trained, tmp_path: Path) -> None:
    done, weights = tuned(tmp_path / "a", job(packing=True, batch_tokens=200))
    assert done.losses == pytest.approx(trained[0].losses, abs=1e-5)
    assert gap(weights, trained[1]) < 1e-4
    assert fine_tune_key(job(packing=True), ["a"], 0) == fine_tune_key(job(), ["a"], 0)
    assert fine_tune_key(job(packing=True, dropout=0.1), ["a"], 0) != fine_tune_key(
        job(dropout=0.1), ["a"], 0
    )


def test_a_model_that_ignores_where_rows_begin_is_not_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    from nncift_core.finetune.batches import check_packing

    model = load_student(job(), "cpu").model
    check_packing(model, "cpu")
    forward = type(model).forward
    monkeypatch.setattr(
        type(model), "forward", lambda self, position_ids=None, **given: forward(self, **given)
    )
    with pytest.raises(UserError, match="see each other") as e:
        check_packing(model, "cpu")
    assert e.value.field == "finetune.packing"


def test_settings_that_only_save_memory_or_time_leave_the_key() -> None:
    key = fine_tune_key(job(), ["a"], 0)
    assert key == fine_tune_key(job(checkpoint_minutes=0, devices=4), ["a"], 0)
    assert json.loads(job().finetune.model_dump_json())["tokens"] is None  # type: ignore[union-attr]
