"""Warm-up training: learns, repeats itself, and equals a plain loop of torch's AdamW."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gradients.small import SHAPE, oracle_rows, sequences_of, tiny, tiny_adapted
from influence.plain_less import plain_gradient

from nncift_core.batching import TokenBudget
from nncift_core.config import LessConfig
from nncift_core.errors import UserError
from nncift_core.gradients.adapters import Adapted, attach
from nncift_core.gradients.checkpoints import Checkpoint
from nncift_core.gradients.per_sample import Sequences
from nncift_core.gradients.warm_up import RowDropout, WarmUp, schedule, warm_up


def settings(**changes: Any) -> LessConfig:
    base = {"rank": 4, "alpha": 8, "epochs": 2, "batch_size": 4, "learning_rate": 0.01, "warmup": 0.25}
    return LessConfig(**{**base, **changes})


@pytest.fixture(scope="module")
def adapted() -> Adapted:
    return tiny_adapted()


@pytest.fixture(scope="module")
def sequences(adapted: Adapted) -> Sequences:
    return sequences_of(adapted.model, oracle_rows("pool", 10))


def run(
    adapted: Adapted, sequences: Sequences, folder: Path, seed: int = 1, tokens: int = 4096, **changes: Any
) -> tuple[WarmUp, list[Checkpoint]]:
    folder.mkdir()
    config = settings(**changes)
    ids = np.arange(50, 50 + len(sequences))
    done = warm_up(adapted, config, ids, sequences, seed, TokenBudget(tokens), folder)
    names = [f"checkpoint-{k}.safetensors" for k in range(1, config.epochs + 1)]
    assert sorted(p.name for p in folder.iterdir()) == names
    return done, [Checkpoint.load(folder / name) for name in names]


def assert_equal(a: Checkpoint, b: Checkpoint, tolerance: float = 0.0) -> None:
    for part in ("weight", "exp_avg", "exp_avg_sq"):
        for name, tensor in getattr(a, part).items():
            other = getattr(b, part)[name]
            assert float((tensor - other).norm()) <= tolerance * float(other.norm()), (part, name)


def test_learning_rates_rise_then_fall() -> None:
    assert schedule(8, 1.0, 0.25) == [0, 0.5, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]
    assert schedule(4, 2.0, 0.0) == [2, 1.5, 1, 0.5]
    assert schedule(1, 1.0, 1.0) == [1] and schedule(3, 1.0, 1.0) == [0, 0.5, 1]


def test_the_loss_falls_and_the_rates_are_recorded(
    adapted: Adapted, sequences: Sequences, tmp_path: Path
) -> None:
    calls: list[tuple[int, int]] = []
    (tmp_path / "a").mkdir()
    ids = np.arange(len(sequences))
    done = warm_up(adapted, settings(epochs=4), ids, sequences, 1, TokenBudget(4096), tmp_path / "a",
                   lambda k, n: calls.append((k, n)))  # fmt: skip
    assert calls == [(k, 12) for k in range(1, 13)] and done.steps == 12
    assert done.losses[3] < done.losses[0] - 0.1
    rates = schedule(12, 0.01, 0.25)
    assert done.learning_rates == pytest.approx([np.mean(rates[k : k + 3]) for k in (0, 3, 6, 9)])
    last = Checkpoint.load(tmp_path / "a" / "checkpoint-4.safetensors")
    assert (last.epoch, last.steps, last.shape) == (4, 12, SHAPE)
    assert last.learning_rate == done.learning_rates[3]
    last.check(adapted)


def test_it_equals_a_plain_loop(sequences: Sequences, tmp_path: Path) -> None:
    """Steps, moments and clipping, against torch's AdamW on gradients of one row at a time."""
    loud = replace(SHAPE, alpha=64)
    _, found = run(tiny_adapted(loud), sequences, tmp_path / "a", dropout=0.0, weight_decay=0.1)
    other = tiny_adapted(loud)
    other.start_anew(1)
    optimizer = torch.optim.AdamW(other.parameters.values(), lr=1.0, weight_decay=0.1)
    rates, clipped = schedule(6, 0.01, 0.25), 0
    for epoch in range(2):
        shuffled = np.random.default_rng([1, epoch]).permutation(10)
        for step, start in enumerate(range(0, 10, 4)):
            rows = shuffled[start : start + 4]
            total, tokens = torch.zeros(other.dimension, dtype=torch.float64), 0
            for k in rows:
                prompt, response = list(sequences.prompts[k]), list(sequences.responses[k])
                total += plain_gradient(other, prompt, response)[0] * len(response)
                tokens += len(response)
            mean = total / tokens
            clipped += bool(mean.norm() > 1)
            mean /= max(1.0, float(mean.norm()))
            for name, p in other.parameters.items():
                p.grad = mean[other.spans()[name]].view(p.shape).float()
            optimizer.param_groups[0]["lr"] = rates[epoch * 3 + step]
            optimizer.step()
        wanted = replace(
            found[epoch],
            weight={name: p.detach() for name, p in other.parameters.items()},
            exp_avg={name: optimizer.state[p]["exp_avg"] for name, p in other.parameters.items()},
            exp_avg_sq={name: optimizer.state[p]["exp_avg_sq"] for name, p in other.parameters.items()},
        )
        assert_equal(found[epoch], wanted, 1e-3)
    assert clipped


