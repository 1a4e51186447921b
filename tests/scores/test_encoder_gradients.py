"""Gradient scores of a fine-tuned encoder against one row at a time, unpadded, in float64."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from classification.small_encoder import rows, save, save_bert
from safetensors.torch import load_file

from nncift_core.classification.contract import Checkpoint
from nncift_core.classification.full import train_encoder
from nncift_core.classification.heads import head_from
from nncift_core.classification.texts import load_text_encoder, tokenise
from nncift_core.config_prune import TrainingConfig
from nncift_core.errors import IntegrityError, UserError
from nncift_core.scores import encoder_gradients
from nncift_core.scores.encoder_gradients import encoder_gradient_scores
from nncift_core.scores.encoder_layers import embedding_layer, last_layer
from nncift_core.scores.grand import grand
from nncift_core.scores.tracin import tracin

N, C = 14, 3
ALL = ("vog", "tracin", "grand")
SETTINGS = TrainingConfig(
    mode="full", hidden=12, epochs=3, batch_size=7, learning_rate=2e-2, encoder_rate=1e-2
)


@dataclass(frozen=True)
class World:
    """A trained encoder with its rows."""

    folder: Path
    weights: Path
    checkpoints: tuple[Checkpoint, ...]
    texts: list[str]
    pairs: list[str] | None
    labels: np.ndarray

    def scores(self, *names: str, **changes: Any) -> dict[str, np.ndarray]:
        given = (self.texts, self.pairs, self.labels, names or ALL, SETTINGS)
        return encoder_gradient_scores(self.folder, self.weights, self.checkpoints, *given, **changes)


def world(folder: Path, weights: Path, pairs: bool = False) -> World:
    texts, labels = rows(N)
    seconds = texts[3:] + texts[:3] if pairs else None
    weights.mkdir()
    run = train_encoder(
        folder, texts, seconds, labels, 3, SETTINGS, seed=0, checkpoints=C, weights_dir=weights
    )
    return World(folder, weights, run.checkpoints, texts, seconds, labels)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> World:
    base = tmp_path_factory.mktemp("world")
    return world(save_bert(base / "bert"), base / "weights", pairs=True)


def squares(gradients: Any) -> float:
    return sum(float((g**2).sum()) for g in gradients if g is not None)


def plain(w: World) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """dE of every row, [C, T, dim] each; squared norms [C, N] of the last layer and of the head."""
    encoder = load_text_encoder(w.folder, "cpu")
    tokens = tokenise(encoder, w.texts, w.pairs, 128)
    at_e: list[list[np.ndarray]] = [[] for _ in range(N)]
    kept: list[torch.Tensor] = []
    hook = embedding_layer(encoder.model).register_forward_hook(lambda m, a, out: kept.append(out))
    norms = np.empty((2, C, N))
    for c, checkpoint in enumerate(w.checkpoints):
        encoder.model.float().load_state_dict(load_file(w.weights / checkpoint.weights))
        encoder.model.double()
        head = head_from(checkpoint.layers).double()
        for i in range(N):
            logits = head(encoder.pooled(tokens.batch(np.array([i]), "cpu")))
            (g,) = torch.autograd.grad(logits[0, w.labels[i]], kept.pop(), retain_graph=True)
            at_e[i].append(g[0].numpy())
            loss = torch.nn.functional.cross_entropy(logits, torch.tensor([int(w.labels[i])]))
            for part, module in enumerate((last_layer(encoder.model), head)):
                weights = list(module.parameters())
                norms[part, c, i] = squares(torch.autograd.grad(loss, weights, retain_graph=True))
    hook.remove()
    return [np.stack(each) for each in at_e], norms[0], norms[1]


def assert_plain(w: World, found: dict[str, np.ndarray], tolerance: float = 1e-4) -> None:
    at_e, layer, head = plain(w)
    rates = np.array([c.learning_rate for c in w.checkpoints])
    expected = {
        "vog": np.array([((g - g.mean(axis=0)) ** 2).sum(axis=0).mean() for g in at_e]) / np.sqrt(C),
        "tracin": tracin(layer, np.array([c.encoder_rate for c in w.checkpoints])),
        "tracin-head": tracin(head, rates),
        "grand": grand((layer + head)[:1]),
    }
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert np.ptp(values) > 0.1 * values.mean()
        assert (np.abs(found[name] - values) / values).max() < tolerance, name


def test_scores_are_those_of_a_loop_over_rows(bert):
    told: list[int] = []
    assert_plain(bert, bert.scores(progress=told.append))
    assert sum(told) == N * C


def test_blocks_and_batches_change_nothing(bert, monkeypatch):
    together = bert.scores()
    monkeypatch.setattr(encoder_gradients, "_CPU_TOKENS", 12)
    monkeypatch.setattr(encoder_gradients, "_CPU_BYTES", 40 * 16 * 20)
    apart = bert.scores()
    for name, values in together.items():
        assert np.allclose(apart[name], values, rtol=1e-4)


def test_weight_gradients_that_are_formed_have_the_norm_of_those_that_are_not(bert, monkeypatch):
    from nncift_core.scores import encoder_layers

    x, delta = torch.randn(5, 7, 6, generator=torch.Generator().manual_seed(0)).split([3, 3], dim=2)
    formed = encoder_layers._linear(x, delta)
    monkeypatch.setattr(encoder_layers, "_WEIGHT_BYTES", 80)
    in_parts = encoder_layers._linear(x, delta)
    products = torch.einsum("nti,nto->nio", x.double(), delta.double()).square().sum(dim=(1, 2))
    wide = [torch.cat([each] + [torch.zeros(5, 7, 60)], dim=2) for each in (x, delta)]
    for found in (formed, in_parts, encoder_layers._linear(*wide)):
        assert torch.allclose(found, products, rtol=1e-5)


def test_only_what_is_asked_for_is_given_and_taken(bert):
    every = bert.scores()
    for names, keys in (
        (("vog",), {"vog"}),
        (("tracin",), {"tracin", "tracin-head"}),
        (("grand",), {"grand"}),
    ):
        some = bert.scores(*names)
        assert some.keys() == keys
        for name in keys:
            assert np.allclose(some[name], every[name], rtol=1e-4)


def test_inference_mode_and_random_state_are_as_before(bert):
    before = torch.random.get_rng_state()
    with torch.inference_mode():
        assert np.allclose(bert.scores()["vog"], bert.scores("vog")["vog"], rtol=1e-4)
    assert torch.equal(before, torch.random.get_rng_state())


def test_other_encoders_are_looked_into_by_their_lists_of_layers(tmp_path):
    from transformers import DistilBertConfig, DistilBertModel, ModernBertConfig, ModernBertModel

    distil = DistilBertConfig(
        vocab_size=28,
        dim=16,
        n_layers=2,
        n_heads=2,
        hidden_dim=24,
        max_position_embeddings=32,
        initializer_range=0.3,
    )
    modern = ModernBertConfig(
        vocab_size=28,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=32,
        initializer_range=0.3,
        global_attn_every_n_layers=1,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
        cls_token_id=2,
        sep_token_id=3,
    )
    for name, kind, config in (
        ("distil", DistilBertModel, distil),
        ("modern", ModernBertModel, modern),
    ):
        w = world(save(kind, config, tmp_path / name), tmp_path / f"{name}-weights")
        assert_plain(w, w.scores(), 2e-4)


def test_a_layer_that_is_used_again_and_again_has_the_sum_of_its_gradients(tmp_path):
    from transformers import AlbertConfig, AlbertModel

    config = AlbertConfig(
        vocab_size=28,
        embedding_size=8,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=32,
        initializer_range=0.3,
    )
    w = world(save(AlbertModel, config, tmp_path / "albert"), tmp_path / "weights")
    assert_plain(w, w.scores(), 2e-4)


def test_a_model_without_the_places_is_refused_by_name():
    from transformers import BertConfig

    bare = torch.nn.Module()
    bare.config = BertConfig()
    with pytest.raises(UserError, match="no embedding layer") as e:
        embedding_layer(bare)
    assert e.value.field == "training.mode"
    with pytest.raises(UserError, match="no list of layers"):
        last_layer(bare)


def test_parameters_of_another_kind_are_refused_rather_than_left_out(tmp_path):
    from transformers import GPT2Config, GPT2Model

    config = GPT2Config(vocab_size=28, n_embd=16, n_layer=2, n_head=2, n_positions=32)
    w = world(save(GPT2Model, config, tmp_path / "gpt2"), tmp_path / "weights")
    with pytest.raises(UserError, match=r"attn\.c_attn\.weight is in a module of another kind"):
        w.scores("tracin")
    assert np.isfinite(w.scores("vog")["vog"]).all()


def test_weights_that_cannot_be_read_are_an_error_of_integrity(bert, tmp_path):
    for c in bert.checkpoints:
        (tmp_path / c.weights).write_bytes(b"no weights")
    broken = World(bert.folder, tmp_path, bert.checkpoints, bert.texts, bert.pairs, bert.labels)
    with pytest.raises(IntegrityError, match=bert.checkpoints[0].weights):
        broken.scores("tracin")
