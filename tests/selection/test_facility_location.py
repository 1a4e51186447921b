"""Facility location against the oracles, a naive greedy, and its own promises."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nncift_core.selection import (
    Selection,
    facility_location,
    facility_location_conditional_gain,
    facility_location_mutual_information,
)
from nncift_core.selection.lazy_greedy import run_lazy_greedy

Matrix = npt.NDArray[np.floating]
Value = Callable[[list[int]], float]
ORACLE = Path(__file__).parents[1] / "data" / "oracles" / "facility_location.npz"
TOLERANCE = 1e-5


def fl_value(s: Matrix, floor: float | None = None) -> Value:
    """f(A) of plain facility location in float64, f(empty) = 0 (or n * floor)."""
    s = s.astype(np.float64)
    empty = 0.0 if floor is None else floor * len(s)
    low = -np.inf if floor is None else floor
    return lambda chosen: float(np.maximum(s[:, chosen].max(axis=1), low).sum()) if chosen else empty


def flmi_value(s: Matrix, eta: float) -> Value:
    s = s.astype(np.float64)
    own = s.max(axis=0)
    return lambda chosen: float(s[:, chosen].max(axis=1).sum() + eta * own[chosen].sum()) if chosen else 0.0


def flcg_value(s: Matrix, existing: Matrix, nu: float) -> Value:
    s = s.astype(np.float64)
    covered = nu * existing.astype(np.float64).max(axis=1)
    return lambda chosen: float(np.maximum(s[:, chosen].max(axis=1) - covered, 0).sum()) if chosen else 0.0


def naive_greedy(value: Value, candidates: int, budget: int) -> tuple[list[int], list[float], int]:
    """Evaluate everything at every step; equal gains go to the lowest index. Order, gains, tied steps."""
    order: list[int] = []
    gains: list[float] = []
    ties = 0
    for _ in range(budget):
        here = value(order)
        open_ = {a: value([*order, a]) - here for a in range(candidates) if a not in order}
        best = max(open_.values())
        winners = [a for a, gain in open_.items() if gain == best]
        ties += len(winners) > 1
        order.append(winners[0])
        gains.append(best)
    return order, gains, ties


def assert_greedy(selection: Selection, value: Value, candidates: int) -> None:
    """Replay: every pick's true gain is the best one, and is what the selection says."""
    chosen: list[int] = []
    for picked, gain in zip(selection.order.tolist(), selection.gains.tolist(), strict=True):
        here = value(chosen)
        gains = {a: value([*chosen, a]) - here for a in range(candidates) if a not in chosen}
        assert gains[picked] >= max(gains.values()) - TOLERANCE
        assert gain == pytest.approx(gains[picked], abs=TOLERANCE)
        chosen.append(picked)


def case(name: str) -> tuple[Callable[[int], Selection], Value, int, dict[str, npt.NDArray[np.float64]]]:
    """The library call, the objective, the number of candidates, and the naive oracle of a case."""
    with np.load(ORACLE, allow_pickle=False) as z:
        a = {key: z[key] for key in z.files}
    naive = {key: a[f"{name}_naive_{key}"] for key in ("order", "gains", "margin")}
    n = 200 if "200" in name else 60
    s, k, p = (a[f"{letter}{n}"] for letter in "SKP")
    eta, nu = float(a[f"eta{n}"]), float(a[f"nu{n}"])
    asym = a["A60"]
    calls: dict[str, tuple[Callable[[int], Selection], Value]] = {
        f"fl{n}": (lambda b: facility_location(s, b), fl_value(s)),
        f"flmi{n}": (lambda b: facility_location_mutual_information(k.T, b, eta), flmi_value(k.T, eta)),
        f"flcg{n}": (lambda b: facility_location_conditional_gain(s, p, b, nu), flcg_value(s, p, nu)),
        "fl_asym60": (lambda b: facility_location(asym, b), fl_value(asym)),
        "fl_asym60_floor0": (lambda b: facility_location(asym, b, floor=0.0), fl_value(asym, 0.0)),
    }
    return *calls[name], n, naive


@pytest.mark.parametrize(
    "name",
    ["fl60", "flmi60", "flcg60", "fl200", "flmi200", "flcg200", "fl_asym60", "fl_asym60_floor0"],
)
def test_oracle(name: str) -> None:
    select, value, n, naive = case(name)
    selection = select(len(naive["order"]))
    assert_greedy(selection, value, n)
    clear = naive["margin"] > TOLERANCE
    before_first_tie = len(clear) if clear.all() else int(np.argmin(clear))
    assert selection.order[:before_first_tie].tolist() == naive["order"][:before_first_tie].tolist()
    assert selection.gains[:before_first_tie] == pytest.approx(naive["gains"][:before_first_tie], abs=1e-5)


