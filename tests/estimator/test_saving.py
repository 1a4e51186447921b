"""Saved estimators predict the same bits; what is no estimator is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from estimator_worlds import learnable, pointwise
from safetensors.numpy import save_file

from nncift_core.errors import IntegrityError
from nncift_core.estimator import load, make, possible, save
from nncift_core.estimator.registry import NAMES

WORLDS = {"pairs": learnable(40, 20), "pointwise": pointwise(40)}
LABELS = {
    "block": ("pairs", WORLDS["pairs"].block(20, 9)),
    "scattered": ("pairs", WORLDS["pairs"].scattered(150)),
    "one": ("pairs", WORLDS["pairs"].scattered(1)),
    "pointwise": ("pointwise", WORLDS["pointwise"].block(25, 1)),
}


@pytest.mark.parametrize("design", LABELS)
@pytest.mark.parametrize("name", NAMES)
def test_reloaded_predicts_the_same_bits(tmp_path, name, design):
    kind, (i, j, z) = LABELS[design]
    features = WORLDS[kind].features
    if possible(name, features) is not None:
        with pytest.raises((ValueError, AssertionError)):
            assert name != "means"
            make(name).fit(features, i, j, z, seed=0)
        return
    fitted = make(name, hidden=6).fit(features, i, j, z, seed=0)
    path, again = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save(fitted, path)
    loaded = load(path)
    assert type(loaded) is type(fitted) and loaded.name == fitted.name
    assert loaded.describe() == fitted.describe()
    assert np.array_equal(loaded.predict(features), fitted.predict(features))
    assert np.array_equal(loaded.predict_pairs(features, i, j), fitted.predict_pairs(features, i, j))
    before, after = fitted.std(features, i, j), loaded.std(features, i, j)
    assert (before is None) == (after is None) and (before is None or np.array_equal(before, after))
    save(loaded, again)
    assert path.read_bytes() == again.read_bytes()


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "ridge.safetensors"
    _, labels = LABELS["block"]
    save(make("ridge").fit(WORLDS["pairs"].features, *labels, seed=0), path)
    return path


def test_broken_files_are_refused(saved, tmp_path):
    content = saved.read_bytes()
    for broken in (content[:-1], content[: len(content) // 2], b"", b"not an estimator at all"):
        saved.write_bytes(broken)
        with pytest.raises(IntegrityError, match="broken estimator file"):
            load(saved)
    with pytest.raises(IntegrityError, match="absent.safetensors: broken estimator file"):
        load(tmp_path / "absent.safetensors")


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (None, "not an estimator of this format"),
        (
            {"format": "nncift-estimator-0", "name": "constant", "settings": {"mean": 1}},
            "not an estimator of",
        ),
        ([1], "not an estimator of this format"),
        (
            {"format": "nncift-estimator-1", "name": "forest", "settings": {}},
            "no estimator is called 'forest'",
        ),
        ({"format": "nncift-estimator-1", "name": "constant", "settings": {}}, "broken estimator file"),
        ({"format": "nncift-estimator-1", "name": "constant"}, "broken estimator file"),
        (
            {"format": "nncift-estimator-1", "name": "ridge", "settings": {"pairs": []}},
            "broken estimator file",
        ),
    ],
)
def test_foreign_files_are_refused(tmp_path, header, message):
    path = tmp_path / "x.safetensors"
    metadata = None if header is None else {"estimator": json.dumps(header)}
    save_file({"w": np.zeros(2, np.float32)}, str(path), metadata=metadata)
    with pytest.raises(IntegrityError, match=message):
        load(path)
