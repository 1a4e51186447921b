"""Training of a head on cached embeddings: what a plain loop gives, and nothing shared between trainings."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

from nncift_core.classification import contract, frozen
from nncift_core.classification.contract import Run, observed
from nncift_core.classification.frozen import train_head
from nncift_core.classification.heads import head_from, make_head
from nncift_core.classification.schedule import batches, checkpoint_steps, logging_points, rate_factor
from nncift_core.config_prune import TrainingConfig

SETTINGS = TrainingConfig(hidden=12, epochs=3, batch_size=16, learning_rate=5e-3, dropout=0.0, log_every=2)
K = 4


def data(n: int = 60, d: int = 9, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, K, n)
    return (rng.normal(size=(n, d)) + labels[:, None]).astype(np.float32), labels


def train(settings: TrainingConfig = SETTINGS, seed: int = 1, n: int = 60, **changes: Any) -> Run:
    x, labels = data(n)
    test = {"test": data(30, seed=7)[0]}
    return train_head(x, labels, K, settings, seed=seed, **({"log": True, "evaluate": test} | changes))


def same(a: Run, b: Run) -> bool:
    assert a.dynamics is not None and b.dynamics is not None
    equal = np.array_equal(a.predictions["test"].probabilities, b.predictions["test"].probabilities)
    return equal and np.array_equal(a.dynamics.margin, b.dynamics.margin)


@pytest.mark.parametrize("head", ["paper", "linear"])
@pytest.mark.parametrize("warmup", [0.0, 0.3])
def test_steps_are_those_of_a_plain_loop_when_nothing_is_dropped(head, warmup):
    settings = SETTINGS.model_copy(update={"head": head, "warmup": warmup})
    run = train(settings, checkpoints=5)
    assert run.dynamics is not None
    x, labels = data()
    features, y = torch.from_numpy(x), torch.from_numpy(labels)
    model = make_head(head, 9, K, 12, 0.0, 1)
    adam = torch.optim.Adam(model.parameters(), lr=5e-3)
    step, total = 0, 3 * 4
    looks, kept = [], []
    for epoch in range(3):
        for rows in batches(60, 16, 1, epoch):
            for group in adam.param_groups:
                group["lr"] = 5e-3 * rate_factor(step, total, warmup)
            adam.zero_grad()
            torch.nn.functional.cross_entropy(model(features[rows]), y[rows]).backward()
            adam.step()
            step += 1
            with torch.no_grad():
                if step in logging_points(60, settings):
                    looks.append(observed(model(features).numpy(), labels))
                if step in checkpoint_steps(total, 5):
                    kept.append([p.detach().numpy().copy() for p in model.parameters()])
    expected = torch.softmax(model(torch.from_numpy(data(30, seed=7)[0])), dim=1).detach().numpy()
    assert np.abs(run.predictions["test"].probabilities - expected).max() < 1e-5
    assert len(looks) == len(run.dynamics) and len(kept) == len(run.checkpoints) == 5
    for name in ("margin", "el2n", "log_probability"):
        assert np.abs(getattr(run.dynamics, name) - np.stack([o[name] for o in looks])).max() < 1e-5
    for checkpoint, weights in zip(run.checkpoints, kept, strict=True):
        ours = [array for pair in checkpoint.layers for array in pair]
        assert all(np.abs(a - b).max() < 1e-5 for a, b in zip(ours, weights, strict=True))


def test_without_warm_up_checkpoints_have_the_falling_rate_and_are_at_their_steps():
    run = train(checkpoints=4)
    assert [c.step for c in run.checkpoints] == checkpoint_steps(12, 4) == [3, 6, 9, 12]
    for c in run.checkpoints:
        assert c.learning_rate == pytest.approx(5e-3 * rate_factor(c.step - 1, 12, 0.0))
        assert (c.epoch, c.encoder_rate, c.weights) == (c.step / 4, 0, "")


def test_dynamics_are_of_the_logits_at_the_logging_points():
    run = train(checkpoints=12)
    assert run.dynamics is not None
    x, labels = data()
    points = logging_points(60, SETTINGS)
    assert dict(zip(run.dynamics.steps.tolist(), run.dynamics.epoch_end.tolist(), strict=True)) == points
    assert run.dynamics.epochs.tolist() == [s / 4 for s in points]
    for t, step in enumerate(points):
        layers = next(c.layers for c in run.checkpoints if c.step == step)
        expected = observed(head_from(layers)(torch.from_numpy(x)).detach().numpy(), labels)
        assert np.abs(run.dynamics.margin[t] - expected["margin"]).max() < 1e-5
        assert np.array_equal(run.dynamics.predicted[t], expected["predicted"])


def test_looking_and_keeping_change_nothing():
    settings = SETTINGS.model_copy(update={"dropout": 0.4})
    plain = train(settings, log=False)
    looked = train(settings, checkpoints=6)
    assert plain.dynamics is None and plain.checkpoints == ()
    assert np.array_equal(plain.predictions["test"].probabilities, looked.predictions["test"].probabilities)


def test_equal_arguments_give_equal_runs_and_other_seeds_do_not():
    settings = SETTINGS.model_copy(update={"dropout": 0.4})
    first = train(settings)
    assert same(first, train(settings))
    assert not same(first, train(settings, seed=2))
    assert not same(first, train(SETTINGS)), "dropout drops something"


def test_trainings_in_threads_do_not_disturb_each_other():
    settings = SETTINGS.model_copy(update={"dropout": 0.4, "epochs": 2})
    alone = [train(settings, seed=s) for s in range(16)]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            beside = list(pool.map(lambda s: train(settings, seed=s), range(16)))
            assert all(same(a, b) for a, b in zip(alone, beside, strict=True))


def test_random_state_and_modes_of_torch_are_neither_read_nor_changed():
    settings = SETTINGS.model_copy(update={"dropout": 0.4})
    torch.manual_seed(1)
    first = train(settings)
    torch.manual_seed(2)
    before = torch.random.get_rng_state()
    with torch.no_grad():
        second = train(settings)
        assert not torch.is_grad_enabled()
    assert torch.equal(before, torch.random.get_rng_state())
    assert same(first, second)


def test_trainings_that_begin_beside_each_other_leave_the_random_state_alone():
    before = torch.random.get_rng_state()
    short = SETTINGS.model_copy(update={"epochs": 1})
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda s: train(short, seed=s), range(100)))
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("kind", ["paper", "linear"])
def test_fresh_heads_have_the_weights_that_torch_gives_them(kind):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        sizes = [(9, 12), (12, 12), (12, K)] if kind == "paper" else [(9, K)]
        plain = [p for a, b in sizes for p in torch.nn.Linear(a, b).parameters()]
    ours = list(make_head(kind, 9, K, 12, 0.1, 3).parameters())
    assert all(torch.equal(a, b) for a, b in zip(ours, plain, strict=True))


def test_dropout_drops_its_share_and_keeps_the_mean():
    from nncift_core.classification.frozen import _Training

    settings = SETTINGS.model_copy(update={"dropout": 0.25, "hidden": 400})
    x, labels = data(50)
    training = _Training(x, labels, K, settings, 0, "cpu")
    first, last = training._linears[0], training._linears[-1]
    with torch.no_grad():
        first.weight.zero_()
        first.bias.fill_(1.0)
        training._linears[1].weight.copy_(torch.eye(400))
        training._linears[1].bias.zero_()
        last.weight.fill_(1 / 400)
        last.bias.zero_()
        sums = training._forward(torch.from_numpy(x))
    # Each unit outlives both layers with probability 0.75 ** 2 and is worth 1 / 0.75 ** 2.
    assert float(sums.mean()) == pytest.approx(1, abs=0.03)
    assert float(sums[:, 0].std()) == pytest.approx(np.sqrt((1 - 0.75**2) / 0.75**2 / 400), rel=0.3)


def test_it_learns_and_says_how_far_it_is():
    told: list[int] = []
    x, labels = data(200)
    others, truth = data(100, seed=5)
    settings = SETTINGS.model_copy(update={"epochs": 30})
    run = train_head(
        x, labels, K, settings, seed=0, evaluate={"test": others, "train": x}, progress=told.append
    )
    assert (run.predictions["test"].predicted == truth).mean() > 0.7
    assert run.predictions["test"].probabilities.sum(axis=1) == pytest.approx(np.ones(100), abs=1e-5)
    assert told == ([16] * 12 + [8]) * 30


def test_one_row_that_is_repeated_is_not_copied_and_trains_as_its_copies_do():
    from nncift_core.classification.frozen import _Training

    row = data(1)[0]
    labels = data(60)[1]
    repeated = np.broadcast_to(row, (60, 9))
    training = _Training(repeated, labels, K, SETTINGS, 1, "cpu")
    assert tuple(training.x.shape) == (60, 9) and training.x.untyped_storage().nbytes() == row.nbytes
    settings = SETTINGS.model_copy(update={"dropout": 0.4})
    runs = [
        train_head(x, labels, K, settings, seed=1, log=True, evaluate={"test": row})
        for x in (repeated, np.ascontiguousarray(repeated))
    ]
    assert same(*runs)


@pytest.mark.parametrize("keep_logits", [False, True])
def test_looks_at_all_rows_are_taken_in_blocks(monkeypatch, keep_logits):
    settings = SETTINGS.model_copy(update={"keep_logits": keep_logits})
    whole = train(settings)
    monkeypatch.setattr(frozen, "_ROWS_AT_ONCE", 7)
    most = 0

    def noted(logits: np.ndarray, labels: np.ndarray) -> Any:
        nonlocal most
        most = max(most, len(logits))
        return observed(logits, labels)

    monkeypatch.setattr(contract, "observed", noted)
    got = train(settings)
    assert most == 7 and whole.dynamics is not None and got.dynamics is not None
    assert np.abs(got.dynamics.margin - whole.dynamics.margin).max() < 1e-5
    if keep_logits:
        assert got.logits is not None and got.logits.shape == (3, 60, K)
        assert np.abs(got.logits - whole.logits).max() < 1e-5
    else:
        assert got.logits is None
