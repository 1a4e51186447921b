"""The kernel estimator on blocks and on rows alone, against the dense formulas of a Gaussian process."""

from __future__ import annotations

import json

import numpy as np
import pytest

from nncift_core.estimator.contract import COSINE, EMBEDDING, LENGTH, LENGTHS, PROXY, Features
from nncift_core.estimator.kernel import Kernel
from nncift_core.estimator.kernel_block import BlockLikelihood
from nncift_core.estimator.kernel_search import Hyper
from nncift_core.estimator.pair_features import Cosine, OfRow, Table

R, C = 40, 16


def made(seed: int = 0, rows: int = R, columns: int = C) -> tuple[Features, np.ndarray]:
    """Features and a matrix that is smooth in them, with a slope on the proxy and a little noise."""
    rng = np.random.default_rng(seed)
    sides = []
    for n in (rows, columns):
        x = {EMBEDDING: rng.normal(size=(n, 3)), LENGTHS: rng.normal(size=(n, 1))}
        sides.append({name: v.astype(np.float32) for name, v in x.items()})
    r, c = sides
    proxy = rng.normal(size=(rows, columns)).astype(np.float32)
    pairs = {
        COSINE: Cosine.of(r[EMBEDDING], c[EMBEDDING]),
        PROXY: Table(proxy),
        LENGTH: OfRow(r[LENGTHS][:, 0], columns),
    }
    smooth = np.sin(r[EMBEDDING][:, :1]) * np.cos(c[EMBEDDING][:, 0]) + np.tanh(c[EMBEDDING][:, 1])
    values = 5 + 0.01 * (smooth + 0.5 * proxy + 0.05 * rng.normal(size=proxy.shape))
    ids = rng.permutation(10 * (rows + columns))[: rows + columns].astype(np.int64)
    return Features(ids[:rows], ids[rows:], r, c, pairs), values


