"""Unit costs and what they say of a job: sampling, slopes, totals, break-even, warnings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pipeline.priced import config, register

from nncift_core.forecast import told as telling
from nncift_core.forecast.break_even import break_even
from nncift_core.forecast.measuring import evenly, mixed_groups, slope, spread_order, time_parts
from nncift_core.forecast.rates import Rate, Rates, Work, missing_rates, seconds_of
from nncift_core.forecast.told import priced, warnings
from nncift_core.store.forecasts import read_calibration, write_calibration
from nncift_core.store.workspace import Workspace

LETTERS = {"row": 100.0, "column": 50.0, "text": 90.0, "response": 40.0}


@pytest.mark.parametrize("n", [1, 2, 5, 8, 33])
def test_every_beginning_of_the_order_lies_evenly(n: int) -> None:
    order = list(spread_order(n))
    assert sorted(order) == list(range(n))
    for k in range(2, n):
        gaps = np.diff(sorted(order[:k]))
        assert gaps.max() <= 2 * n / k + 2


def test_parts_at_equal_distances() -> None:
    assert evenly(10, 3).tolist() == [1, 5, 8]
    assert evenly(3, 10).tolist() == [0, 1, 2]


def test_groups_hold_texts_of_every_length() -> None:
    lengths = np.arange(100, dtype=np.float64)
    groups = mixed_groups(lengths, 30)
    assert sorted(np.concatenate(groups).tolist()) == list(range(100))
    assert max(map(len, groups)) <= 30
    assert max(lengths[g].mean() for g in groups) - min(lengths[g].mean() for g in groups) < 5


def test_a_part_tells_of_the_whole() -> None:
    amounts = [float(k) for k in range(1, 41)]
    timed = time_parts(amounts, lambda part: 0.5 * amounts[part], budget=0.0, least=4)
    assert len(timed.done) == 4
    assert timed.per * timed.given == pytest.approx(0.5 * sum(amounts))


def test_a_slope_and_what_nothing_takes() -> None:
    assert slope((10, 3.0), (30, 7.0)) == pytest.approx((0.2, 1.0))
    # The larger one was faster: no price of nothing can be told.
    assert slope((10, 3.0), (30, 2.7)) == pytest.approx((0.09, 0.0))


def test_seconds_and_bytes_of_a_stage() -> None:
    rate = Rate(per=0.5, once=3, each=2, size=10, flat=7, of=100)
    work = Work(4, 8.0, 3)
    assert rate.time(work) == 3 + 2 * 3 + 0.5 * 8
    assert rate.time(work, slots=2) == 3 + (2 * 3 + 0.5 * 8) / 2
    assert rate.disk(work) == 7 + 300 + 40
    assert rate.time(work.share(0)) == rate.disk(work.share(0)) == 0
    assert work.share(2) == Work(2, 4.0, 2)


def test_worker_processes_start_before_and_after_selection() -> None:
    stages = {name: Rate(per=1.0) for name in ("ingest", "embed", "exact-influence", "fine-tune", "evaluate")}
    rates = Rates("now", stages, start=5, again=7, fixed={"run": 2, "task": 0.5, "compare": 1})
    work = {name: Work(1, 1.0, 1) for name in stages}
    found = seconds_of(rates, work, 1)
    assert found["ingest"] == found["exact-influence"] == found["evaluate"] == 1
    assert (found["embed"], found["fine-tune"]) == (6, 8)
    assert found["orchestration"] == 2 + 5 * 0.5 + 1
    done = {**work, "embed": Work(0, 0.0), "exact-influence": Work(0, 0.0)}
    assert sum(seconds_of(rates, done, 1).values()) == pytest.approx(1 + 8 + 1 + 2 + 3 * 0.5 + 1)


def test_a_stage_without_a_rate_is_named() -> None:
    rates = Rates("now", {"embed": Rate(per=1.0)})
    assert missing_rates(rates, {"embed": Work(1, 1.0), "features": Work(0, 0.0)}) == []
    assert missing_rates(rates, {"embed": Work(1, 1.0), "features": Work(2, 1.0)}) == ["features"]
    assert missing_rates(None, {"embed": Work(1, 1.0)}) == ["embed"]


def test_a_calibration_is_kept_under_its_key(tmp_path: Path) -> None:
    ws = Workspace.create(tmp_path / "ws")
    rates = Rates(
        "now", {"embed": Rate(per=1.5, once=2)}, start=3.5, fixed={"run": 1.0}, machine={"cpu": "x"}
    )
    write_calibration(ws, "a" * 64, rates.record())
    found = read_calibration(ws, "a" * 64)
    assert found is not None
    assert Rates.from_record({k: v for k, v in found.items() if k != "key"}) == rates
    assert read_calibration(ws, "a" * 20 + "b" * 44) is None


def estimating(monkeypatch: pytest.MonkeyPatch, fit: float, pair: float) -> dict[str, Any] | None:
    """Break-even of 400 x 50 where a fit takes `fit` seconds and a character of a pair `pair`."""
    register(monkeypatch)
    c = config("priced", labels="block", label_fraction=0.1)
    stages = {
        "embed": Rate(per=0.0),
        "estimator-features": Rate(per=0.0),
        "exact-influence": Rate(per=pair),
        "train-influence-network": Rate(per=0.0, once=fit),
        "assess-estimator": Rate(per=0.0),
        "estimate-influence": Rate(per=0.0),
    }
    return break_even(c, Rates("now", stages), LETTERS, 400, 50, 1)


def test_estimating_pays_from_the_pool_on_at_which_the_fit_is_earned(monkeypatch: pytest.MonkeyPatch) -> None:
    found = estimating(monkeypatch, fit=30.0, pair=1e-4)
    assert found is not None and found["pays"]
    exact = (400 * 100 + 400 * 50 * 50) * 1e-4
    assert found["exact_seconds"] == pytest.approx(exact, rel=0.01)
    again = estimating(monkeypatch, fit=2 * exact, pair=1e-4)
    assert again is not None and not again["pays"] and again["label_fraction"] is None
    assert again["pool"] > 400 > found["pool"]
    assert 0.1 < found["label_fraction"] < 1


def test_no_break_even_where_everything_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch)
    c = config("priced", label_fraction=1)
    assert break_even(c, Rates("now", {}), LETTERS, 400, 50, 1) is None


def forecast(**about: Any) -> dict[str, Any]:
    plain = {"disk_mb": 1.0, "disk_left_mb": 1.0, "peak_mb": 1.0, "break_even": None, "seconds_left": 7200.0}
    return {**plain, "warnings": [], **about}


def test_warnings_before_money_is_spent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ws = Workspace(tmp_path / "ws")
    assert warnings(forecast(), ws) == []
    monkeypatch.setattr(telling, "_memory_mb", lambda: 1000.0)
    told = warnings(
        forecast(
            disk_left_mb=1e12,
            peak_mb=950.0,
            break_even={"pays": False, "exact_seconds": 5.0, "estimated_seconds": 9.0},
        ),
        ws,
    )
    assert [("MB are free" in t, "of memory" in t, "label_fraction = 1" in t) for t in told] == [
        (True, False, False),
        (False, True, False),
        (False, False, True),
    ]


def test_a_price_and_a_limit_in_hours() -> None:
    assert priced(forecast(), 3.0, None)["cost"] == 6.0
    assert priced(forecast(), None, 3.0)["warnings"] == []
    found = priced(forecast(), None, 1.0)
    assert found["cost"] is None and "2.00 h" in found["warnings"][0]
    assert json.dumps(found)
