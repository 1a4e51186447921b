"""Per-example gradients against one backward pass per example."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gradients.small import QKVO, TINY, oracle_checkpoint, oracle_rows, sequences_of, tiny, tiny_adapted
from influence.plain_less import plain_gradient
from rope_models import KINDS, fresh, rope_model

from nncift_core.batching import TokenBudget
from nncift_core.config import LanguageModelConfig
from nncift_core.errors import RunError, UserError
from nncift_core.gradients import per_sample
from nncift_core.gradients.adapters import Adapted, Shape, attach
from nncift_core.gradients.features import GradientFeatures
from nncift_core.gradients.per_sample import PerSample, Sequences
from nncift_core.gradients.projection import Projection
from nncift_core.language_models import LanguageModel, load_language_model


def trained(adapted: Adapted) -> Adapted:
    """With weights that are not zero, so that every coordinate has a gradient."""
    draw = torch.Generator().manual_seed(3)
    adapted.set_weights(
        {name: torch.randn(p.shape, generator=draw) * 0.05 for name, p in adapted.parameters.items()}
    )
    return adapted


def all_gradients(
    adapted: Adapted, sequences: Sequences, tokens: int = 4096, most: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients [n, D] and losses [n] in the order of `sequences`."""
    out, losses = torch.empty(len(sequences), adapted.dimension), torch.empty(len(sequences))
    for index, g, loss in PerSample(adapted).blocks(sequences, TokenBudget(tokens), most):
        out[index], losses[index] = g, loss
    return out, losses


def assert_plain(adapted: Adapted, sequences: Sequences, tolerance: float = 1e-5) -> None:
    found, losses = all_gradients(adapted, sequences)
    for k, (prompt, response) in enumerate(zip(sequences.prompts, sequences.responses, strict=True)):
        g, loss = plain_gradient(adapted, list(prompt), list(response))
        assert float((found[k] - g).norm()) < tolerance * float(g.norm())
        assert float(losses[k]) == pytest.approx(loss, rel=tolerance)


@pytest.fixture(scope="module")
def adapted() -> Adapted:
    return trained(tiny_adapted())


@pytest.fixture(scope="module")
def sequences(adapted: Adapted) -> Sequences:
    return sequences_of(adapted.model, oracle_rows("pool"))