def block(rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    return np.repeat(np.arange(rows), columns), np.tile(np.arange(columns), rows)


def fitted(features: Features, values: np.ndarray, rows: int = 24, columns: int = 10) -> Kernel:
    i, j = block(rows, columns)
    return Kernel().fit(features, i, j, values[i, j], seed=3)


def dense(model: Kernel, features: Features, i: np.ndarray, j: np.ndarray, values: np.ndarray):
    """(prediction, standard deviation) of every pair [R * C] by the textbook formula, with the
    hyperparameters and slopes of `model`."""
    facts = model.describe()

    def kernel(side: str, groups: dict[str, np.ndarray], labelled: np.ndarray) -> np.ndarray:
        exponent = 0.0
        for name, weight in facts[f"{side}_weights"].items():
            x = groups[name].astype(float)
            square = ((x[:, None] - x) ** 2).sum(axis=2)
            n = len(labelled)
            exponent = exponent - weight * square / (square[np.ix_(labelled, labelled)].sum() / (n * (n - 1)))
        return facts[f"{side}_bias"] + np.exp(exponent) + facts[f"{side}_own"] * np.eye(len(exponent))

    K_r = kernel("row", features.rows, np.unique(i))
    K_c = kernel("column", features.columns, np.unique(j))
    F = features.pair_tile(tuple(facts["pair_features"])).astype(float).reshape(3, -1)
    rows, columns = features.shape
    at = i * columns + j
    F = (F - F[:, at].mean(axis=1, keepdims=True)) / F[:, at].std(axis=1, keepdims=True)
    process = np.kron(K_r, K_c)
    K = process + (F.T * model.widths) @ F
    y = (values[i, j] - values[i, j].mean()) / values[i, j].std()
    inverse = np.linalg.inv(K[np.ix_(at, at)] + model.noise * np.eye(len(at)))
    beta = np.array(list(facts["pair_features"].values()))
    alone = process[np.ix_(at, at)] + model.noise * np.eye(len(at))
    mean = process[:, at] @ np.linalg.solve(alone, y - beta @ F[:, at]) + beta @ F
    mean = values[i, j].mean() + values[i, j].std() * mean
    variance = model.noise + np.diag(K) - np.einsum("ka,ab,kb->k", K[:, at], inverse, K[:, at])
    sigma = np.sqrt((y @ inverse @ y + 2) / (len(y) + 2))
    return mean.reshape(rows, columns), sigma * values[i, j].std() * np.sqrt(variance)


def test_likelihood_is_that_of_the_dense_covariance_and_slopes_are_its_derivatives():
    rng = np.random.default_rng(1)
    labels = rng.normal(size=(3, 6, 4))
    x, y = rng.normal(size=(2, 6, 2)), rng.normal(size=(2, 4, 2))
    D_r, D_c = (((v[:, :, None] - v[:, None]) ** 2).sum(axis=3) for v in (x, y))
    theta = rng.normal(size=2 + 2 + 2 + 2 + 1 + 2) * 0.5 - 0.7
    objective = BlockLikelihood(labels, D_r, D_c)
    value, slopes = objective(Hyper.of(theta, 2, 2))

    hyper = Hyper.of(theta, 2, 2)
    K_r = hyper.rows.a + np.exp(-np.tensordot(hyper.rows.w, D_r, 1)) + hyper.rows.d * np.eye(6)
    K_c = hyper.columns.a + np.exp(-np.tensordot(hyper.columns.w, D_c, 1)) + hyper.columns.d * np.eye(4)
    F = labels[1:].reshape(2, -1)
    sigma = np.kron(K_r, K_c) + hyper.noise * np.eye(24) + (F.T * hyper.widths) @ F
    z = labels[0].ravel()
    quadratic = z @ np.linalg.solve(sigma, z)
    expected = 0.5 * np.linalg.slogdet(sigma)[1] + 13 * np.log((quadratic + 2) / 26)
    assert value == pytest.approx(expected, rel=1e-9)

    h = 1e-5
    steps = h * np.eye(len(theta))
    difference = [
        (objective(Hyper.of(theta + e, 2, 2))[0] - objective(Hyper.of(theta - e, 2, 2))[0]) / (2 * h)
        for e in steps
    ]
    np.testing.assert_allclose(slopes, difference, atol=1e-6)


def test_a_block_predicts_what_the_dense_formula_does():
    features, values = made()
    i, j = block(24, 10)
    model = fitted(features, values)
    mean, std = dense(model, features, i, j, values)
    unseen = np.ones((R, C), bool)
    # At a labelled pair the product of both own effects counts as noise of that pair.
    unseen[i, j] = False
    assert model.describe()["form"] == "block"
    np.testing.assert_allclose(model.predict(features)[unseen], mean[unseen], atol=2e-6)
    all_i, all_j = block(R, C)
    np.testing.assert_allclose(model.std(features, all_i, all_j), std, rtol=2e-4)


def test_it_learns_what_features_tell_and_says_how_much_is_noise():
    features, values = made()
    model = fitted(features, values)
    truth, predicted = values[24:, 10:], model.predict(features)[24:, 10:]
    assert 1 - np.square(truth - predicted).sum() / np.square(truth - truth.mean()).sum() > 0.5
    facts = model.describe()
    assert facts["labels"] == 240 and facts["rows"] == 24 and facts["columns"] == 10
    assert facts["noise_share"] < 0.2
    assert facts["pair_features"][PROXY] > 5 * abs(facts["pair_features"][COSINE])
    assert np.isfinite(facts["log_marginal_likelihood_per_label"])
    rng = np.random.default_rng(5)
    noise = fitted(features, rng.normal(size=(R, C)))
    assert noise.describe()["noise_share"] > 0.5
    assert facts["log_marginal_likelihood_per_label"] > noise.describe()["log_marginal_likelihood_per_label"]


def test_pairs_agree_with_the_tile_and_tiles_with_each_other():
    features, values = made()
    model = fitted(features, values)
    tile = model.predict(features)
    rng = np.random.default_rng(0)
    i, j = rng.integers(0, R, 200), rng.integers(0, C, 200)
    assert tile.dtype == np.float32 and model.predict_pairs(features, i, j).dtype == np.float32
    np.testing.assert_allclose(model.predict_pairs(features, i, j), tile[i, j], atol=2e-6)
    rows, columns = np.array([30, 2, 7]), np.array([15, 0, 3, 9])
    part = model.predict(features.take(rows, columns))
    np.testing.assert_allclose(part, tile[np.ix_(rows, columns)], atol=2e-6)


def test_more_labelled_columns_than_rows_predict_alike():
    features, values = made(rows=12, columns=30)
    i, j = block(6, 20)
    model = Kernel().fit(features, i, j, values[i, j], seed=0)
    mean, _ = dense(model, features, i, j, values)
    unseen = np.ones(values.shape, bool)
    unseen[i, j] = False
    np.testing.assert_allclose(model.predict(features)[unseen], mean[unseen], atol=2e-6)


def test_order_and_copies_of_labels_do_not_matter():
    features, values = made()
    i, j = block(24, 10)
    model = fitted(features, values)
    order = np.random.default_rng(0).permutation(240)
    again = Kernel().fit(features, i[order], j[order], values[i, j][order], seed=3)
    assert np.array_equal(again.predict(features), model.predict(features))
    twice_i, twice_j = np.r_[i, i[:1], i[:1]], np.r_[j, j[:1], j[:1]]
    z = values[i, j]
    copies = Kernel().fit(features, twice_i, twice_j, np.r_[z, z[0] + 0.3, z[0] - 0.3], seed=3)
    assert copies.describe()["form"] == "block"
    np.testing.assert_allclose(copies.predict(features), model.predict(features), atol=2e-6)


def test_a_saved_state_predicts_the_same_bits():
    features, values = made()
    model = fitted(features, values)
    arrays, settings = model.state()
    copy = Kernel.from_state(
        {k: np.ascontiguousarray(x) for k, x in arrays.items()}, json.loads(json.dumps(settings))
    )
    i, j = block(R, C)
    assert np.array_equal(copy.predict(features), model.predict(features))
    assert np.array_equal(copy.predict_pairs(features, i, j), model.predict_pairs(features, i, j))
    assert np.array_equal(copy.std(features, i, j), model.std(features, i, j))
    assert copy.describe() == model.describe()
    with pytest.raises(ValueError, match="state of 'ridge'"):
        Kernel.from_state(arrays, settings | {"name": "ridge"})


@pytest.mark.parametrize(("rows", "columns"), [(4, 3), (1, 5), (5, 1), (2, 2)])
def test_few_labels_stay_within_reason(rows: int, columns: int):
    features, values = made()
    model = fitted(features, values, rows, columns)
    labels, predicted = values[:rows, :columns], model.predict(features)
    span = labels.max() - labels.min()
    assert predicted.min() > labels.min() - 3 * span and predicted.max() < labels.max() + 3 * span
    std = model.std(features, *block(R, C))
    assert std.min() > 0 and np.isfinite(std).all()


def test_one_label_and_constant_labels_predict_their_mean_and_know_no_scale():
    features, values = made()
    for rows, columns in ((1, 1), (6, 4)):
        i, j = block(rows, columns)
        model = Kernel().fit(features, i, j, np.full(len(i), 0.1), seed=0)
        assert (model.predict(features) == np.float32(0.1)).all()
        assert model.std(features, i, j) is None
        json.dumps(model.describe(), allow_nan=False)


def test_rows_alone():
    features, _ = made(rows=120)
    alone = Features(features.row_ids, np.zeros(1, np.int64), features.rows, {}, {})
    values = np.sin(2 * features.rows[EMBEDDING][:, 0])
    i, j = np.arange(80), np.zeros(80, np.int64)
    model = Kernel().fit(alone, i, j, values[i], seed=0)
    predicted = model.predict(alone)
    assert predicted.shape == (120, 1)
    assert np.corrcoef(predicted[80:, 0], values[80:])[0, 1] > 0.8
    facts = model.describe()
    assert facts["form"] == "block" and facts["row_own"] == 0 and facts["column_weights"] == {}
    i = np.arange(80, 120)
    wrong = np.abs(predicted[i, 0] - values[i])
    assert 0.75 <= (wrong < 1.645 * model.std(alone, i, 0 * i)).mean()


def test_any_part_of_the_features_will_do():
    features, values = made()
    truth = values[24:, 10:]

    def left(names: list[str]) -> float:
        return float(
            np.square(fitted(features.only(names), values).predict(features)[24:, 10:] - truth).mean()
        )

    everything = left([EMBEDDING, LENGTHS, COSINE, PROXY, LENGTH])
    assert everything < left([EMBEDDING]) and everything < left([PROXY]) < truth.var()
    with pytest.raises(ValueError, match="at least one feature group or pair feature"):
        fitted(features.only([]), values)


def test_useless_pair_features_do_no_harm():
    features, values = made()
    rng = np.random.default_rng(8)
    noise = {f"noise {k}": Table(rng.normal(size=(R, C)).astype(np.float32)) for k in range(5)}
    more = Features(
        features.row_ids,
        features.column_ids,
        features.rows,
        features.columns,
        {**features.pairs, **noise, "flat": Table(np.ones((R, C), np.float32))},
    )
    model = fitted(more, values)
    slopes = model.describe()["pair_features"]
    assert max(abs(slopes[name]) for name in noise) < 0.1 * slopes[PROXY] and slopes["flat"] == 0
    with_noise, without = (m.predict(more)[24:, 10:] for m in (model, fitted(features, values)))
    truth = values[24:, 10:]
    assert np.square(with_noise - truth).mean() < 1.1 * np.square(without - truth).mean()


def test_what_the_fit_read_must_be_there():
    features, values = made()
    model = fitted(features, values)
    with pytest.raises(ValueError, match="group 'lengths'"):
        model.predict(features.only([EMBEDDING, COSINE, PROXY, LENGTH]))
    with pytest.raises(ValueError, match="pair feature 'gradient proxy'"):
        model.predict(features.only([EMBEDDING, LENGTHS, COSINE, LENGTH]))
    features.rows[EMBEDDING][3] = np.nan
    with pytest.raises(ValueError, match="group 'embedding' are not finite"):
        fitted(features, values)
    with pytest.raises(ValueError, match="1 of 2 label values"):
        Kernel().fit(features, np.array([5, 6]), np.array([0, 0]), np.array([1.0, np.nan]), seed=0)
