"""One matrix by several devices."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from nncift_core.estimator import InfluenceNetwork
from nncift_core.estimator.network_devices import predict_on


def made(m=1500, n=70, d=8):
    rng = np.random.default_rng(0)
    network = InfluenceNetwork.from_weights(*(rng.normal(size=s) for s in ((9, 2 * d), 9, (1, 9), 1)))
    return network, *(rng.normal(size=(k, d)).astype(np.float32) for k in (m, n))


def test_two_devices_share_the_rows(monkeypatch):
    network, rows, columns = made()
    expected = network.predict(rows, columns)
    both, seen = threading.Barrier(2, timeout=20), {}
    predict = InfluenceNetwork.predict

    def noted(self, part, *args, **kwargs):
        # The first block of each device waits for the other one's: both must take part.
        if threading.get_ident() not in seen:
            seen[threading.get_ident()] = len(part)
            both.wait()
        return predict(self, part, *args, **kwargs)

    monkeypatch.setattr(InfluenceNetwork, "predict", noted)
    out = np.full(expected.shape, np.nan, np.float32)
    assert predict_on(["cpu", "cpu"], network, rows, columns, out) is out
    assert np.array_equal(out, expected)
    assert len(seen) == 2 and max(seen.values()) < len(rows)


def test_one_device_and_no_rows():
    network, rows, columns = made(m=20)
    assert np.array_equal(predict_on(["cpu"], network, rows, columns), network.predict(rows, columns))
    assert predict_on(["cpu", "cpu"], network, rows[:0], columns).shape == (0, 70)


def test_a_failure_of_one_device_is_raised(monkeypatch):
    network, rows, columns = made()

    def broken(self, *args):
        raise MemoryError("full")

    monkeypatch.setattr(InfluenceNetwork, "predict", broken)
    with pytest.raises(MemoryError, match="full"):
        predict_on(["cpu", "cpu"], network, rows, columns)


def test_wrong_devices_and_shapes_are_named():
    network, rows, columns = made(m=3)
    for devices in ([], ["cpu", "meta"]):
        with pytest.raises(ValueError, match="devices must name CPUs"):
            predict_on(devices, network, rows, columns)
    with pytest.raises(ValueError, match=r"columns must be \[n, 8\], got \[70, 7\]"):
        predict_on(["cpu"], network, rows, columns[:, 1:])