def gpt2(**changes: Any) -> LanguageModel:
    """A random GPT-2: Conv1D layers, learned positions, dropout in the base."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=1000, n_positions=512, n_embd=32, n_layer=2, n_head=2, **changes)
    return replace(tiny(), model=GPT2LMHeadModel(config).eval(), context_length=512)


def mistral() -> LanguageModel:
    """A random Mistral with a sliding window shorter than most rows, and an output layer of its own."""
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=1000, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, sliding_window=24, max_position_embeddings=512,
    )  # fmt: skip
    return replace(tiny(), model=MistralForCausalLM(config).eval())


def test_a_batch_equals_one_backward_pass_per_example(adapted: Adapted, sequences: Sequences) -> None:
    assert_plain(adapted, sequences.take(np.arange(12)))


@pytest.mark.parametrize(
    ("model", "targets"),
    [(gpt2, ("c_attn", "c_proj", "c_fc")), (gpt2, "all-linear"), (mistral, QKVO), (mistral, "all-linear")],
)
def test_other_architectures(model: Callable[[], LanguageModel], targets: Any) -> None:
    adapted = trained(attach(model(), Shape(4, 8, targets)))
    assert_plain(adapted, sequences_of(adapted.model, oracle_rows("pool", 7)))


def test_batches_blocks_and_order_change_nothing(adapted: Adapted, sequences: Sequences) -> None:
    large, losses = all_gradients(adapted, sequences)
    norms = large.norm(dim=1)
    for tokens, most in ((1, None), (300, 5), (700, 1)):
        other, other_losses = all_gradients(adapted, sequences, tokens, most)
        assert float(((other - large).norm(dim=1) / norms).max()) < 1e-5
        torch.testing.assert_close(other_losses, losses, rtol=1e-5, atol=0)
    shuffled = np.random.default_rng(0).permutation(len(sequences))
    other, _ = all_gradients(adapted, sequences.take(shuffled))
    assert float(((other - large[shuffled]).norm(dim=1) / norms[shuffled]).max()) < 1e-5
    assert all_gradients(adapted, sequences.take(np.arange(0)))[0].shape == (0, adapted.dimension)


def test_one_token_responses_and_one_token_prompts(adapted: Adapted) -> None:
    assert_plain(adapted, Sequences([[5], [5, 6, 7], [9]], [[0], [0], [3, 0]]))


def test_a_model_without_pad_token_gives_the_same(adapted: Adapted, sequences: Sequences) -> None:
    some = sequences.take(np.arange(6))
    with_pad, _ = all_gradients(adapted, some)
    before = adapted.model.tokenizer.pad_token
    try:
        adapted.model.tokenizer.pad_token = None
        assert torch.equal(all_gradients(adapted, some)[0], with_pad)
    finally:
        adapted.model.tokenizer.pad_token = before


def test_dropout_of_the_base_model_is_off() -> None:
    adapted = trained(attach(gpt2(resid_pdrop=0.5, attn_pdrop=0.5), Shape(2, 4, ("c_attn",))))
    adapted.model.model.train()
    sequences = sequences_of(adapted.model, oracle_rows("pool", 3))
    assert torch.equal(all_gradients(adapted, sequences)[0], all_gradients(adapted, sequences)[0])


@pytest.mark.parametrize(("dtype", "least"), [("bfloat16", 0.995), ("float16", 0.9999)])
def test_low_precision_weights_stay_near(dtype: Any, least: float, sequences: Sequences) -> None:
    model = load_language_model(LanguageModelConfig(model=TINY, dtype=dtype), "cpu")
    low, high = trained(attach(model, Shape(4, 8, QKVO))), trained(tiny_adapted())
    assert {p.dtype for p in low.parameters.values()} == {torch.float32}
    some = sequences.take(np.arange(8))
    a, b = all_gradients(low, some)[0], all_gradients(high, some)[0]
    assert a.dtype == torch.float32
    cosine = torch.nn.functional.cosine_similarity(a, b)
    assert least < float(cosine.min()) and float((a - b).abs().max()) > 0
    alone = torch.cat([all_gradients(low, some.take(np.array([k])))[0] for k in range(8)])
    assert float(torch.nn.functional.cosine_similarity(a, alone).min()) > least


def out_of_memory_beyond(adapted: Adapted, tokens: int) -> tuple[list[int], Any]:
    """Make forward passes of more than `tokens` fail as a full GPU does; returns the sizes of all tried."""
    sizes: list[int] = []

    def check(_module: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        sizes.append(kwargs["input_ids"].numel())
        if sizes[-1] > tokens:
            raise torch.OutOfMemoryError("CUDA out of memory")

    return sizes, adapted.model.model.register_forward_pre_hook(check, with_kwargs=True)


def test_batches_that_memory_does_not_hold_are_halved(
    adapted: Adapted, sequences: Sequences, caplog: pytest.LogCaptureFixture
) -> None:
    wanted, _ = all_gradients(adapted, sequences)
    sizes, hook = out_of_memory_beyond(adapted, 500)
    budget = TokenBudget(4096)
    got = torch.full_like(wanted, torch.nan)
    try:
        with caplog.at_level(logging.WARNING):
            for index, g, _ in PerSample(adapted).blocks(sequences, budget):
                got[index] = g
    finally:
        hook.remove()
    assert budget.tokens <= 500 < max(sizes) and "does not hold" in caplog.text
    assert float(((got - wanted).norm(dim=1) / wanted.norm(dim=1)).max()) < 1e-5


def test_one_sequence_that_memory_does_not_hold_stops_the_run(adapted: Adapted, sequences: Sequences) -> None:
    _, hook = out_of_memory_beyond(adapted, 50)
    try:
        with pytest.raises(RunError, match="does not fit into the memory"):
            all_gradients(adapted, sequences)
    finally:
        hook.remove()


def test_waiting_gradients_respect_the_memory_set_aside(
    adapted: Adapted, sequences: Sequences, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(per_sample, "_CPU_BYTES", 4 * adapted.dimension * 5 + 3)
    sizes = [len(index) for index, _, _ in PerSample(adapted).blocks(sequences, TokenBudget(4096))]
    assert sizes == [5, 5, 5, 5, 4]


def test_targets_that_are_no_linear_layer_are_refused() -> None:
    with pytest.raises(UserError, match=r'influence.less.targets: the language model has no module "qkv".*'
                       r"down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"):  # fmt: skip
        attach(tiny(), Shape(4, 8, ("q_proj", "qkv")))
    for name, what in (
        ("embed_tokens", "another kind"),
        ("self_attn", "something else"),
        ("lm_head", "output"),
    ):
        with pytest.raises(UserError, match=f"influence.less.targets: .*{what}"):
            attach(mistral(), Shape(4, 8, (name,)))
    with pytest.raises(UserError, match="is empty"):
        attach(tiny(), Shape(4, 8, ()))


def test_coordinates_are_the_sorted_names_of_the_adapter_file(adapted: Adapted) -> None:
    names = list(adapted.parameters)
    assert names == sorted(oracle_checkpoint(1, "").weight) and adapted.dimension == 3584
    assert adapted.spans()[names[0]] == slice(0, 4 * 64)
    flat = adapted.flat(adapted.parameters)
    name = names[5]
    torch.testing.assert_close(flat[adapted.spans()[name]].view(adapted.parameters[name].shape),
                               adapted.parameters[name].detach(), rtol=0, atol=0)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_angles_that_follow_the_length_do_not_mix(kind: str, tmp_path: Path) -> None:
    adapted = trained(attach(rope_model(kind, tmp_path), Shape(2, 4, QKVO)))
    rows = sequences_of(adapted.model, oracle_rows("pool", 12))
    assert rows.lengths().min() < 128 < rows.lengths().max()
    found, losses = all_gradients(adapted, rows)
    plain = replace(adapted, model=fresh(adapted.model))
    for k, (prompt, response) in enumerate(zip(rows.prompts, rows.responses, strict=True)):
        g, loss = plain_gradient(plain, list(prompt), list(response))
        assert float((found[k] - g).norm()) < 1e-5 * float(g.norm())
        assert float(losses[k]) == pytest.approx(loss, rel=1e-5)


def test_a_projection_that_memory_does_not_hold_is_done_in_halves(
    adapted: Adapted, sequences: Sequences, monkeypatch: pytest.MonkeyPatch
) -> None:
    projection = Projection(adapted.dimension, 256, "rademacher", 3)
    features = GradientFeatures(adapted, projection, TokenBudget(4096))
    rows = sequences.take(np.arange(9))
    expected = features.compute(rows, adam=False)
    sizes: list[int] = []
    most, apply = 4, projection.apply

    def limited(gradients: torch.Tensor) -> torch.Tensor:
        sizes.append(len(gradients))
        if len(gradients) > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return apply(gradients)

    monkeypatch.setattr(projection, "apply", limited)
    found = features.compute(rows, adam=False)
    np.testing.assert_array_equal(found.vectors, expected.vectors)
    np.testing.assert_array_equal(found.norms, expected.norms)
    assert sizes == [9, 4, 5, 2, 3]
    most = 0
    with pytest.raises(torch.OutOfMemoryError):
        features.compute(rows, adam=False)
