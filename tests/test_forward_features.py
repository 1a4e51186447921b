"""Forward-pass features against plain passes over one text at a time, in float64."""

from __future__ import annotations

import json
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rope_models import fresh, rope_model
from test_chat import chat_model
from test_language_models import SMALL, load
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    GraniteConfig,
    MambaConfig,
    PhiConfig,
    PretrainedConfig,
)

from nncift_core import forward_features
from nncift_core.chat import conversation_ids, user
from nncift_core.config_sections import TEMPLATE_WITHOUT
from nncift_core.errors import UserError
from nncift_core.forward_features import ForwardFeatures, Layout, forward_key
from nncift_core.language_models import LanguageModel

ORACLES = Path(__file__).parent / "data" / "oracles"
LINES = (ORACLES / "examples.jsonl").read_text(encoding="utf-8").splitlines()
EXAMPLES = [(x["prompt"], x["response"]) for x in map(json.loads, LINES[:12])]
EDGES = [("", "yes"), ("Say nothing.", ""), ("naïve 😀", "{prompt}")]
ALL = EXAMPLES + EDGES


@pytest.fixture(scope="module")
def tiny() -> LanguageModel:
    torch.set_num_threads(1)
    return load()


def compute(model: LanguageModel, texts: Sequence[tuple[str, str]], **settings: Any) -> dict[str, np.ndarray]:
    """Features by name."""
    made = ForwardFeatures(model, TEMPLATE_WITHOUT, **settings)
    found = made.compute([p for p, _ in texts], [r for _, r in texts])
    assert found.dtype == np.float32 and found.shape == (len(texts), made.layout.size)
    return made.layout.split(found)


@dataclass
class Plain:
    """One text by a whole pass with gradients, in float64: h [P + T - 1, h], e [T, h], losses [T]."""

    n_prompt: int
    hidden: torch.Tensor
    slopes: torch.Tensor
    losses: torch.Tensor

    @property
    def inputs(self) -> torch.Tensor:
        return self.hidden[self.n_prompt - 1 :]


def plain(model: Any, prompt: list[int], response: list[int]) -> Plain:
    """model: in float64; e by differentiating the loss through the whole of it."""
    kept: list[torch.Tensor] = []

    def keep(_module: Any, args: tuple[torch.Tensor, ...]) -> None:
        args[0].retain_grad()
        kept.append(args[0])

    hook = model.get_output_embeddings().register_forward_pre_hook(keep)
    logits = model(input_ids=torch.tensor([prompt + response[:-1]]), use_cache=False).logits[0]
    hook.remove()
    log_p = torch.log_softmax(logits, -1)
    losses = torch.stack([-log_p[len(prompt) - 1 + t, y] for t, y in enumerate(response)])
    losses.sum().backward()
    (hidden,) = kept
    assert hidden.grad is not None
    return Plain(len(prompt), hidden[0].detach(), hidden.grad[0, len(prompt) - 1 :], losses.detach())


def ids_of(model: LanguageModel, texts: Sequence[tuple[str, str]]) -> list[tuple[list[int], list[int]]]:
    """The token rule with the plain template."""
    prompts = model.tokenize([TEMPLATE_WITHOUT.replace("{prompt}", p) for p, _ in texts])
    responses = model.tokenize([r for _, r in texts])
    return [([*model.bos_ids, *p], [*r, model.eos_id]) for p, r in zip(prompts, responses, strict=True)]


def check(found: dict[str, np.ndarray], k: int, expected: Plain, tolerance: float = 1e-5) -> None:
    """Row k of features against a plain pass; `tolerance` is relative to the largest number of a group."""
    h, e = expected.inputs, expected.slopes
    groups = {
        "hidden": torch.cat([h.mean(0), expected.hidden[: expected.n_prompt].mean(0)]),
        "error": e.mean(0),
        "proxy": (e.T @ h / len(h)).flatten(),
    }
    for name, values in groups.items():
        scale = float(values.abs().max())
        assert scale > 0
        np.testing.assert_allclose(
            found[name][k], values.numpy(), rtol=0, atol=tolerance * scale, err_msg=name
        )
    assert found["loss"][k, 0] == pytest.approx(float(expected.losses.mean()), rel=1e-5)
    np.testing.assert_allclose(found["tokens"][k], np.log1p([expected.n_prompt, len(h)]), rtol=1e-6)


