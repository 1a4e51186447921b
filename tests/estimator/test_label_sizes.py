"""Sizes of label designs at one price."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nncift_core.estimator.label_sizes import Costs, label_counts

TOKENS = Costs(row=100, pair=40, unit="tokens")
ROWS = Costs(row=1, column=1, pair=0, unit="rows")


@pytest.mark.parametrize("u", [0.02, 0.05, 0.3])
@pytest.mark.parametrize("shape", [(1400, 280), (50, 700), (100_000, 10_000)])
def test_scattered_pairs_are_as_many_as_the_tokens_of_the_block_buy(shape, u):
    M, N = shape
    block = label_counts("block", M, N, u, TOKENS)
    assert block.cost == block.block_cost == 100 * block.rows + 40 * block.rows * block.columns
    found = label_counts("scattered", M, N, u, TOKENS)
    assert (found.kind, found.unit, found.block_cost) == ("scattered", "tokens", block.cost)
    price = [100 * min(n, M) + 40 * n for n in (found.pairs, found.pairs + 1)]
    assert price[0] == found.cost <= block.cost < price[1]
    assert (found.rows, found.columns) == (min(found.pairs, M), min(found.pairs, N))


def test_where_pairs_share_nothing_a_scattered_design_has_as_many_as_the_block():
    assert label_counts("scattered", 1400, 280, 0.05, Costs()).pairs == 70 * 14
    assert label_counts("all-targets", 1400, 280, 0.1, Costs()).pairs == 14 * 280


def test_all_targets_take_the_rows_that_the_price_pays():
    found = label_counts("all-targets", 1400, 280, 0.1, TOKENS)
    assert (found.kind, found.columns, found.rows) == ("all-targets", 280, found.pairs // 280)
    assert found.cost <= found.block_cost < found.cost + 100 + 40 * 280
    few = label_counts("all-targets", 50, 700, 0.02, TOKENS)
    assert few.rows == 2 and few.cost > few.block_cost, "two rows at least, and the price says so"


@pytest.mark.parametrize(
    ("shape", "u", "expected"),
    [
        # B = 2,000 + 4 >= 2 * 80: all targets, and the rest are rows.
        ((40_000, 80), 0.05, ("all-targets", 1924, 80)),
        # B = 20 + 3 < 2 * 60: a block of two rows to a column.
        ((400, 60), 0.05, ("block", 15, 8)),
        # B = 13 + 64, but there are only 26 rows.
        ((26, 128), 0.5, ("block", 26, 51)),
        # N = B / 2 exactly.
        ((180, 10), 0.1, ("all-targets", 10, 10)),
    ],
)
def test_auto_splits_rows_of_linear_work(shape, u, expected):
    found = label_counts("auto", *shape, u, ROWS)
    assert (found.kind, found.rows, found.columns) == expected
    assert found.cost == found.block_cost


def test_a_ratio_keeps_the_number_of_pairs_or_of_rows_of_work():
    for ratio in (0.25, 4.0):
        found = label_counts("block", 1400, 280, 0.1, TOKENS, ratio)
        assert found.rows / found.columns == pytest.approx(ratio, rel=0.03)
        assert found.pairs == pytest.approx(140 * 28, rel=0.03)
    work = label_counts("auto", 1400, 280, 0.1, ROWS, 5.0)
    assert (work.rows, work.columns) == (140, 28)
    wide = label_counts("block", 100, 10, 0.2, TOKENS, 1000.0)
    assert (wide.rows, wide.columns) == (20, 2), "at least two columns"


@pytest.mark.parametrize("rule", ["auto", "block", "scattered", "all-targets"])
@pytest.mark.parametrize("costs", [Costs(), TOKENS, ROWS])
def test_a_block_that_leaves_no_pair_stays_one_and_no_other_design_takes_all(rule, costs):
    for shape, u in (((30, 20), 1.0), ((2, 2), 0.1), ((7, 2), 0.9)):
        found = label_counts(rule, *shape, u, costs)
        assert (found.kind, found.pairs) == ("block", shape[0] * shape[1])
    found = label_counts(rule, 30, 20, 0.9, replace(costs, unit="any"))
    assert 0 < found.pairs < 600 and found.unit == "any"


@pytest.mark.parametrize("u", [0.0, 1.5])
def test_fractions_outside_0_1_are_refused(u):
    with pytest.raises(ValueError, match=r"fraction must be in \(0, 1\]"):
        label_counts("scattered", 10, 10, u, TOKENS)
