"""The GPU's sums, run on the CPU: Triton's kernel by its interpreter, and torch's operations."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from nncift_core.estimator import InfluenceNetwork, network_triton

SIZES = {"one": (1, 1, 12, 1.0), "edges": (65, 129, 12, -2.0), "rows alone": (130, 40, 0, 0.5)}


def made(d_column=12, scale=0.5):
    rng = np.random.default_rng(0)
    weights = (rng.normal(size=s) for s in ((20, 12 + d_column), 20, (1, 20), 1))
    return InfluenceNetwork.from_weights(*weights, dimension=12, scale=scale, shift=-1.0)


def inputs(m, n, d_column=12):
    rng = np.random.default_rng(1)
    return rng.normal(size=(m, 12)).astype(np.float16), rng.normal(size=(n, d_column)).astype(np.float16)


def spoiled():
    rows, columns = inputs(70, 50)
    rows[3, 1] = columns[6, 2] = np.nan
    return rows, columns


def computed(by_triton):
    """Every case: name -> matrix."""

    def one(network, rows, columns):
        out = np.full((len(rows), len(columns)), np.inf, np.float32)
        network_triton.predict(network, rows, columns, out, torch.device("cpu"), by_triton=by_triton)
        return out

    found = {name: one(made(*rest), *inputs(m, n, rest[0])) for name, (m, n, *rest) in SIZES.items()}
    zeros = (np.zeros(s) for s in ((3, 24), 3, (1, 3), 1))
    found["constant"] = one(InfluenceNetwork.from_weights(*zeros, shift=0.3), *inputs(5, 4))
    found["whole"] = one(made(), *inputs(70, 50))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network_triton, "_BLOCK_ROWS", 32)
        patch.setattr(network_triton, "_BLOCK_COLUMNS", 20)
        found["blocks"] = one(made(), *inputs(70, 50))
        found["spoiled"] = one(made(), *spoiled())
    return found


@pytest.fixture(scope="module", params=["triton", "torch"])
def matrices(request, tmp_path_factory):
    if request.param == "torch":
        return computed(by_triton=False)
    if not find_spec("triton"):
        pytest.skip("triton is not installed")
    # Triton asks for the interpreter once, when it is imported: hence a process of its own.
    path = tmp_path_factory.mktemp("triton") / "found.npz"
    subprocess.run(
        [sys.executable, __file__, str(path)], env=os.environ | {"TRITON_INTERPRET": "1"}, check=True
    )
    with np.load(path) as found:
        return dict(found)


@pytest.mark.parametrize("name", SIZES)
def test_agrees_with_the_cpu(matrices, name):
    m, n, d_column, scale = SIZES[name]
    expected = made(d_column, scale).predict(*inputs(m, n, d_column), kernel="torch")
    np.testing.assert_allclose(matrices[name], expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_blocks_make_up_the_whole(matrices):
    np.testing.assert_allclose(matrices["blocks"], matrices["whole"], rtol=0, atol=1e-5)


def test_a_constant_network_has_no_units(matrices):
    assert np.unique(matrices["constant"]).tolist() == [np.float32(0.3)]


def test_a_value_that_is_not_finite_spoils_its_row_and_column_only(matrices):
    wrong = np.zeros((70, 50), bool)
    wrong[3] = wrong[:, 6] = True
    assert np.array_equal(np.isnan(matrices["spoiled"]), wrong)
    np.testing.assert_allclose(matrices["spoiled"][~wrong], matrices["whole"][~wrong], rtol=0, atol=1e-5)


if __name__ == "__main__":
    np.savez(sys.argv[1], **computed(by_triton=True))
