"""What is kept of logits, against the formulas written out."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nncift_core.classification.contract import Dynamics, dynamics_of, observed


def plainly(logits: list[float], label: int) -> dict[str, float]:
    """The four quantities of one row, by exact sums."""
    top = max(logits)
    e = [math.exp(v - top) for v in logits]
    p = [v / math.fsum(e) for v in e]
    return {
        "log_probability": logits[label] - top - math.log(math.fsum(e)),
        "margin": logits[label] - max(v for k, v in enumerate(logits) if k != label),
        "el2n": math.sqrt(math.fsum((v - (k == label)) ** 2 for k, v in enumerate(p))),
        "predicted": logits.index(top),
    }


@pytest.mark.parametrize("scale", [1e-6, 1.0, 30.0, 1e4, 1e30])
def test_observed_equals_the_formulas_at_every_scale(scale):
    rng = np.random.default_rng(0)
    logits = (rng.normal(size=(40, 5)) * scale).astype(np.float32)
    labels = rng.integers(0, 5, 40)
    found = observed(logits, labels)
    for i, label in enumerate(labels.tolist()):
        expected = plainly([float(v) for v in logits[i]], label)
        for name, value in expected.items():
            assert found[name][i] == pytest.approx(value, rel=1e-6, abs=1e-7), (name, i)
    assert all(found[name].dtype == np.float32 for name in ("log_probability", "margin", "el2n"))


def test_a_sure_and_wrong_model_stays_finite():
    found = observed(np.array([[1000.0, -1000.0], [-1000.0, 1000.0]], np.float32), np.array([1, 1]))
    assert found["log_probability"].tolist() == [-2000, 0]
    assert found["margin"].tolist() == [-2000, 2000]
    assert found["el2n"] == pytest.approx([math.sqrt(2), 0])
    assert found["predicted"].tolist() == [0, 1]


def test_of_equal_logits_the_lowest_class_is_predicted_and_the_margin_is_0():
    found = observed(np.zeros((1, 4), np.float32), np.array([2]))
    assert found["predicted"].tolist() == [0] and found["margin"].tolist() == [0]
    assert found["log_probability"] == pytest.approx([-math.log(4)])


def made(points: int = 3, n: int = 6) -> Dynamics:
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(points, n, 3)).astype(np.float32)
    steps = np.arange(1, points + 1)
    ends = np.arange(points) % 2 == 1
    return dynamics_of(logits, rng.integers(0, 3, n), steps, steps / 2, ends)


def test_dynamics_are_the_observed_points_in_order():
    rng = np.random.default_rng(2)
    logits, labels = rng.normal(size=(4, 7, 3)).astype(np.float32), rng.integers(0, 3, 7)
    steps = np.array([2, 4, 5, 9])
    found = dynamics_of(logits, labels, steps, steps / 4, np.array([False, True, False, True]))
    assert (len(found), found.rows) == (4, 7)
    for t in range(4):
        for name, value in observed(logits[t], labels).items():
            assert np.array_equal(getattr(found, name)[t], value), name
    assert np.array_equal(found.correct(labels), logits.argmax(axis=2) == labels)


def test_some_points_are_those_points_in_all_they_hold():
    whole = made(4)
    part = whole.at(np.array([False, True, False, True]))
    assert part.steps.tolist() == [2, 4] and part.epoch_end.tolist() == [True, True]
    assert np.array_equal(part.margin, whole.margin[[1, 3]])
    assert np.array_equal(whole.at(np.array([2])).predicted, whole.predicted[[2]])


@pytest.mark.parametrize("name", ["margin", "el2n", "predicted", "steps", "epochs", "epoch_end"])
def test_shapes_that_do_not_fit_together_are_refused(name):
    whole = made()
    values = {f: getattr(whole, f) for f in whole.__dataclass_fields__}
    with pytest.raises(ValueError, match=f"{name} is "):
        Dynamics(**(values | {name: values[name][:-1]}))