def test_features_are_those_of_one_plain_pass_per_text(tiny: LanguageModel) -> None:
    found = compute(tiny, ALL)
    exact = deepcopy(tiny.model).double()
    nothing = tiny.tokenize([TEMPLATE_WITHOUT.replace("{prompt}", "")])[0][-1:]
    for k, (prompt, response) in enumerate(ids_of(tiny, ALL)):
        check(found, k, plain(exact, prompt, response))
        alone = plain(exact, nothing, response).losses.mean()
        assert found["loss"][k, 1] == pytest.approx(float(alone), rel=1e-5)


def test_the_proxy_is_the_output_layers_gradient_seen_through_its_weight(tiny: LanguageModel) -> None:
    """dL/dW = mean_t (p_t - onehot) h_t^T for the output layer by itself, so G = W^T dL/dW."""
    found = compute(tiny, EXAMPLES)
    exact = deepcopy(tiny.model).double()
    # The model's weight is tied to its embedding, whose gradient is not asked for.
    weight = exact.get_output_embeddings().weight.detach().clone().requires_grad_(True)
    for k, (prompt, response) in enumerate(ids_of(tiny, EXAMPLES)):
        inputs = plain(exact, prompt, response).inputs
        loss = torch.nn.functional.cross_entropy(inputs @ weight.T, torch.tensor(response))
        (gradient,) = torch.autograd.grad(loss, weight)
        g = (weight.detach().T @ gradient).flatten().numpy()
        np.testing.assert_allclose(found["proxy"][k], g, rtol=0, atol=1e-5 * np.abs(g).max())


def other_model(config: PretrainedConfig, tiny: LanguageModel) -> LanguageModel:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
        bias = getattr(model.get_output_embeddings(), "bias", None)
        if bias is not None:
            bias.normal_()
    return replace(tiny, model=model)