@pytest.mark.parametrize("name", ["fl60", "fl200", "flmi200", "flcg200", "fl_asym60", "fl_asym60_floor0"])
def test_same_order_and_ties_as_the_naive_oracle_where_both_break_ties_alike(name: str) -> None:
    select, _, _, naive = case(name)
    selection = select(len(naive["order"]))
    assert selection.order.tolist() == naive["order"].tolist()
    assert selection.ties == int((naive["margin"] == 0).sum())
    assert selection.positive == int((naive["gains"] > 0).sum())


def test_oracle_cases_hold_what_they_are_here_to_test() -> None:
    _, _, _, asym = case("fl_asym60")
    assert asym["gains"][0] == pytest.approx(-11.793, abs=1e-4)
    _, _, _, tied = case("fl200")
    assert (tied["margin"] == 0).sum() > 1


# Eighths in a narrow range: sums are exact in float32, and ties abound.
eighths = st.integers(-6, 10).map(lambda k: k / 8)


@st.composite
def grids(draw: st.DrawFn, rows: int | None = None, dtype: type = np.float32) -> Matrix:
    shape = (rows or draw(st.integers(1, 9)), draw(st.integers(1, 9)))
    return draw(arrays(dtype, shape, elements=eighths))


@settings(deadline=None, max_examples=150)
@given(s=grids(), floor=st.sampled_from([None, 0.0, -0.25, 0.5]), data=st.data())
def test_equals_naive_greedy(s: Matrix, floor: float | None, data: st.DataObject) -> None:
    budget = data.draw(st.integers(1, s.shape[1]))
    selection = facility_location(s, budget, floor=floor)
    order, gains, ties = naive_greedy(fl_value(s, floor), s.shape[1], budget)
    assert selection.order.tolist() == order
    assert selection.gains.tolist() == gains
    assert selection.ties == ties
    assert selection.positive == sum(gain > 0 for gain in gains)


@settings(deadline=None, max_examples=100)
@given(s=grids(), eta=st.sampled_from([0.0, 0.5, 1.0, 2.0]), data=st.data())
def test_mutual_information_equals_naive_greedy(s: Matrix, eta: float, data: st.DataObject) -> None:
    budget = data.draw(st.integers(1, s.shape[1]))
    selection = facility_location_mutual_information(s, budget, eta)
    order, gains, ties = naive_greedy(flmi_value(s, eta), s.shape[1], budget)
    assert (selection.order.tolist(), selection.gains.tolist(), selection.ties) == (order, gains, ties)


@settings(deadline=None, max_examples=100)
@given(s=grids(), nu=st.sampled_from([0.0, 0.5, 1.0]), data=st.data())
def test_conditional_gain_equals_naive_greedy(s: Matrix, nu: float, data: st.DataObject) -> None:
    existing = data.draw(grids(rows=len(s)))
    budget = data.draw(st.integers(1, s.shape[1]))
    selection = facility_location_conditional_gain(s, existing, budget, nu)
    order, gains, ties = naive_greedy(flcg_value(s, existing, nu), s.shape[1], budget)
    assert (selection.order.tolist(), selection.gains.tolist(), selection.ties) == (order, gains, ties)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shift", [0.0, 0.5, 3.0])
def test_replays_on_random_values(dtype: type, shift: float) -> None:
    s: Matrix = (np.random.default_rng(7).normal(size=(33, 41)) - shift).astype(dtype)
    assert_greedy(facility_location(s, 41), fl_value(s), 41)
    assert_greedy(facility_location_mutual_information(s, 41, 0.3), flmi_value(s, 0.3), 41)
    assert_greedy(facility_location_conditional_gain(s, s[:, :3], 41, 0.7), flcg_value(s, s[:, :3], 0.7), 41)


def test_float64_is_kept() -> None:
    s = np.array([[0.5, 0.5 + 1e-12]])
    assert facility_location(s, 1).order.tolist() == [1]
    assert facility_location(s.astype(np.float32), 1).order.tolist() == [0]


def test_float16_and_integers_are_accepted() -> None:
    s = np.array([[1, 3, 2], [2, 0, 4]])
    for matrix in (s, s.astype(np.float16), s.astype(">f4")):
        selection = facility_location(matrix, 3)
        assert selection.order.tolist() == [2, 1, 0]
        assert selection.gains.tolist() == [6.0, 1.0, 0.0]
        assert selection.positive == 2


