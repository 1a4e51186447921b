"""Every score against the oracles, and by hand where those say nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scores.plain_scores import answered, exact_dynamics, oracle

from nncift_core.classification.contract import Dynamics, dynamics_of
from nncift_core.errors import UserError
from nncift_core.scores import vog as vog_module
from nncift_core.scores.aum import aum
from nncift_core.scores.cartography import confidence, correctness, variability
from nncift_core.scores.el2n import el2n
from nncift_core.scores.forgetting import forgetting, forgotten
from nncift_core.scores.grand import grand
from nncift_core.scores.normalise import over_rows, within_classes
from nncift_core.scores.pvi import pvi
from nncift_core.scores.tracin import tracin
from nncift_core.scores.vog import vog, vog_std

KNOWN = oracle()
LABELS = KNOWN["labels"]
NULL = np.log(KNOWN["null_probability"])
EXACT = exact_dynamics(KNOWN["logits"], LABELS)
STORED = dynamics_of(
    KNOWN["logits"], LABELS, np.arange(1, 11), np.arange(1, 11, dtype=np.float64), np.ones(10, dtype=bool)
)
both = pytest.mark.parametrize(("run", "tolerance"), [(EXACT, 1e-12), (STORED, 1e-5)], ids=["f8", "f4"])


@both
def test_scores_of_the_dynamics_are_the_oracles(run: Dynamics, tolerance: float) -> None:
    found = {
        "el2n_epoch2": el2n(run, 2),
        "aum": aum(run),
        "confidence": confidence(run),
        "variability": variability(run),
    }
    for name, values in found.items():
        assert values.dtype == np.float64
        np.testing.assert_allclose(values, KNOWN[name], rtol=0, atol=tolerance, err_msg=name)
    for epoch in range(1, 11):
        np.testing.assert_allclose(el2n(run, epoch), KNOWN["el2n"][epoch - 1], rtol=0, atol=tolerance)
    np.testing.assert_array_equal(el2n(run, None), el2n(run, 10))


@both
def test_pvi_is_the_oracles_also_where_a_probability_underflows(run: Dynamics, tolerance: float) -> None:
    for epoch in range(1, 11):
        found = pvi(run, NULL, LABELS, epoch)
        np.testing.assert_allclose(found, KNOWN["pvi"][epoch - 1], rtol=0, atol=5 * tolerance)
    assert KNOWN["pvi"].min() == pytest.approx(-233.6, abs=0.05)
    assert np.exp(run.log_probability.astype(np.float32)).min() == 0


@both
def test_forgetting_is_the_oracles(run: Dynamics, tolerance: float) -> None:
    found = forgotten(run, LABELS, 10)
    np.testing.assert_array_equal(found.counts, KNOWN["forgetting"])
    np.testing.assert_array_equal(found.never_right, KNOWN["never_right"])
    assert found.never_right.any()


@pytest.mark.parametrize("floats", [1 << 22, 300])
def test_vog_is_the_oracles_in_one_block_and_in_several(floats: int, monkeypatch: Any) -> None:
    monkeypatch.setattr(vog_module, "_FLOATS_PER_PASS", floats)
    g, mask = KNOWN["embedding_gradients"], KNOWN["mask"]
    found = {"vog": vog(g), "vog_std": vog_std(g), "vog_masked": vog(g, mask)}
    for name in list(found):
        found[f"{name}_class"] = within_classes(found[name], LABELS)
        found[f"{name}_dataset"] = over_rows(found[name])
    found["vog_var"] = found["vog"] / np.sqrt(10)
    for name, values in found.items():
        np.testing.assert_allclose(values, KNOWN[name], rtol=1e-11, atol=1e-12, err_msg=name)
    np.testing.assert_allclose(found["vog"], KNOWN["vog"], rtol=1e-12)


def test_what_masked_tokens_hold_does_not_matter() -> None:
    g, mask = KNOWN["embedding_gradients"].copy(), KNOWN["mask"]
    g[:, mask == 0] = np.nan
    np.testing.assert_allclose(vog(g, mask), KNOWN["vog_masked"], rtol=1e-12)


def test_gradients_without_tokens_are_averaged_over_their_dimensions() -> None:
    g = KNOWN["embedding_gradients"].reshape(10, 50, 24)
    np.testing.assert_allclose(vog(g), KNOWN["vog"], rtol=1e-12)


def test_a_mask_that_does_not_fit_or_leaves_nothing_is_refused() -> None:
    g, mask = KNOWN["embedding_gradients"], KNOWN["mask"].copy()
    with pytest.raises(ValueError, match="does not fit"):
        vog(g, mask[:, :3])
    mask[7] = 0
    with pytest.raises(ValueError, match="without tokens"):
        vog(g, mask)
    with pytest.raises(ValueError, match="checkpoints x rows"):
        vog(g[:, :, 0, 0])


def test_classes_of_one_row_or_without_spread_get_zero() -> None:
    # The mean of three 0.1 is not 0.1 in floating point.
    values = np.array([5.0, 0.1, 0.1, 0.1, 1.0, 3.0])
    labels = np.array([4, 1, 1, 1, 0, 0])
    np.testing.assert_array_equal(within_classes(values, labels), [0, 0, 0, 0, -1, 1])
    np.testing.assert_array_equal(over_rows(values[1:4]), np.zeros(3))


def test_gradients_whose_squares_underflow_still_have_z_scores() -> None:
    np.testing.assert_allclose(over_rows(np.array([1.0, 3.0]) * 1e-200), [-1, 1])


def test_only_epoch_ends_and_the_epoch_asked_for_are_read() -> None:
    run = answered(["-+-+", "++--"], per_epoch=2)
    np.testing.assert_allclose(confidence(run), [0.75, 0.5], rtol=1e-6)
    np.testing.assert_allclose(variability(run), [0, 0.25], atol=1e-6)
    np.testing.assert_array_equal(correctness(run, np.zeros(2, np.int64)), [1, 0.5])
    null, labels = np.log([0.5, 0.5]), np.zeros(2, np.int64)
    np.testing.assert_allclose(pvi(run, null, labels, 2), np.log2([1.5, 0.5]), atol=1e-6)
    with pytest.raises(ValueError, match="end of epoch 3"):
        el2n(run, 3)


def test_forgetting_counts_in_the_first_epochs_only() -> None:
    run = answered(["+-+-+-", "++++++", "+-++++"], per_epoch=2)
    labels = np.zeros(3, np.int64)
    np.testing.assert_array_equal(forgotten(run, labels, 2).counts, [2, 0, 1])
    np.testing.assert_array_equal(forgotten(run, labels, 3).counts, [3, 0, 1])
    with pytest.raises(UserError, match=r"scores\.forgetting_epochs.*needs two.*log_every"):
        forgotten(run, labels, 0.5)


def test_rows_that_a_run_never_had_right_are_beyond_every_count() -> None:
    rows = [["+-+-", "++++", "----", "----", "-+-+"], ["+-+-", "+-++", "----", "++++", "+++-"]]
    runs = [answered(run) for run in rows]
    labels = np.zeros(5, np.int64)
    assert [forgotten(run, labels, 4).never_right.tolist() for run in runs] == [
        [False, False, True, True, False],
        [False, False, True, False, False],
    ]
    assert forgetting(runs, labels, 4).tolist() == [4, 1, 6, 5, 2]
    assert forgetting(runs[:1], labels, 4).tolist() == [2, 0, 3, 3, 1]


def test_gradient_norms_become_self_influence_and_grand() -> None:
    squares = np.array([[4.0, 9.0], [16.0, 0.0]], np.float32)
    np.testing.assert_allclose(tracin(squares, np.array([0.5, 0.25])), [6, 4.5])
    np.testing.assert_allclose(grand(squares), [3, 1.5])
    with pytest.raises(ValueError, match="rates"):
        tracin(squares, np.array([0.5]))
    with pytest.raises(ValueError, match="checkpoints"):
        grand(squares[:0])
