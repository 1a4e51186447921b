"""The gate's rules one by one, and its error rates by simulation."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
from estimator.made_estimators import BASELINES, Linear, block, made, scattered

from nncift_core.estimator.gate import judge

RNG = np.random.default_rng(1)
N = 200
TRUTH, NOISE, OTHER = RNG.normal(size=(3, N))
COLUMNS = np.arange(N) % 40
CONSTANT = np.zeros(N)
GOOD = TRUTH + 0.5 * NOISE
FAINT = 0.3 * (0.35 * TRUTH + OTHER)


def verdict(predictions, baselines=None, **changes):
    others = [name for name in predictions if name != "kernel"] if baselines is None else baselines
    given = {"estimator": "kernel", "baselines": others, "columns": COLUMNS, "seed": 0, **changes}
    return judge(TRUTH, predictions, **given)


def test_trusted_when_it_beats_the_best_baseline():
    got = verdict({"kernel": GOOD, "constant": CONSTANT, "bm25": FAINT})
    assert (got.level, got.rival, got.fallback) == ("trusted", "bm25", "bm25")
    assert 0 < got.lower < got.difference < got.upper
    assert got.reason.startswith("ranks unseen pairs better than every cheap baseline (kernel: R2 0.")
    assert "against bm25)" in got.reason
    assert json.loads(json.dumps(got.as_row()))["level"] == "trusted"


def test_weak_without_a_clear_win():
    got = verdict({"kernel": GOOD, "constant": CONSTANT, "means": TRUTH + 0.5 * OTHER})
    assert (got.level, got.fallback) == ("weak", "means") and got.lower <= 0 <= got.upper
    assert "no clear win over the cheap baseline means" in got.reason


def test_refused_when_clearly_worse_than_a_baseline():
    got = verdict({"kernel": TRUTH + 0.9 * NOISE, "constant": CONSTANT, "means": TRUTH + 0.1 * OTHER})
    assert (got.level, got.rival, got.fallback) == ("refused", "means", "means") and got.upper < 0
    assert "clearly worse than the cheap baseline means" in got.reason


def test_refused_without_variance_explained_or_ranking():
    # Ranks perfectly at the wrong scale.
    scale = verdict({"kernel": 9 * TRUTH, "constant": CONSTANT})
    assert scale.level == "refused" and "no better than a constant" in scale.reason
    chance = verdict({"kernel": 0.05 * TRUTH + 0.4 * NOISE - 0.4 * NOISE.mean(), "constant": CONSTANT})
    assert chance.level == "refused"
    # R2 > 0 from the mean alone: nothing is ranked.
    shrunk = 0.02 * (TRUTH + 12 * OTHER)
    slightly = verdict({"kernel": TRUTH.mean() + shrunk - shrunk.mean(), "constant": CONSTANT})
    assert slightly.level == "refused" and "beyond chance" in slightly.reason
    flat = verdict({"kernel": CONSTANT + TRUTH.mean(), "constant": CONSTANT})
    assert (flat.level, flat.difference) == ("refused", 0.0)


def test_refused_when_too_little_is_measured():
    short = judge(
        TRUTH[:29], {"kernel": GOOD[:29]}, estimator="kernel", baselines=[], columns=COLUMNS[:29], seed=0
    )
    assert (short.level, short.rival, short.fallback) == ("refused", None, "constant")
    assert "only 29 audit pairs" in short.reason and short.difference is None
    level = judge(CONSTANT, {"kernel": GOOD}, estimator="kernel", baselines=[], columns=COLUMNS, seed=0)
    assert level.level == "refused" and "do not vary" in level.reason
    empty = np.empty(0)
    none = judge(empty, {"kernel": empty}, estimator="kernel", baselines=[], columns=COLUMNS[:0], seed=0)
    assert none.level == "refused"


def test_fallback_is_the_best_baseline_that_ranks():
    bad = {"kernel": 9 * TRUTH, "constant": CONSTANT}
    assert verdict(bad).fallback == "constant"
    both = bad | {"bm25": FAINT, "means": TRUTH + 0.7 * NOISE}
    assert verdict(both).fallback == "means"
    # At the wrong scale, by chance, or out of order: no fallback.
    assert verdict(bad | {"means": 9 * TRUTH}).fallback == "constant"
    assert verdict(bad | {"cosine": 0.1 * OTHER}).fallback == "constant"
    assert verdict(bad | {"random": GOOD}).fallback == "constant"


def test_a_baseline_is_at_most_weak():
    names = ["kernel", "constant"]
    got = verdict({"kernel": GOOD, "constant": CONSTANT}, baselines=names)
    assert (got.level, got.rival, got.fallback) == ("weak", "constant", "kernel")
    assert "kernel is itself a cheap baseline" in got.reason


def test_length_explains_it():
    length = TRUTH + 0.45 * NOISE
    got = verdict({"kernel": TRUTH + 0.449 * NOISE, "constant": CONSTANT, "length": length})
    assert got.level == "weak" and "learning adds nothing beyond length" in got.reason
    # Even a win that is sure is not worth an estimator.
    sure = verdict({"kernel": TRUTH + 0.2 * NOISE, "constant": CONSTANT, "length": TRUTH + 0.3 * NOISE})
    assert sure.lower > 0 and sure.level == "weak"
    far = verdict({"kernel": TRUTH + 0.05 * NOISE, "constant": CONSTANT, "length": TRUTH + 0.7 * OTHER})
    assert far.level == "trusted"
    itself = verdict({"length": length, "constant": CONSTANT}, baselines=["length"], estimator="length")
    assert itself.level == "weak" and "beyond length" in itself.reason


def test_a_lucky_column_effect_does_not_pass_for_many_pairs():
    rng = np.random.default_rng(3)
    columns = np.arange(N) % 6
    truth = 3 * np.array([1.0, -0.6, -0.4, 0.8, -1.1, 0.2])[columns] + rng.normal(size=N)
    lucky = np.array([1.0, -1.0, 0.5, 0.0, 0.2, -0.2])[columns]
    given = {"estimator": "kernel", "baselines": ["constant"], "seed": 0}
    predictions = {"kernel": lucky, "constant": CONSTANT}
    assert judge(truth, predictions, columns=columns, **given).level == "refused"
    assert judge(truth, predictions, columns=np.arange(N), **given).level == "trusted"


def test_equal_arguments_give_an_equal_verdict():
    given = {"kernel": GOOD, "bm25": FAINT}
    assert verdict(given) == verdict(given)
    assert verdict(given).lower != verdict(given, seed=1).lower


def test_wrong_input_is_named():
    with pytest.raises(ValueError, match=r"no predictions of \['bm25'\], only of \['kernel'\]"):
        verdict({"kernel": GOOD}, baselines=["bm25"])
    with pytest.raises(ValueError, match=r"kernel is \[199\], there are 200 exact values"):
        verdict({"kernel": GOOD[1:]})
    with pytest.raises(ValueError, match="1 of 200 numbers of kernel are not finite"):
        verdict({"kernel": np.where(np.arange(N) == 3, np.inf, GOOD)})


def levels(kind, runs=20):
    """Verdicts of `runs` worlds: a block of labels, an estimator fitted on it, 200 unseen pairs."""
    found = Counter()
    for seed in range(runs):
        features, matrix = made(seed, "learnable" if kind == "shuffled" else kind)
        i, j = block(np.arange(50), np.arange(20))
        labels = matrix[i, j]
        if kind == "shuffled":
            labels = np.random.default_rng(seed).permutation(labels)
        a, b = scattered(matrix.shape, 200, seed, but=(i, j))
        predictions = {
            name: make().fit(features, i, j, labels, seed=seed).predict_pairs(features, a, b)
            for name, make in {"linear": Linear, **BASELINES}.items()
        }
        got = judge(
            matrix[a, b], predictions, estimator="linear", baselines=[*BASELINES], columns=b, seed=seed
        )
        found[got.level] += 1
    return found


@pytest.mark.heavy
@pytest.mark.parametrize("kind", ["noise", "shuffled", "column"])
def test_noise_is_refused_in_19_of_20(kind):
    assert levels(kind)["refused"] >= 19


@pytest.mark.heavy
def test_a_learnable_matrix_is_trusted_in_19_of_20():
    assert levels("learnable")["trusted"] >= 19