def test_the_same_seed_gives_the_same_checkpoints(
    adapted: Adapted, sequences: Sequences, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    first, a = run(adapted, sequences, tmp_path / "a")
    torch.manual_seed(2)
    again, b = run(tiny_adapted(), sequences, tmp_path / "b")
    assert first == again
    for x, y in zip(a, b, strict=True):
        assert_equal(x, y)
    other, c = run(adapted, sequences, tmp_path / "c", seed=2)
    assert other.losses != first.losses
    with pytest.raises(AssertionError):
        assert_equal(a[0], c[0], 0.1)


def test_order_of_rows_and_batches_change_nothing_even_with_dropout(
    adapted: Adapted, sequences: Sequences, tmp_path: Path
) -> None:
    first, a = run(adapted, sequences, tmp_path / "a", dropout=0.3)
    none, _ = run(adapted, sequences, tmp_path / "none", dropout=0.0)
    assert abs(none.losses[1] - first.losses[1]) > 1e-3
    small, b = run(adapted, sequences, tmp_path / "b", tokens=1, dropout=0.3)
    assert small.losses == pytest.approx(first.losses, rel=1e-5)
    assert_equal(a[0], b[0], 1e-3)
    order = np.random.default_rng(0).permutation(10)
    (tmp_path / "c").mkdir()
    again = warm_up(adapted, settings(dropout=0.3), order + 50, sequences.take(order), 1, TokenBudget(4096),
                    tmp_path / "c")  # fmt: skip
    assert again == first
    assert_equal(a[1], Checkpoint.load(tmp_path / "c" / "checkpoint-2.safetensors"))


def test_memory_that_runs_out_changes_nothing(adapted: Adapted, sequences: Sequences, tmp_path: Path) -> None:
    first, a = run(adapted, sequences, tmp_path / "a")

    def check(_module: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        if kwargs["input_ids"].numel() > 400:
            raise torch.OutOfMemoryError("CUDA out of memory")

    hook = adapted.model.model.register_forward_pre_hook(check, with_kwargs=True)
    try:
        again, b = run(adapted, sequences, tmp_path / "b")
    finally:
        hook.remove()
    assert again.losses == pytest.approx(first.losses, rel=1e-5)
    assert_equal(a[0], b[0], 1e-3)


def test_a_training_that_diverges_names_the_learning_rate(
    adapted: Adapted, sequences: Sequences, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="field influence.less.learning_rate: the warm-up training failed"):
        run(adapted, sequences, tmp_path / "a", learning_rate=1e30)
    assert not any(p.requires_grad for p in adapted.parameters.values())


def test_fresh_adapters_change_nothing_and_the_base_model_stays(sequences: Sequences, tmp_path: Path) -> None:
    model = tiny()
    ids = torch.tensor([list(sequences.prompts[0])])
    with torch.inference_mode():
        before = model.model(input_ids=ids).logits
    base = {name: p.detach().clone() for name, p in model.model.named_parameters()}
    adapted = attach(model, SHAPE)
    adapted.start_anew(5)
    with torch.inference_mode():
        assert torch.equal(adapted.model.model(input_ids=ids).logits, before)
    run(adapted, sequences, tmp_path / "a")
    with torch.inference_mode():
        assert not torch.equal(adapted.model.model(input_ids=ids).logits, before)
    for name, p in base.items():
        path = name.replace("_proj.weight", "_proj.base_layer.weight") if "self_attn" in name else name
        assert torch.equal(adapted.model.model.get_parameter(f"base_model.model.{path}"), p)


def test_dropout_masks_belong_to_rows() -> None:
    drop = RowDropout(0.25, "layer")
    drop.set_place(3, 0)
    ids = torch.tensor([11, 5, 2**62])
    drop.rows = ids
    x = torch.ones(3, 40, 130)
    y = drop(x)
    kept = y > 0
    assert y.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert float(kept.float().mean()) == pytest.approx(0.75, abs=0.02)
    for dim in (0, 1, 2):
        others = tuple(d for d in range(3) if d != dim)
        assert 0.6 < float(kept.float().mean(others).min()) <= float(kept.float().mean(others).max()) < 0.9
    drop.rows = ids[1:2]
    assert torch.equal(drop(x[:1, :30]), y[1:2, :30])
    drop.set_place(3, 1)
    assert not torch.equal(drop(x[:1]), y[1:2])
