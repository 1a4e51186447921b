"""Trimming the last layer: the same values, fewer positions, and never where it would change them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ORACLES
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PretrainedConfig

from nncift_core.config import LanguageModelConfig
from nncift_core.forward import encode_together, response_log_probs
from nncift_core.language_models import LanguageModel, load_language_model
from nncift_core.last_layer import trimmable

PROMPTS, RESPONSES = [[5, 6, 7, 8, 9], [20]], [[30, 31, 0], [33, 34, 0]]
CONFIGS = {
    "llama": LlamaConfig(
        vocab_size=50, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2
    ),
    "gpt2": GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2, n_positions=64),
}


@pytest.fixture(scope="module")
def tiny() -> LanguageModel:
    return load_language_model(LanguageModelConfig(model=str(ORACLES / "tiny-lm"), dtype="float32"), "cpu")


def random_model(config: PretrainedConfig, tiny: LanguageModel) -> LanguageModel:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    return replace(tiny, model=model, context_length=64)


def last_feed_forward(lm: LanguageModel) -> Any:
    model: Any = lm.model
    return model.transformer.h[-1].mlp if hasattr(model, "transformer") else model.model.layers[-1].mlp


def alone(lm: LanguageModel) -> list[np.ndarray]:
    """Log-probabilities by the model's own whole forward pass, one sequence at a time."""
    found = []
    for prompt, response in zip(PROMPTS, RESPONSES, strict=True):
        ids = torch.tensor([[*prompt, *response]])
        with torch.inference_mode():
            log_p = torch.log_softmax(lm.model(input_ids=ids).logits[0], -1)
        at = range(len(prompt) - 1, len(prompt) + len(response) - 1)
        found.append(np.array([float(log_p[t, ids[0, t + 1]]) for t in at]))
    return found


@pytest.mark.parametrize("name", CONFIGS)
def test_the_last_feed_forward_part_sees_what_is_read_and_no_more(name: str, tiny: LanguageModel) -> None:
    lm = random_model(CONFIGS[name], tiny)
    seen: list[int] = []
    last_feed_forward(lm).register_forward_hook(lambda m, a, out: seen.append(a[0].shape[:2].numel()))
    response_log_probs(lm, PROMPTS, RESPONSES)
    seen.clear()
    found = response_log_probs(lm, PROMPTS, RESPONSES)
    assert seen == [6]
    for a, b in zip(found, alone(lm), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)
    seen.clear()
    encode_together(lm, [[1, 2, 3, 4], [5, 6]])
    assert seen == [1]


class _Mixing(torch.nn.Module):
    """A last part that looks at other positions: what must not be trimmed."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x) + x.cumsum(1)


def test_a_part_that_mixes_positions_is_left_whole(tiny: LanguageModel) -> None:
    lm = random_model(CONFIGS["llama"], tiny)
    lm.model.model.layers[-1].mlp = _Mixing(lm.model.model.layers[-1].mlp)
    for a, b in zip(response_log_probs(lm, PROMPTS, RESPONSES), alone(lm), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)
    assert trimmable(lm.model, lambda part: torch.zeros(1)) is None


def test_gradients_go_through_the_whole_layer(tiny: LanguageModel) -> None:
    from nncift_core.forward import logits_at

    lm = random_model(CONFIGS["llama"], tiny)
    seen: list[int] = []
    last_feed_forward(lm).register_forward_hook(lambda m, a, out: seen.append(a[0].shape[:2].numel()))
    logits_at(lm, torch.tensor([[1, 2, 3, 4]]), (torch.tensor([0]), torch.tensor([2])), None)
    assert seen == [4]