WORDS = SMALL | {"vocab_size": load().model.config.vocab_size, "tie_word_embeddings": True}
OTHERS = {
    "soft-capped": Gemma2Config(**WORDS, head_dim=16, final_logit_softcapping=0.5, sliding_window=4),
    "scaled": CohereConfig(**WORDS, logit_scale=4.0),
    "divided": GraniteConfig(**WORDS, logits_scaling=8.0),
    "bias": PhiConfig(**(WORDS | {"num_key_value_heads": 2, "tie_word_embeddings": False})),
    "state space": MambaConfig(
        vocab_size=WORDS["vocab_size"], hidden_size=16, state_size=4, num_hidden_layers=2
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_a_model_does_with_its_logits_is_in_its_slopes(name: str, tiny: LanguageModel) -> None:
    model = other_model(OTHERS[name], tiny)
    found = compute(model, ALL[::3])
    exact = deepcopy(model.model).double()
    for k, (prompt, response) in enumerate(ids_of(model, ALL[::3])):
        check(found, k, plain(exact, prompt, response), 1e-4)


def test_angles_that_follow_the_length(tmp_path: Path) -> None:
    # The last response token is part of the sequence there, so that its length is the text's own.
    model = rope_model("dynamic", tmp_path, limit=32)
    found = compute(model, ALL)
    for k, (prompt, response) in enumerate(ids_of(model, ALL)):
        with torch.no_grad():
            out = fresh(model).model(input_ids=torch.tensor([prompt + response]), output_hidden_states=True)
        hidden = out.hidden_states[-1][0, :-1].numpy()
        mean = np.concatenate([hidden[len(prompt) - 1 :].mean(0), hidden[: len(prompt)].mean(0)])
        np.testing.assert_allclose(found["hidden"][k], mean, rtol=0, atol=1e-5 * np.abs(mean).max())


def cosines(x: np.ndarray) -> np.ndarray:
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    return np.asarray((unit @ unit.T)[np.triu_indices(len(x), 1)])


def test_the_sketch_keeps_cosines_to_its_standard_error(tiny: LanguageModel) -> None:
    texts = [(x["prompt"], x["response"]) for x in map(json.loads, LINES)]
    exact = cosines(compute(tiny, texts)["proxy"])
    error = {}
    for size in (256, 1024):
        made = compute(tiny, texts, sketch=size)
        assert made["proxy"].shape == (len(texts), size)
        error[size] = float(np.sqrt(((cosines(made["proxy"]) - exact) ** 2).mean()))
        assert 0 < error[size] < 1.5 / np.sqrt(size)
    assert error[1024] < 0.7 * error[256]


def test_values_do_not_depend_on_the_batch(tiny: LanguageModel) -> None:
    whole = compute(tiny, ALL)
    order = np.random.default_rng(0).permutation(len(ALL))
    mixed = compute(tiny, [ALL[k] for k in order], batch_tokens=200)
    alone = [compute(tiny, [text]) for text in ALL]
    for name, values in whole.items():
        scale = np.abs(values).max()
        for k in range(len(ALL)):
            at = int(np.flatnonzero(order == k)[0])
            np.testing.assert_allclose(mixed[name][at], values[k], rtol=0, atol=1e-5 * scale)
            np.testing.assert_allclose(alone[k][name][0], values[k], rtol=0, atol=1e-5 * scale)


def test_long_texts_lose_what_the_context_rule_says_and_are_counted(tiny: LanguageModel) -> None:
    short = replace(tiny, context_length=40)
    texts = [("word " * 100, "a b c"), ("one", "two"), ("one", "word " * 100)]
    made = ForwardFeatures(short, TEMPLATE_WITHOUT)
    found = made.layout.split(made.compute([p for p, _ in texts], [r for _, r in texts]))
    assert made.counters["truncated_feature_rows"] == 2
    ids = ids_of(tiny, texts)
    room = 40 - len(ids[0][1])
    kept = [(ids[0][0][-room:], ids[0][1]), ids[1], (ids[2][0][-1:], ids[2][1][:39])]
    exact = deepcopy(tiny.model).double()
    for k, (prompt, response) in enumerate(kept):
        check(found, k, plain(exact, prompt, response))


def test_memory_that_runs_out_halves_the_batches(
    tiny: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, look, refused = compute(tiny, ALL), forward_features.look, []

    def limited(model: LanguageModel, batch: Any) -> Any:
        if batch.ids.numel() > 400:
            refused.append(batch.ids.numel())
            raise torch.OutOfMemoryError("out of memory")
        return look(model, batch)

    monkeypatch.setattr(forward_features, "look", limited)
    found = compute(tiny, ALL)
    assert refused
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=0, atol=1e-5 * np.abs(values).max())


def test_a_model_that_shows_no_hidden_states_has_losses_only(
    tiny: LanguageModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = compute(tiny, EXAMPLES)
    monkeypatch.setattr(tiny.model, "get_output_embeddings", lambda: None)
    found = compute(tiny, EXAMPLES)
    assert "only losses are features" in caplog.text
    assert set(found) == {"loss", "tokens"}
    np.testing.assert_allclose(found["loss"], expected["loss"], rtol=1e-5)


def test_chat_models_read_prompts_in_their_own_template(tmp_path: Path) -> None:
    model = chat_model(tmp_path / "lm", "llama3")
    texts = EXAMPLES[:3]
    found = compute(model, texts)
    prompts = conversation_ids(model, [[user(p)] for p, _ in texts])
    responses = model.tokenize([r for _, r in texts])
    exact = deepcopy(model.model).double()
    for k in range(len(texts)):
        response = [*responses[k], model.eos_id]
        check(found, k, plain(exact, [*model.bos_ids, *prompts[k]], response))
        alone = plain(exact, list(model.bos_ids), response).losses.mean()
        assert found["loss"][k, 1] == pytest.approx(float(alone), rel=1e-5)


def test_low_precision_weights_stay_near(tiny: LanguageModel) -> None:
    exact, rounded = compute(tiny, EXAMPLES), compute(load(dtype="bfloat16"), EXAMPLES)
    for name in ("hidden", "error", "proxy"):
        a, b = exact[name], rounded[name]
        cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        assert 0.98 < cosine.min() < 1 - 1e-7


def test_an_empty_prompt_names_the_template(tiny: LanguageModel) -> None:
    with pytest.raises(UserError, match="field influence.less.template: .*no tokens"):
        ForwardFeatures(tiny, "{prompt}", field="influence.less.template").compute([""], ["yes"])


def test_no_text_and_progress(tiny: LanguageModel) -> None:
    made = ForwardFeatures(tiny, TEMPLATE_WITHOUT, batch_tokens=200)
    assert made.compute([], []).shape == (0, made.layout.size)
    done: list[int] = []
    made.compute([p for p, _ in ALL], [r for _, r in ALL], done.append)
    assert len(done) > 1 and sum(done) == len(ALL)


@pytest.mark.parametrize("width", [0, 1, 63, 64, 65, 128, 4096])
def test_the_layout_of_a_vector_follows_from_its_size(width: int) -> None:
    layout = Layout(width)
    assert Layout.of(layout.size) == layout
    names = layout.split(np.zeros((2, layout.size), np.float32))
    assert sum(x.shape[1] for x in names.values()) == layout.size


def test_sizes_without_a_layout_and_keys() -> None:
    with pytest.raises(ValueError, match="no forward features of 10 numbers"):
        Layout.of(10)
    keys = {forward_key("a", "t"), forward_key("b", "t"), forward_key("a", "u"), forward_key("a", "t", 64)}
    assert len(keys) == 4
