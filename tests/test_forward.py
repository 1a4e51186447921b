"""Forward passes with and without shared prefixes, for several architectures."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from rope_models import KINDS, fresh, rope_model
from test_language_models import CONFIGS, SMALL, load
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, PretrainedConfig

from nncift_core.forward import (
    can_share,
    encode_prefixes,
    encode_together,
    next_token_log_probs,
    one_at_a_time,
    response_log_probs,
)
from nncift_core.language_models import LanguageModel

PREFIXES = [[5, 6, 7, 8, 9, 10], [11], [12, 13, 14]]
TAILS = [[20, 21], [22], [23, 24, 25, 26]]
RESPONSES = [[30, 0], [31, 32, 33, 34, 0], [0]]


@pytest.fixture(scope="module")
def tiny() -> LanguageModel:
    torch.set_num_threads(1)
    return load()


def random_model(config: PretrainedConfig, tiny: LanguageModel, **changes: Any) -> LanguageModel:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    return LanguageModel(**{**vars(tiny), "model": model, "context_length": 64, **changes})


def plain(model: LanguageModel, ids: list[int], start: int) -> list[float]:
    """log p of ids[start:], by one full forward pass over one sequence."""
    with torch.inference_mode():
        logits = model.model(input_ids=torch.tensor([ids])).logits[0].double()
    log_probs = torch.log_softmax(logits, -1)
    return [float(log_probs[t - 1, ids[t]]) for t in range(start, len(ids))]


LEARNED = CONFIGS["learned positions"]
PLAIN_CACHES = {"rotary": LlamaConfig(**SMALL), "learned positions": LEARNED, "scaled": CONFIGS["scaled"]}


@pytest.mark.parametrize("name", PLAIN_CACHES)
def test_shared_prefixes_change_nothing(name: str, tiny: LanguageModel) -> None:
    model = random_model(PLAIN_CACHES[name], tiny)
    assert can_share(model)
    together = response_log_probs(model, TAILS, RESPONSES, encode_together(model, PREFIXES))
    one_by_one = [
        values
        for prefix in encode_prefixes(model, PREFIXES)
        for values in response_log_probs(model, TAILS, RESPONSES, prefix)
    ]
    expected = [
        plain(model, p + t + r, len(p + t)) for p in PREFIXES for t, r in zip(TAILS, RESPONSES, strict=True)
    ]
    assert len(together) == len(one_by_one) == len(expected) == 9
    for a, b, c in zip(together, one_by_one, expected, strict=True):
        np.testing.assert_allclose(a, c, rtol=0, atol=2e-5)
        np.testing.assert_allclose(b, c, rtol=0, atol=2e-5)
    # The test would notice another prefix.
    assert max(abs(a[0] - b[0]) for a, b in zip(expected[:3], expected[3:6], strict=True)) > 1e-2


def test_a_prefix_is_not_used_up(tiny: LanguageModel) -> None:
    prefix = encode_prefixes(tiny, PREFIXES[:1])[0]
    first = response_log_probs(tiny, TAILS, RESPONSES, prefix)
    again = response_log_probs(tiny, TAILS[:1], RESPONSES[:1], prefix)
    np.testing.assert_allclose(again[0], first[0], rtol=0, atol=5e-6)
    assert prefix.length == 6 and all(k.shape[2] == 6 for k, _ in prefix.layers)


def test_next_tokens_are_over_the_whole_vocabulary(tiny: LanguageModel) -> None:
    asked = [3, 40, 3]
    prompts = [p + t for p in PREFIXES for t in TAILS]
    whole = next_token_log_probs(tiny, prompts, asked)
    assert whole.dtype == np.float32 and whole.shape == (9, 3)
    for ids, values in zip(prompts, whole, strict=True):
        expected = [plain(tiny, [*ids, token], len(ids))[0] for token in asked]
        np.testing.assert_allclose(values, expected, rtol=0, atol=1e-5)
    shared = next_token_log_probs(tiny, TAILS, asked, encode_together(tiny, PREFIXES))
    np.testing.assert_allclose(shared, whole, rtol=0, atol=1e-5)
    for k, prefix in enumerate(encode_prefixes(tiny, PREFIXES)):
        values = next_token_log_probs(tiny, TAILS, asked, prefix)
        np.testing.assert_allclose(values, whole[3 * k : 3 * k + 3], rtol=0, atol=1e-5)


def test_only_the_last_tokens_reach_the_output_layer(tiny: LanguageModel) -> None:
    seen: list[tuple[int, ...]] = []
    head = tiny.model.get_output_embeddings()
    hook = head.register_forward_hook(lambda m, a, out: seen.append(tuple(out.shape[:2])))
    prefix = encode_together(tiny, PREFIXES)
    next_token_log_probs(tiny, TAILS, [1], prefix)
    hook.remove()
    assert seen == [(1, 1), (1, 9)]


WINDOWED = MistralConfig(**SMALL, sliding_window=4, head_dim=16)


@pytest.mark.parametrize(
    "config", [WINDOWED, CONFIGS["soft-capped"], CONFIGS["state space"]], ids=lambda c: c.model_type
)
def test_models_whose_cache_is_not_plain_do_not_share(config: PretrainedConfig, tiny: LanguageModel) -> None:
    model = random_model(config, tiny)
    assert not can_share(model)
    found = response_log_probs(model, PREFIXES, RESPONSES)
    for p, r, values in zip(PREFIXES, RESPONSES, found, strict=True):
        np.testing.assert_allclose(values, plain(model, p + r, len(p)), rtol=0, atol=2e-5)


def test_a_model_that_shares_wrongly_is_found_out_once(
    tiny: LanguageModel, caplog: pytest.LogCaptureFixture
) -> None:
    model = random_model(LEARNED, tiny)
    original = model.model.transformer.forward
    calls = 0

    def from_zero(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        return original(*args, **{**kwargs, "position_ids": torch.arange(args[0].shape[1])[None]})

    model.model.transformer.forward = from_zero
    with caplog.at_level(logging.WARNING):
        assert not can_share(model)
        once = calls
        assert not can_share(model)
    assert calls == once > 0
    assert ["shared prefixes change this model's log-probabilities" in r.message for r in caplog.records] == [
        True
    ]


def test_padding_has_no_side_and_needs_no_token(tiny: LanguageModel) -> None:
    prompts = [p + t for p, t in zip(PREFIXES, TAILS, strict=True)]
    expected = response_log_probs(tiny, prompts, RESPONSES)
    for changes in ({"padding_side": "left"}, {"padding_side": "right"}, {"pad_token": None}):
        model = load()
        for name, value in changes.items():
            setattr(model.tokenizer, name, value)
        model.model.config.pad_token_id = model.tokenizer.pad_token_id
        for a, b in zip(response_log_probs(model, prompts, RESPONSES), expected, strict=True):
            np.testing.assert_array_equal(a, b)


def test_empty_sequences_are_refused(tiny: LanguageModel) -> None:
    with pytest.raises(ValueError, match="at least one token"):
        response_log_probs(tiny, [[]], [[1]], encode_prefixes(tiny, [[1]])[0])
    with pytest.raises(ValueError, match="at least one token"):
        next_token_log_probs(tiny, [[1], []], [1])
    with pytest.raises(ValueError, match="at least one token"):
        encode_prefixes(tiny, [[1], []])


def test_low_precision_shares_too(tiny: LanguageModel) -> None:
    model = load(dtype="bfloat16")
    assert can_share(model)
    shared = response_log_probs(model, TAILS, RESPONSES, encode_together(model, PREFIXES))
    exact = response_log_probs(tiny, TAILS, RESPONSES, encode_together(tiny, PREFIXES))
    apart = np.abs(np.concatenate(shared) - np.concatenate(exact)).max()
    assert 0 < apart < 0.2


@pytest.mark.parametrize("kind", KINDS)
def test_angles_that_follow_the_length_are_those_of_each_sequence(kind: str, tmp_path: Path) -> None:
    model = rope_model(kind, tmp_path, limit=8)
    prompts = [[*range(20, 32)], [5, 6, 7], [*range(40, 47)], [8], [*range(50, 58)]]
    responses = [[9, 3, 0], [4, 0], [1], [2, 0], [7, 0]]
    expected = [plain(fresh(model), p + r, len(p)) for p, r in zip(prompts, responses, strict=True)]
    assert one_at_a_time(model) and not can_share(model)
    for order in (range(5), range(4, -1, -1)):
        found = response_log_probs(model, [prompts[k] for k in order], [responses[k] for k in order])
        for k, values in zip(order, found, strict=True):
            np.testing.assert_allclose(values, expected[k], rtol=0, atol=1e-5)


def test_only_lengths_that_change_angles_part_a_batch(tiny: LanguageModel) -> None:
    def of(rope: Any) -> bool:
        config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(rope_parameters=rope))
        return one_at_a_time(replace(tiny, model=SimpleNamespace(config=config)))

    assert not one_at_a_time(tiny) and not of(None) and not of({"rope_type": "llama3", "factor": 8.0})
    assert not of({"full_attention": {"rope_type": "default"}, "sliding_attention": {"rope_type": "yarn"}})
    assert of({"full_attention": {"rope_type": "default"}, "sliding_attention": {"rope_type": "longrope"}})
    assert of({"rope_type": "dynamic", "factor": 2.0})
