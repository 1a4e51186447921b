"""Which kernel computes the matrix."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from nncift_core.estimator import InfluenceNetwork, network_calibration
from nncift_core.estimator.network_calibration import Calibration, calibrate, use


@pytest.fixture(autouse=True)
def no_record():
    use(None)
    yield
    use(None)


def network():
    rng = np.random.default_rng(0)
    return InfluenceNetwork.from_weights(*(rng.normal(size=s) for s in ((5, 8), 5, (1, 5), 1)))


def test_every_installed_kernel_is_timed_and_the_fastest_is_named():
    found = calibrate(5, 4, rows=20, columns=30)
    assert set(found.pairs_per_second) == set(network_calibration.installed())
    assert found.pairs_per_second[found.kernel] == max(found.pairs_per_second.values()) > 0
    assert (found.hidden, found.dimension, found.rows, found.columns) == (5, 4, 20, 30)
    assert found.torch is not None and found.threads >= 1


def test_a_record_goes_through_json_and_decides():
    found = calibrate(5, 4, rows=20, columns=30)
    record = json.loads(json.dumps(found.record()))
    assert Calibration.from_record(record) == found
    for kernel in network_calibration.installed():
        assert use(record | {"kernel": kernel}) == kernel == network_calibration.in_use()


def test_the_identity_holds_no_time():
    found = calibrate(5, 4, rows=20, columns=30)
    slower = Calibration.from_record(found.record() | {"pairs_per_second": {"torch": 1.0}})
    assert slower.identity() == found.identity()
    assert found.identity()["version"] == getattr(found, found.kernel)
    other = {"kernel": "torch" if found.kernel == "numba" else "numba"}
    assert Calibration.from_record(found.record() | other).identity() != found.identity()


def test_predict_uses_the_recorded_kernel(monkeypatch):
    called = []
    monkeypatch.setattr(InfluenceNetwork, "_predict_by_torch", lambda self, *a: called.append(len(a[0])))
    rows = np.zeros((3, 4), np.float32)
    use(calibrate(5, 4, rows=2, columns=2).record() | {"kernel": "torch"})
    called.clear()
    network().predict(rows, rows)
    assert called == [3]


def test_without_numba_torch_computes():
    code = (
        "import sys; sys.modules['numba'] = None; sys.modules['llvmlite'] = None\n"
        "import importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'numba' else find(name, *a)\n"
        "import numpy as np; from nncift_core.estimator import InfluenceNetwork, network_calibration as c\n"
        "n = InfluenceNetwork.from_weights(np.ones((2, 4)), np.ones(2), np.ones((1, 2)), np.ones(1))\n"
        "x = np.ones((1, 2), np.float32)\n"
        "print(c.in_use(), n.predict(x, x)[0, 0], c.calibrate(2, 2).kernel)\n"
        "try: n.predict(x, x, kernel='numba')\n"
        "except ValueError as e: print(e)\n"
    )
    lines = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    first, second = lines.splitlines()
    assert first == "torch 11.0 torch"
    assert "needs the package 'numba'" in second


def test_wrong_records_and_kernels_are_named():
    record = calibrate(5, 4, rows=2, columns=2).record()
    with pytest.raises(ValueError, match="unknown kernel 'abacus': choose one of numba, torch"):
        use(record | {"kernel": "abacus"})
    with pytest.raises(ValueError, match="not the record of a calibration .*calibrate again"):
        use({"kernel": "torch"})
    with pytest.raises(ValueError, match="unknown kernel 'abacus'"):
        network().predict(np.zeros((1, 4)), np.zeros((1, 4)), kernel="abacus")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"at least 1, got \[0, 4, 512, 1024\]"):
        calibrate(0, 4)
