"""Min-max scaling of raw influence and its record."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from nncift_core.selection import NonNegative, facility_location, scale, shift_to_non_negative

RAW = np.array([[-1.0, 0.0], [1.0, 3.0]], np.float32)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scales_to_zero_and_one(dtype: type) -> None:
    raw: npt.NDArray[np.floating] = RAW.astype(dtype)
    scaled, record = shift_to_non_negative(raw)
    assert scaled.tolist() == [[0.0, 0.25], [0.5, 1.0]]
    assert scaled.dtype == dtype
    assert record == NonNegative(-1.0, 3.0)
    assert not record.constant
    assert raw.tolist() == RAW.tolist()


def test_ends_are_exact_and_order_is_kept_on_random_values() -> None:
    raw = np.random.default_rng(0).normal(scale=0.004, size=(300, 70)).astype(np.float32)
    scaled, _ = shift_to_non_negative(raw)
    assert (scaled.min(), scaled.max()) == (0.0, 1.0)
    assert (np.diff(scaled.ravel()[np.argsort(raw.ravel())]) >= 0).all()


def test_constant_matrix_becomes_zeros_and_the_record_says_so() -> None:
    scaled, record = shift_to_non_negative(np.full((2, 3), -0.7))
    assert scaled.tolist() == [[0.0] * 3] * 2
    assert record == NonNegative(-0.7, -0.7)
    assert record.constant


def test_chunks_equal_the_whole() -> None:
    raw = np.random.default_rng(1).normal(size=(50, 8)).astype(np.float32)
    whole, record = shift_to_non_negative(raw)
    chunks = [scale(raw[i : i + 7], record.minimum, record.maximum) for i in range(0, 50, 7)]
    assert (np.concatenate(chunks) == whole).all()


def test_fills_out_in_place() -> None:
    raw = RAW.copy()
    scaled, _ = shift_to_non_negative(raw, out=raw)
    assert scaled is raw
    assert raw.tolist() == [[0.0, 0.25], [0.5, 1.0]]


def test_transposed_input_keeps_its_layout_so_selection_need_not_copy() -> None:
    scaled, _ = shift_to_non_negative(np.ascontiguousarray(RAW).T)
    assert scaled.T.flags.c_contiguous


def test_joint_scaling_covers_every_matrix() -> None:
    record = NonNegative.of(RAW, np.array([[-5.0, 1.0, 2.0]]))
    assert record == NonNegative(-5.0, 3.0)
    assert record.apply(RAW).tolist() == [[0.5, 0.625], [0.75, 1.0]]


def test_shift_makes_unclamped_and_floored_selection_agree() -> None:
    raw = np.random.default_rng(2).normal(size=(20, 15))
    scaled, _ = shift_to_non_negative(raw)
    unclamped, floored = facility_location(scaled, 15), facility_location(scaled, 15, floor=0.0)
    assert unclamped.order.tolist() == floored.order.tolist()
    assert facility_location(raw, 15).order.tolist() != facility_location(raw, 15, floor=0.0).order.tolist()


def test_wrong_input_is_refused() -> None:
    with pytest.raises(ValueError, match=r"similarity\[row 1, column 0\] is nan"):
        shift_to_non_negative(np.array([[0.0], [np.nan]]))
    with pytest.raises(ValueError, match=r"lie in -1\.0\.\.3\.0, outside minimum\.\.maximum 0\.0\.\.3\.0"):
        scale(RAW, 0.0, 3.0)
    with pytest.raises(ValueError, match=r"outside minimum\.\.maximum -1\.0\.\.2\.0"):
        scale(RAW, -1.0, 2.0)
    with pytest.raises(ValueError, match=r"out is float64 \(2, 2\), but must be float32 \(2, 2\)"):
        shift_to_non_negative(RAW, out=np.zeros((2, 2)))
    with pytest.raises(ValueError, match="overflows float32"):
        shift_to_non_negative(np.array([[-3e38, 3e38]], np.float32))
    with pytest.raises(ValueError, match="at least one matrix"):
        NonNegative.of()
