"""All scores of a job at once: means over runs, variants, which end is hard."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scores.plain_scores import exact_dynamics, oracle

from nncift_core.config_prune import ScoresConfig
from nncift_core.errors import UserError
from nncift_core.scores.catalogue import CATALOGUE
from nncift_core.scores.compute import difficulty, scores_of

KNOWN = oracle()
LABELS = KNOWN["labels"]
NULL = np.log(KNOWN["null_probability"])
FIRST = exact_dynamics(KNOWN["logits"], LABELS)
# Another run: the same rows, in the reverse order of time.
SECOND = exact_dynamics(KNOWN["logits"][::-1], LABELS)
GRADIENTS = {"vog": KNOWN["vog"], "tracin": np.arange(50.0), "grand": np.arange(50.0) ** 2}


def test_every_name_and_variant_of_the_catalogue_comes_out() -> None:
    found = scores_of([FIRST], LABELS, ScoresConfig(), [NULL], GRADIENTS)
    assert list(found) == [(name, v) for name, entry in CATALOGUE.items() for v in entry.variants]
    expected = {
        ("vog", "class"): KNOWN["vog_class"],
        ("vog", "dataset"): KNOWN["vog_dataset"],
        ("vog", "raw"): KNOWN["vog"],
        ("el2n", "early"): KNOWN["el2n_epoch2"],
        ("el2n", "late"): KNOWN["el2n"][9],
        ("pvi", "mean"): KNOWN["pvi"][1],
        ("aum", "mean"): KNOWN["aum"],
        ("confidence", "mean"): KNOWN["confidence"],
        ("variability", "mean"): KNOWN["variability"],
        ("tracin", "sum"): GRADIENTS["tracin"],
        ("grand", "mean"): GRADIENTS["grand"],
    }
    for key, values in expected.items():
        np.testing.assert_allclose(found[key], values, rtol=1e-11, atol=1e-12, err_msg=str(key))


def test_forgetting_of_the_whole_run_puts_the_never_right_rows_last() -> None:
    settings = ScoresConfig(names=["forgetting"], forgetting_epochs=10)
    found = scores_of([FIRST], LABELS, settings, None, None)["forgetting", "count"]
    never, counts = KNOWN["never_right"], KNOWN["forgetting"]
    np.testing.assert_array_equal(found, np.where(never, counts.max() + 1, counts))


def test_scores_of_several_runs_are_their_mean_and_null_models_are_averaged_in_bits() -> None:
    settings = ScoresConfig(names=["el2n", "pvi", "variability"])
    other_null = np.log([0.2, 0.3, 0.5])
    found = scores_of([FIRST, SECOND], LABELS, settings, [NULL, other_null], None)
    np.testing.assert_allclose(found["el2n", "early"], (KNOWN["el2n"][1] + KNOWN["el2n"][8]) / 2, atol=1e-12)
    np.testing.assert_allclose(found["el2n", "late"], (KNOWN["el2n"][9] + KNOWN["el2n"][0]) / 2, atol=1e-12)
    np.testing.assert_allclose(found["variability", "mean"], KNOWN["variability"], atol=1e-12)
    bits = np.log2(KNOWN["null_probability"])[LABELS] - np.log2([0.2, 0.3, 0.5])[LABELS]
    second = KNOWN["pvi"][8] + bits
    np.testing.assert_allclose(found["pvi", "mean"], (KNOWN["pvi"][1] + second) / 2, atol=1e-11)


@pytest.mark.parametrize("name", ["pvi", "vog", "aum"])
def test_what_a_score_needs_must_be_given(name: str) -> None:
    runs = [] if name == "aum" else [FIRST]
    with pytest.raises(ValueError, match=f"for the score {name}"):
        scores_of(runs, LABELS, ScoresConfig(names=[name]), None, {})  # type: ignore[list-item]


def test_a_training_that_ran_away_is_told_so() -> None:
    margin = FIRST.margin.copy()
    margin[3, 5] = np.nan
    with pytest.raises(UserError, match=r"training\.learning_rate.*aum of 1 of 50 rows"):
        scores_of([replace(FIRST, margin=margin)], LABELS, ScoresConfig(names=["aum"]), None, None)


def test_scores_for_other_rows_than_the_labels_are_refused() -> None:
    with pytest.raises(ValueError, match="49 labels"):
        scores_of([FIRST], LABELS[:49], ScoresConfig(names=["aum"]), None, None)


def test_larger_difficulty_is_harder_whatever_the_score() -> None:
    found = scores_of([FIRST], LABELS, ScoresConfig(), [NULL], GRADIENTS)
    hard = KNOWN["el2n_mean"]
    np.testing.assert_array_equal(difficulty("el2n", hard), hard)
    for name in ("pvi", "aum", "confidence"):
        assert np.corrcoef(difficulty(name, found[name, "mean"]), hard)[0, 1] > 0.3