def test_budget_of_all_candidates_picks_each_once_and_reaches_the_full_value() -> None:
    s = np.random.default_rng(1).random((50, 30), dtype=np.float32)
    selection = facility_location(s, 30)
    assert sorted(selection.order.tolist()) == list(range(30))
    assert len(selection) == 30
    assert selection.gains.sum() == pytest.approx(s.astype(np.float64).max(axis=1).sum(), abs=1e-5)
    assert (np.diff(selection.gains) <= 0).all()


def test_saturated_picks_are_counted_as_ties_without_gain() -> None:
    s = np.array([[1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0]])
    selection = facility_location(s, 4)
    assert selection.order.tolist() == [0, 1, 2, 3]
    assert selection.gains.tolist() == [2.0, 0.0, 0.0, 0.0]
    assert (selection.ties, selection.positive) == (3, 1)


def test_memmap_is_read_in_place_and_left_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.random.default_rng(2).random((40, 25), dtype=np.float32)
    path = tmp_path / "matrix.npy"
    np.save(path, rows)
    before = path.read_bytes()
    mapped = np.load(path, mmap_mode="r")
    seen: list[bool] = []

    def spy(rows: Matrix, *args: object, **kwargs: object) -> object:
        seen.append(np.shares_memory(rows, mapped))
        return run_lazy_greedy(rows, *args, **kwargs)  # type: ignore[arg-type]

    # The package exports a function under the module's name, so the module is looked up by import.
    module = importlib.import_module("nncift_core.selection.facility_location")
    monkeypatch.setattr(module, "run_lazy_greedy", spy)
    from_disk = facility_location(mapped.T, 12)
    copied = facility_location(np.ascontiguousarray(rows.T), 12)
    assert seen == [True, False]
    assert from_disk.order.tolist() == copied.order.tolist()
    assert_greedy(from_disk, fl_value(rows.T), 40)
    assert path.read_bytes() == before


def test_writable_input_is_unchanged_and_stays_writable() -> None:
    rows = np.random.default_rng(3).random((10, 6), dtype=np.float32)
    before = rows.copy()
    facility_location(rows.T, 4)
    assert rows.flags.writeable
    assert (rows == before).all()


def test_values_that_are_not_finite_are_named() -> None:
    s = np.zeros((4, 6), np.float32)
    s[2, 5] = np.nan
    with pytest.raises(ValueError, match=r"similarity\[candidate 5, represented 2\] is nan"):
        facility_location(s, 2)
    s[2, 5] = -np.inf
    with pytest.raises(ValueError, match=r"similarity\[candidate 5, represented 2\] is -inf"):
        facility_location_mutual_information(s, 2)
    existing = np.zeros((4, 3))
    existing[1, 2] = np.nan
    with pytest.raises(ValueError, match=r"existing\[represented 1, existing 2\] is nan"):
        facility_location_conditional_gain(np.zeros((4, 6)), existing, 2)


@pytest.mark.parametrize("budget", [0, -1, 7])
def test_budget_outside_the_candidates_is_refused(budget: int) -> None:
    with pytest.raises(ValueError, match=rf"budget is {budget}, but must lie in 1\.\.6"):
        facility_location(np.zeros((4, 6)), budget)


def test_wrong_shapes_types_and_weights_are_refused() -> None:
    s = np.zeros((4, 6))
    with pytest.raises(ValueError, match=r"shape \(6,\), but must be \[represented, candidate\]"):
        facility_location(s[0], 1)
    with pytest.raises(ValueError, match=r"similarity is empty.*\(0, 6\)"):
        facility_location(s[:0], 1)
    with pytest.raises(ValueError, match="similarity holds complex128"):
        facility_location(s.astype(complex), 1)
    with pytest.raises(ValueError, match="existing has 3 represented rows, but similarity has 4"):
        facility_location_conditional_gain(s, s[:3], 1)
    with pytest.raises(ValueError, match=r"eta is -1, but must be a finite number >= 0"):
        facility_location_mutual_information(s, 1, eta=-1)
    with pytest.raises(ValueError, match=r"nu is nan, but must be a finite number >= 0"):
        facility_location_conditional_gain(s, s, 1, nu=float("nan"))
    with pytest.raises(ValueError, match="floor is inf, but must be finite"):
        facility_location(s, 1, floor=float("inf"))
