"""The InfluenceNetwork against the oracle and a concatenating reference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from nncift_core.errors import IntegrityError
from nncift_core.estimator import InfluenceNetwork

ORACLES = Path(__file__).parents[1] / "data" / "oracles"


def random_network(d=12, hidden=7, seed=0, **scaling):
    rng = np.random.default_rng(seed)
    shapes = ((hidden, 2 * d), (hidden,), (1, hidden), (1,))
    return InfluenceNetwork.from_weights(*(rng.normal(size=s) for s in shapes), **scaling)


def inputs(m, n, d=12, seed=1):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(m, d)).astype(np.float32), rng.normal(size=(n, d)).astype(np.float32)


def concatenated(network, rows, columns):
    """Plain reference: every pair concatenated, float64."""
    m, n = len(rows), len(columns)
    pairs = np.concatenate([np.repeat(rows, n, 0), np.tile(columns, (m, 1))], axis=1).astype(np.float64)
    hidden = np.maximum(pairs @ network.W1.T.astype(np.float64) + network.b1, 0)
    net = hidden @ network.W2[0].astype(np.float64) + network.b2[0]
    return (network.scale * net + network.shift).reshape(m, n)


def test_oracle():
    with np.load(ORACLES / "network.npz", allow_pickle=False) as o:
        network = InfluenceNetwork.from_weights(o["W1"], o["b1"], o["W2"], o["b2"])
        got = network.predict(o["row_input"], o["column_input"])
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, o["mlp_output"], rtol=0, atol=1e-5)
        swapped = network.predict(o["column_input"], o["row_input"]).T
        assert np.abs(swapped - o["mlp_output"]).max() > 0.1


@pytest.mark.parametrize(("m", "n", "hidden"), [(1, 1, 7), (37, 1100, 100), (1030, 3, 5), (3, 4100, 1)])
def test_factorised_equals_concatenated(m, n, hidden):
    network = random_network(hidden=hidden, scale=0.5, shift=-2.0)
    rows, columns = inputs(m, n)
    expected = concatenated(network, rows, columns)
    got = network.predict(rows, columns)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_pairs_equal_matrix_entries():
    network = random_network(scale=3.0, shift=0.25)
    rows, columns = inputs(60, 90)
    rng = np.random.default_rng(0)
    i, j = rng.integers(0, 60, 5000), rng.integers(0, 90, 5000)
    got = network.predict_pairs(rows[i], columns[j])
    assert got.shape == (5000,) and got.dtype == np.float32
    np.testing.assert_allclose(got, concatenated(network, rows, columns)[i, j], rtol=0, atol=1e-4)


def test_repeatable_bits_and_sub_blocks():
    network = random_network(d=24, hidden=50, scale=0.01)
    rows, columns = inputs(200, 700, d=24)
    full = network.predict(rows, columns)
    assert np.array_equal(full, network.predict(rows, columns))
    part = network.predict(rows[13:57], columns[101:640])
    np.testing.assert_allclose(part, full[13:57, 101:640], rtol=0, atol=1e-6)


def test_fills_out_and_reads_float64_and_read_only_inputs():
    network = random_network()
    rows, columns = inputs(20, 30)
    frame = np.full((22, 33), np.nan, dtype=np.float32)
    rows.flags.writeable = False
    view = frame[1:21, 2:32]
    returned = network.predict(rows, columns.astype(np.float64), out=view)
    assert returned is view
    assert np.array_equal(view, network.predict(rows, columns))
    assert np.isnan(frame).sum() == 22 * 33 - 600


def test_empty_sides():
    network = random_network()
    rows, columns = inputs(4, 5)
    assert network.predict(rows[:0], columns).shape == (0, 5)
    assert network.predict(rows, columns[:0]).shape == (4, 0)
    assert network.predict_pairs(rows[:0], columns[:0]).shape == (0,)


def test_parameter_count_of_the_paper():
    d, hidden = 1024, 100
    network = InfluenceNetwork.from_weights(
        np.zeros((hidden, 2 * d)), np.zeros(hidden), np.zeros((1, hidden)), np.zeros(1)
    )
    assert network.n_parameters == 204_901 + 100
    assert (network.dimension, network.hidden) == (1024, 100)


def test_wrong_shapes_are_named():
    network = random_network()
    rows, columns = inputs(3, 4)
    with pytest.raises(ValueError, match=r"columns must be \[n, 12\], got \[4, 11\]"):
        network.predict(rows, columns[:, :11])
    with pytest.raises(ValueError, match="as many rows as columns, got 3 and 4"):
        network.predict_pairs(rows, columns)
    with pytest.raises(ValueError, match=r"out must be writable float32 \[3, 4\], got float64 \[3, 4\]"):
        network.predict(rows, columns, out=np.zeros((3, 4)))
    with pytest.raises(
        ValueError, match=r"W1 must be \[hidden, 2d\] or .* hidden = 7, d = 11, got \[7, 23\]"
    ):
        InfluenceNetwork.from_weights(network.W1[:, 1:], network.b1, network.W2, network.b2)
    with pytest.raises(ValueError, match=r"b1, W2, b2 must be .* got \[7\], \[1, 6\], \[1\]"):
        InfluenceNetwork.from_weights(network.W1, network.b1, network.W2[:, 1:], network.b2)


def test_save_load_round_trip(tmp_path):
    network = random_network(scale=0.1, shift=1 / 3)
    path = tmp_path / "network.safetensors"
    network.save(path, {"run": "r1"})
    again = InfluenceNetwork.load(path)
    assert (again.scale, again.shift) == (0.1, 1 / 3)
    for name in ("W1", "b1", "W2", "b2"):
        assert np.array_equal(getattr(again, name), getattr(network, name))
    rows, columns = inputs(9, 11)
    assert np.array_equal(again.predict(rows, columns), network.predict(rows, columns))


def test_load_refuses_other_and_broken_files(tmp_path):
    other = tmp_path / "other.safetensors"
    save_file({"x": np.zeros(2)}, str(other))
    with pytest.raises(IntegrityError, match="not an InfluenceNetwork"):
        InfluenceNetwork.load(other)
    broken = tmp_path / "broken.safetensors"
    random_network().save(broken)
    broken.write_bytes(broken.read_bytes()[:-8])
    with pytest.raises(IntegrityError, match="broken InfluenceNetwork file"):
        InfluenceNetwork.load(broken)
