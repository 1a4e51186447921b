"""The compiled kernel against torch's, and bit for bit against itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nncift_core.estimator import InfluenceNetwork

network_numba = pytest.importorskip("nncift_core.estimator.network_numba", reason="numba is not installed")


def made(d=40, hidden=100, seed=0, d_column=None, scale=0.5, shift=-2.0):
    rng = np.random.default_rng(seed)
    width = d + (d if d_column is None else d_column)
    shapes = ((hidden, width), (hidden,), (1, hidden), (1,))
    weights = (rng.normal(size=s) for s in shapes)
    return InfluenceNetwork.from_weights(*weights, dimension=d, scale=scale, shift=shift)


def inputs(m, n, d=40, seed=1):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(m, d)).astype(np.float32), rng.normal(size=(n, d)).astype(np.float32)


def assert_close(got, expected):
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


# Below, at and past the edges of strips (64), register blocks (4 rows) and jobs (256 x 4096).
@pytest.mark.parametrize(("m", "n"), [(1, 1), (4, 64), (63, 65), (257, 130), (5, 4097), (300, 700)])
@pytest.mark.parametrize("hidden", [1, 7, 100])
def test_agrees_with_torch(m, n, hidden):
    network = made(hidden=hidden)
    rows, columns = inputs(m, n)
    assert_close(
        network.predict(rows, columns, kernel="numba"), network.predict(rows, columns, kernel="torch")
    )


@pytest.mark.parametrize("d", [1, 128, 129, 1024])
def test_any_depth_of_the_first_layer(d):
    network = made(d=d)
    rows, columns = inputs(66, 70, d)
    assert_close(
        network.predict(rows, columns, kernel="numba"), network.predict(rows, columns, kernel="torch")
    )


@pytest.mark.parametrize("scale", [3.0, -3.0, 0.0])
def test_signs_of_weights_and_scale(scale):
    rows, columns = inputs(9, 70)
    for sign in (1, -1, 0):
        first = made(hidden=6, scale=scale)
        W2 = sign * np.abs(first.W2)
        W2[0, 2] = 0
        network = InfluenceNetwork.from_weights(first.W1, first.b1, W2, first.b2, scale=scale, shift=0.25)
        expected = network.predict(rows, columns, kernel="torch")
        assert_close(network.predict(rows, columns, kernel="numba"), expected)


def test_a_function_of_the_row_alone():
    network = made(d_column=0)
    rows, _ = inputs(70, 1)
    columns = np.empty((130, 0), np.float32)
    expected = network.predict(rows, columns, kernel="torch")
    assert_close(network.predict(rows, columns, kernel="numba"), expected)


def test_bits_do_not_depend_on_threads_or_on_the_tile(monkeypatch):
    network = made()
    rows, columns = inputs(530, 300)
    full = network.predict(rows, columns, kernel="numba")
    for threads in (1, 3):
        monkeypatch.setattr(network_numba, "usable_threads", lambda threads=threads: threads)
        assert np.array_equal(network.predict(rows, columns, kernel="numba"), full)
    part = network.predict(rows[13:507], columns[101:240], kernel="numba")
    assert np.array_equal(part, full[13:507, 101:240])
    # Several blocks of prepared rows and columns.
    monkeypatch.setattr(network_numba, "_BLOCK_FLOATS", 100 * 128)
    assert np.array_equal(network.predict(rows, columns, kernel="numba"), full)


def test_threads_keep_to_the_affinity_and_to_torch(monkeypatch):
    from nncift_core import devices
    from nncift_core.estimator import network_calibration

    monkeypatch.setattr(devices.os, "sched_getaffinity", lambda _: set(range(5)), raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    assert network_calibration.usable_threads() == 5
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert network_calibration.usable_threads() == 3


def test_half_precision_is_read_as_float32():
    network = made()
    rows, columns = (x.astype(np.float16) for x in inputs(300, 70))
    expected = network.predict(rows.astype(np.float32), columns.astype(np.float32), kernel="numba")
    assert np.array_equal(network.predict(rows, columns, kernel="numba"), expected)
    assert_close(network.predict(rows, columns, kernel="torch"), expected)


@pytest.mark.parametrize("kind", ["columns first", "backwards", "every other", "inside"])
def test_out_of_any_layout_is_filled_and_nothing_else(kind):
    network = made()
    rows, columns = inputs(70, 130)
    frame = np.full((200, 300), np.nan, np.float32)
    out = {
        "columns first": frame[:130, :70].T,
        "backwards": frame[69::-1, 129::-1],
        "every other": frame[:140:2, :260:2],
        "inside": frame[3:73, 5:135],
    }[kind]
    assert network.predict(rows, columns, out, kernel="numba") is out
    assert np.array_equal(out, network.predict(rows, columns, kernel="numba"))
    assert np.isnan(frame).sum() == frame.size - out.size


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_spoils_its_row_or_column_only(bad):
    network = made()
    rows, columns = inputs(70, 130)
    clean = network.predict(rows, columns, kernel="numba")
    rows[3, 1] = columns[66, 2] = bad
    got = network.predict(rows, columns, kernel="numba")
    wrong = np.zeros(got.shape, bool)
    wrong[3] = wrong[:, 66] = True
    assert np.array_equal(np.isnan(got), wrong)
    assert np.array_equal(got[~wrong], clean[~wrong])
