"""Fitting the network."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nncift_core.estimator import fit


@pytest.fixture(scope="module")
def problem():
    """A learnable influence: the label depends on both embeddings, scale and offset far from 1 and 0."""
    rng = np.random.default_rng(0)
    rows, columns = (rng.normal(size=(k, 16)) for k in (80, 40))
    rows, columns = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (rows, columns))
    matrix = 5.0 + 0.01 * (rows @ rng.normal(size=16))[:, None] + 0.01 * (columns @ rng.normal(size=16))
    i, j = (x.ravel() for x in np.meshgrid(np.arange(60), np.arange(30), indexing="ij"))
    return rows.astype(np.float32), columns.astype(np.float32), i, j, matrix


@pytest.fixture(scope="module")
def fitted(problem):
    rows, columns, i, j, matrix = problem
    return fit(rows, columns, i, j, matrix[i, j], architecture="mlp", hidden=30, seed=0)


def test_mlp_beats_the_constant_on_unseen_rows_and_columns(problem, fitted):
    rows, columns, i, j, matrix = problem
    network, report = fitted
    unseen = matrix[60:, 30:]
    mse = np.square(network.predict(rows[60:], columns[30:]) - unseen).mean()
    assert mse < 0.3 * np.square(unseen - matrix[i, j].mean()).mean()
    assert report.validation_mse is not None and report.validation_mse < 0.3 * matrix.var()
    assert report.n_labels == 1800 and report.n_validation == 12 * 30
    assert 1 <= report.best_epoch <= report.epochs <= 300
    assert report.mean == pytest.approx(matrix[i, j].mean())
    assert report.std == pytest.approx(matrix[i, j].std())
    assert (network.scale, network.shift) == (report.std, report.mean)
    assert report.minimum is None and report.seconds > 0


def test_reported_errors_are_those_of_the_returned_network(problem, fitted):
    rows, columns, i, j, matrix = problem
    network, report = fitted
    errors = np.square(network.predict_pairs(rows[i], columns[j]) - matrix[i, j])
    held = report.n_validation
    both = (report.train_mse * (1800 - held) + report.validation_mse * held) / 1800
    assert both == pytest.approx(errors.mean(), rel=0.02)


def test_mlp_paper_is_as_published(problem):
    rows, columns, i, j, matrix = problem
    calls = []
    z = matrix[i, j]
    network, report = fit(
        rows, columns, i, j, z, architecture="mlp-paper", seed=0, progress=lambda *a: calls.append(a)
    )
    assert network.W1.shape == (100, 32) and network.W2.shape == (1, 100)
    assert network.n_parameters == 32 * 100 + 100 + 100 + 1
    assert (report.epochs, report.best_epoch, report.validation_mse) == (20, 20, None)
    low, high = matrix[i, j].min(), matrix[i, j].max()
    assert (report.minimum, report.maximum) == (low, high)
    assert (network.shift, network.scale) == (low, high - low)
    assert calls == [(e, 20) for e in range(1, 21)]
    errors = np.square(network.predict_pairs(rows[i], columns[j]) - matrix[i, j])
    assert report.train_mse == pytest.approx(errors.mean(), rel=0.02)


def test_training_of_the_paper_equals_torch_linear_layers():
    """The published training, redone with torch.nn and concatenated pairs, from the same first weights."""
    rng = np.random.default_rng(1)
    rows, columns = rng.normal(size=(6, 4)).astype(np.float32), rng.normal(size=(5, 4)).astype(np.float32)
    i, j = (x.ravel() for x in np.meshgrid(np.arange(6), np.arange(5), indexing="ij"))
    z = rng.normal(size=30)
    network, _ = fit(rows, columns, i, j, z, architecture="mlp-paper", hidden=3, seed=4)
    # Thirty labels make one batch an epoch, so the order of the labels does not matter.
    generator = torch.Generator().manual_seed(4)
    draws = [(2 * torch.rand(s, generator=generator) - 1) for s in ((3, 4), (3, 4), (3,), (1, 3), (1,))]
    model = torch.nn.Sequential(torch.nn.Linear(8, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.cat(draws[:2], dim=1) / 8**0.5)
        model[0].bias.copy_(draws[2] / 8**0.5)
        model[2].weight.copy_(draws[3] / 3**0.5)
        model[2].bias.copy_(draws[4] / 3**0.5)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    x = torch.tensor(np.concatenate([rows[i], columns[j]], axis=1))
    target = torch.tensor((z - z.min()) / (z.max() - z.min()), dtype=torch.float32)
    for _ in range(20):
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(model(x)[:, 0], target).backward()
        optimizer.step()
    np.testing.assert_allclose(network.W1, model[0].weight.detach().numpy(), atol=1e-6)
    np.testing.assert_allclose(network.W2, model[2].weight.detach().numpy(), atol=1e-6)


@pytest.mark.parametrize("architecture", ["mlp", "mlp-paper"])
def test_deterministic_whatever_the_global_state(problem, architecture):
    rows, columns, i, j, matrix = problem
    args = (rows, columns, i[:180], j[:180], matrix[i, j][:180])
    torch.manual_seed(1)
    first, _ = fit(*args, architecture=architecture, hidden=8, seed=7)
    torch.manual_seed(2)
    before = torch.random.get_rng_state()
    with torch.inference_mode():
        second, _ = fit(*args, architecture=architecture, hidden=8, seed=7)
    assert torch.equal(before, torch.random.get_rng_state())
    assert np.array_equal(first.W1, second.W1) and np.array_equal(first.W2, second.W2)
    other, _ = fit(*args, architecture=architecture, hidden=8, seed=8)
    assert not np.array_equal(first.W1, other.W1)


def test_labels_index_into_the_tables(problem):
    """Only the labelled rows of the tables matter, at their places."""
    rows, columns, i, j, matrix = problem
    direct, _ = fit(rows[:60], columns[:30], i, j, matrix[i, j], architecture="mlp-paper", hidden=4, seed=0)
    padded_rows = np.concatenate([np.full((5, 16), np.nan, np.float32), rows[:60]])
    shifted, _ = fit(padded_rows, columns, i + 5, j, matrix[i, j], architecture="mlp-paper", hidden=4, seed=0)
    assert np.array_equal(direct.W1, shifted.W1)


@pytest.mark.parametrize("architecture", ["mlp", "mlp-paper"])
def test_constant_values_give_a_constant_network(problem, architecture):
    rows, columns, i, j, _ = problem
    network, report = fit(rows, columns, i, j, np.full(len(i), 0.3), architecture=architecture, seed=0)
    assert np.unique(network.predict(rows, columns)).tolist() == [np.float32(0.3)]
    assert (report.epochs, report.train_mse, network.hidden) == (0, 0.0, 100)


@pytest.mark.parametrize(("labels", "held_out"), [(1, 0), (3, 0), (4, 0), (8, 2)])
def test_few_labels(problem, labels, held_out):
    """Fewer than five rows: pairs are held out; fewer than five pairs: none."""
    rows, columns, _, _, matrix = problem
    i, j = np.arange(labels) % 2, np.arange(labels)
    network, report = fit(rows, columns, i, j, matrix[i, j], architecture="mlp", hidden=4, seed=0)
    assert report.n_validation == held_out
    assert (report.validation_mse is None) == (held_out == 0)
    assert np.isfinite(network.predict(rows, columns)).all()


def test_wrong_input_is_named(problem):
    rows, columns, i, j, matrix = problem
    z = matrix[i, j]
    bad = z.copy()
    bad[[3, 9]] = np.nan, np.inf
    with pytest.raises(ValueError, match="2 of 1800 label values are not finite"):
        fit(rows, columns, i, j, bad, architecture="mlp", seed=0)
    with pytest.raises(ValueError, match="row_index runs from 0 to 59, the table has 50 rows"):
        fit(rows[:50], columns, i, j, z, architecture="mlp", seed=0)
    with pytest.raises(ValueError, match="k > 0"):
        fit(rows, columns, i[:0], j[:0], z[:0], architecture="mlp", seed=0)
    with pytest.raises(ValueError, match="unknown architecture 'two-tower'"):
        fit(rows, columns, i, j, z, architecture="two-tower", seed=0)  # type: ignore[arg-type]
    holed = columns.copy()
    holed[4, 2] = np.nan
    with pytest.raises(ValueError, match="1 column embeddings are not finite"):
        fit(rows, holed, i, j, z, architecture="mlp", seed=0)
    with pytest.raises(ValueError, match=r"\[80, 16\], \[40, 15\]"):
        fit(rows, columns[:, 1:], i, j, z, architecture="mlp", seed=0)
