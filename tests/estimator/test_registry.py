"""Every registered estimator fills the contract, whatever the labels look like."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from estimator_worlds import learnable, pointwise

from nncift_core.config_sections import CHEAP, LEARNED
from nncift_core.estimator import class_of, make, possible
from nncift_core.estimator.contract import EMBEDDING, LENGTHS, PROXY, Features
from nncift_core.estimator.registry import NAMES, name_of

PAIRS = learnable()
ROWS = pointwise()
NOT_POINTWISE = ("means", "cosine", "bm25", "proxy")

CASES = {
    "block": (PAIRS, PAIRS.block(40, 16)),
    "scattered": (PAIRS, PAIRS.scattered(400)),
    "single label": (PAIRS, tuple(x[:1] for x in PAIRS.block(1, 1))),
    "two labels": (PAIRS, PAIRS.scattered(2)),
    "single row": (PAIRS, PAIRS.block(1, 8)),
    "single column": (PAIRS, PAIRS.block(8, 1)),
    "constant": (PAIRS, (*PAIRS.block(6, 5)[:2], np.full(30, 0.3))),
    "pointwise": (ROWS, ROWS.block(45, 1)),
    "pointwise, one label": (ROWS, ROWS.block(1, 1)),
}


@pytest.fixture(scope="module")
def fitted():
    """(case, name) -> estimator, fitted once."""
    known = {}

    def get(case: str, name: str):
        if (case, name) not in known:
            world, labels = CASES[case]
            known[case, name] = make(name, hidden=8).fit(world.features, *labels, seed=3)
        return known[case, name]

    return get


def cases():
    return [(c, n) for c in CASES for n in NAMES if not (c.startswith("pointwise") and n in NOT_POINTWISE)]


def test_names_are_those_of_the_config():
    assert sorted(NAMES) == sorted(LEARNED + CHEAP)
    for name in NAMES:
        estimator = make(name)
        assert isinstance(estimator, class_of(name)) and class_of(estimator.name) is class_of(name)
        assert name_of(estimator.name) == name_of(name) == name
        assert estimator.learned == (name in LEARNED)
    with pytest.raises(KeyError, match="no estimator is called 'forest'"):
        make("forest")


@pytest.mark.parametrize(("case", "name"), cases())
def test_contract(fitted, case, name):
    world, (i, j, z) = CASES[case]
    estimator = fitted(case, name)
    predicted = estimator.predict(world.features)
    assert predicted.shape == world.features.shape and predicted.dtype == np.float32
    assert np.isfinite(predicted).all()
    scale = max(float(predicted.std()), 1e-6 * float(np.abs(predicted).max()))

    # Pairs agree with tiles, and a tile with the whole.
    pair_i, pair_j = np.nonzero(np.ones_like(predicted))
    pairs = estimator.predict_pairs(world.features, pair_i, pair_j)
    assert pairs.dtype == np.float32
    np.testing.assert_allclose(pairs, predicted.ravel(), rtol=1e-5, atol=1e-3 * scale)
    rows = np.random.default_rng(0).permutation(len(predicted))[:33]
    columns = np.arange(predicted.shape[1])[::-2]
    part = estimator.predict(world.features.take(rows, columns))
    np.testing.assert_allclose(part, predicted[np.ix_(rows, columns)], rtol=1e-5, atol=1e-3 * scale)

    std = estimator.std(world.features, i, j)
    assert std is None or (std.shape == i.shape and (std >= 0).all())
    assert json.loads(json.dumps(estimator.describe(), allow_nan=False)) == estimator.describe()


@pytest.mark.parametrize(
    ("case", "name"), [(c, n) for c, n in cases() if c in ("scattered", "single row", "pointwise")]
)
def test_equal_arguments_give_equal_bits(fitted, case, name):
    world, labels = CASES[case]
    again = make(name, hidden=8).fit(world.features, *labels, seed=3)
    assert np.array_equal(again.predict(world.features), fitted(case, name).predict(world.features))


@pytest.mark.parametrize("name", [n for n in NAMES if n != "random"])
@pytest.mark.parametrize("case", ["constant", "single label"])
def test_values_that_do_not_vary_are_predicted(fitted, case, name):
    world, (_, _, z) = CASES[case]
    np.testing.assert_allclose(fitted(case, name).predict(world.features), z[0], rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_wrong_labels_are_named(name):
    i, j, z = PAIRS.block(3, 2)
    with pytest.raises(ValueError, match="2 of 6 label values are not finite"):
        make(name).fit(PAIRS.features, i, j, np.array([0, np.nan, 1, 2, np.inf, 3]), seed=0)
    with pytest.raises(ValueError, match="k > 0"):
        make(name).fit(PAIRS.features, i[:0], j[:0], z[:0], seed=0)
    with pytest.raises(ValueError, match="i runs from 1 to 90, there are 90"):
        make(name).fit(PAIRS.features, np.array([1, 90]), j[:2], z[:2], seed=0)


@pytest.mark.parametrize("name", LEARNED)
def test_a_row_of_broken_features_is_refused(name):
    groups = {k: x.copy() for k, x in PAIRS.features.rows.items()}
    groups[EMBEDDING][2, 1] = np.nan
    broken = Features(PAIRS.features.row_ids, PAIRS.features.column_ids, groups, PAIRS.features.columns)
    with pytest.raises(ValueError, match="finite"):
        make(name).fit(broken, *PAIRS.block(5, 4), seed=0)


@pytest.mark.parametrize("name", [n for n in LEARNED if n != "mlp-paper"])
@pytest.mark.parametrize("groups", [(EMBEDDING,), (LENGTHS,), (EMBEDDING, PROXY)])
def test_groups_may_be_missing(name, groups):
    features = PAIRS.features.only(groups)
    assert possible(name, features) is None
    predicted = make(name, hidden=8).fit(features, *PAIRS.block(40, 16), seed=0).predict(features)
    assert np.isfinite(predicted).all() and predicted.shape == features.shape


def test_possible_says_what_is_missing():
    assert all(possible(n, PAIRS.features) is None for n in NAMES)
    refused = {n for n in NAMES if possible(n, ROWS.features) is not None}
    assert refused == set(NOT_POINTWISE)
    assert possible("bm25", PAIRS.features.only((PROXY,))) == "needs the pair feature 'bm25'"
    assert possible("mlp-paper", PAIRS.features.only((LENGTHS,))) == "needs the group 'embedding'"
    assert possible("means", ROWS.features) == "each row has a single value"
    with pytest.raises(KeyError, match="forest"):
        possible("forest", PAIRS.features)


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("constant", "means", "random")])
def test_what_is_not_possible_is_refused_by_fit(name):
    nothing = PAIRS.features.only(())
    assert "needs" in (possible(name, nothing) or "")
    with pytest.raises(ValueError):
        make(name).fit(nothing, *PAIRS.block(5, 4), seed=0)
    proxy = PAIRS.features.only((PROXY,))
    assert (possible(name, proxy) is None) == (name in ("ridge", "kernel", "proxy"))
    if possible(name, proxy) is None:
        make(name).fit(proxy, *PAIRS.block(20, 10), seed=0).predict(proxy)


def test_asking_for_names_does_not_load_torch():
    code = "import sys, nncift_core.estimator.registry; print('torch' in sys.modules, 'numba' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["False", "False"], done.stderr
