"""Label block, scattered labels, audit pairs and quadrants."""

from __future__ import annotations

import numpy as np
import pytest

from nncift_core.estimator import BlockDesign, audit_pairs, block_design, quadrant
from nncift_core.estimator.labels import (
    COST_SAMPLE,
    STRATUM_LIMIT,
    audit_unlabelled,
    block_of,
    cost_sample,
    pairs_isin,
    positions,
    scattered_pairs,
)
from nncift_core.hashing import hash_rank, int63

ROWS = np.array([int63(f"row {i}") for i in range(400)], dtype=np.int64)
COLUMNS = np.array([int63(f"column {j}") for j in range(120)], dtype=np.int64)


def counts(rows, columns, design):
    names = quadrant(np.isin(rows, design.rows), np.isin(columns, design.columns))
    return {q: int((names == q).sum()) for q in ("Q1", "Q2", "Q3", "Q4")}


def test_block_holds_the_smallest_hash_ranks_in_order():
    design = block_design(ROWS, COLUMNS, 0.05, seed=3)
    assert design.rows.dtype == design.columns.dtype == np.int64
    expected = ROWS[np.argsort(hash_rank(ROWS, 3, "label-row"))][:20]
    assert design.rows.tolist() == expected.tolist()
    assert design.columns.tolist() == COLUMNS[np.argsort(hash_rank(COLUMNS, 3, "label-column"))][:6].tolist()


def test_block_ignores_input_order_and_duplicates_but_not_the_seed():
    design = block_design(ROWS, COLUMNS, 0.1, seed=0)
    shuffled = np.random.default_rng(0).permutation(np.concatenate([ROWS, ROWS[:50]]))
    again = block_design(shuffled, COLUMNS[::-1], 0.1, seed=0)
    assert again.rows.tolist() == design.rows.tolist()
    assert again.columns.tolist() == design.columns.tolist()
    assert set(block_design(ROWS, COLUMNS, 0.1, seed=1).rows) != set(design.rows)


@pytest.mark.parametrize(
    ("rows", "fraction", "expected"),
    [(100, 0.07, 7), (100, 0.05, 5), (101, 0.05, 6), (10, 0.01, 2), (1, 0.01, 1), (0, 0.5, 0), (7, 1.0, 7)],
)
def test_block_size_is_the_ceiling_with_at_least_two(rows, fraction, expected):
    assert len(block_design(ROWS[:rows], COLUMNS, fraction, seed=0).rows) == expected


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.01])
def test_block_refuses_fractions_outside_0_1(fraction):
    with pytest.raises(ValueError, match=r"fraction must be in \(0, 1\]"):
        block_design(ROWS, COLUMNS, fraction, seed=0)


def test_quadrant_names():
    got = quadrant(np.array([True, True, False, False]), np.array([True, False, True, False]))
    assert got.tolist() == ["Q1", "Q2", "Q3", "Q4"]


def test_audit_is_stratified_distinct_and_outside_the_block():
    design = block_design(ROWS, COLUMNS, 0.05, seed=0)
    rows, columns = audit_pairs(ROWS, COLUMNS, design, 300, seed=0)
    assert counts(rows, columns, design) == {"Q1": 0, "Q2": 60, "Q3": 60, "Q4": 180}
    assert len(set(zip(rows.tolist(), columns.tolist(), strict=True))) == 300
    # Scattered: Q4 touches nearly as many rows as it has pairs.
    assert len(set(rows[120:].tolist())) > 120


def test_audit_ignores_input_order():
    design = block_design(ROWS, COLUMNS, 0.05, seed=0)
    rows, columns = audit_pairs(ROWS, COLUMNS, design, 100, seed=0)
    rows2, columns2 = audit_pairs(ROWS[::-1], np.roll(COLUMNS, 7), design, 100, seed=0)
    assert rows.tolist() == rows2.tolist() and columns.tolist() == columns2.tolist()


@pytest.mark.parametrize("redesign", [False, True])
def test_audit_is_stable_under_appends(redesign):
    old_rows = ROWS[:360]
    design = block_design(old_rows, COLUMNS, 0.05, seed=0)
    old = set(zip(*(x.tolist() for x in audit_pairs(old_rows, COLUMNS, design, 300, seed=0)), strict=True))
    if redesign:
        design = block_design(ROWS, COLUMNS, 0.05, seed=0)
    new = set(zip(*(x.tolist() for x in audit_pairs(ROWS, COLUMNS, design, 300, seed=0)), strict=True))
    # A tenth of the rows is new: about a tenth of the pairs may go, and new rows are audited too.
    assert len(old & new) >= 240
    assert any(r in set(ROWS[360:].tolist()) for r, _ in new)


def test_audit_stable_when_strata_are_cut_to_their_limit():
    ids = np.arange(3300, dtype=np.int64) * 7919
    design = BlockDesign(ids[:100], COLUMNS[:6])
    assert len(ids) - 100 > STRATUM_LIMIT
    old = audit_pairs(ids[:3000], COLUMNS, design, 200, seed=0)
    new = audit_pairs(ids, COLUMNS, design, 200, seed=0)
    old_pairs, new_pairs = (set(zip(*(x.tolist() for x in p), strict=True)) for p in (old, new))
    assert len(old_pairs & new_pairs) >= 160
    assert counts(*new, design) == {"Q1": 0, "Q2": 40, "Q3": 40, "Q4": 120}


def test_audit_gives_the_share_of_small_strata_to_the_others():
    rows, columns = ROWS[:10], COLUMNS[:4]
    design = BlockDesign(rows[:2], columns[:3])
    # Q2 holds 2 x 1, Q3 8 x 3 and Q4 8 x 1 pairs.
    some = counts(*audit_pairs(rows, columns, design, 20, seed=0), design)
    assert some == {"Q1": 0, "Q2": 2, "Q3": 10, "Q4": 8}
    every = counts(*audit_pairs(rows, columns, design, 999, seed=0), design)
    assert every == {"Q1": 0, "Q2": 2, "Q3": 24, "Q4": 8}


def test_audit_without_pairs_to_give():
    design = block_design(ROWS, COLUMNS, 1.0, seed=0)
    assert [len(x) for x in audit_pairs(ROWS, COLUMNS, design, 300, seed=0)] == [0, 0]
    partial = block_design(ROWS, COLUMNS, 0.05, seed=0)
    assert [len(x) for x in audit_pairs(ROWS, COLUMNS, partial, 0, seed=0)] == [0, 0]
    with pytest.raises(ValueError, match="n must not be negative, got -1"):
        audit_pairs(ROWS, COLUMNS, partial, -1, seed=0)


def test_audit_takes_the_smallest_pair_hashes_across_passes():
    design = BlockDesign(ROWS[:0], COLUMNS[:0])
    rows, columns = audit_pairs(ROWS, COLUMNS, design, 25, seed=5)
    r, c = np.repeat(ROWS, len(COLUMNS)), np.tile(COLUMNS, len(ROWS))
    nearest = np.argsort(hash_rank(r, 5, "audit-pair", c))[:25]
    assert rows.tolist() == r[nearest].tolist() and columns.tolist() == c[nearest].tolist()


def pair_set(rows, columns):
    return set(zip(rows.tolist(), columns.tolist(), strict=True))


@pytest.mark.parametrize(
    ("shape", "n"),
    [((400, 120), 0), ((400, 120), 90), ((400, 120), 1000), ((400, 100), 39_000), ((7, 5), 35), ((3, 2), 4),
     ((60, 1), 20), ((1, 60), 20), ((1, 1), 1)],
)  # fmt: skip
def test_scattered_pairs_are_distinct_and_share_rows_and_columns_evenly(shape, n):
    M, N = shape
    rows, columns = scattered_pairs(ROWS[:M], COLUMNS[:N], n, seed=0)
    assert rows.dtype == columns.dtype == np.int64
    assert len(pair_set(rows, columns)) == len(rows) == n
    for ids, found in ((ROWS[:M], rows), (COLUMNS[:N], columns)):
        assert np.isin(found, ids).all()
        degrees = np.array([np.count_nonzero(found == i) for i in ids])
        assert set(degrees) <= {n // len(ids), -(-n // len(ids))}


def test_scattered_pairs_ignore_input_order_and_duplicates_but_not_the_seed():
    drawn = pair_set(*scattered_pairs(ROWS, COLUMNS, 700, seed=0))
    shuffled = np.random.default_rng(1).permutation(np.concatenate([ROWS, ROWS[:30]]))
    assert pair_set(*scattered_pairs(shuffled, COLUMNS[::-1], 700, seed=0)) == drawn
    assert len(pair_set(*scattered_pairs(ROWS, COLUMNS, 700, seed=1)) & drawn) < 70


def test_scattered_pairs_are_as_independent_as_random_ones():
    # Two rows of degree 6 over 120 columns share 0.3 columns on average; rows that start on the same
    # column (400 = 3 * 120 + 40) would share all six if the starting order showed through.
    rows, columns = scattered_pairs(ROWS, COLUMNS, 2400, seed=0)
    taken = np.zeros((400, 120))
    taken[positions(ROWS, rows), positions(COLUMNS, columns)] = 1
    shared = (taken @ taken.T)[np.triu_indices(400, 1)]
    assert shared.mean() == pytest.approx(0.29, abs=0.02)
    assert (shared >= 4).mean() < 1e-3


def test_scattered_pairs_touch_the_rows_of_smallest_hash_rank_where_there_are_too_few():
    rows, _ = scattered_pairs(ROWS, COLUMNS, 50, seed=2)
    assert set(rows.tolist()) == set(block_of(ROWS, COLUMNS, 50, 1, 2).rows.tolist())


@pytest.mark.parametrize("n", [-1, 4001])
def test_scattered_pairs_refuse_more_pairs_than_there_are(n):
    with pytest.raises(ValueError, match="there are 40 x 100 pairs"):
        scattered_pairs(ROWS[:40], COLUMNS[:100], n, seed=0)


def test_audit_of_scattered_labels_is_random_among_the_others():
    labels = scattered_pairs(ROWS, COLUMNS, 2000, seed=0)
    audit = audit_unlabelled(ROWS, COLUMNS, *labels, 300, seed=0)
    again = audit_unlabelled(ROWS[::-1], np.roll(COLUMNS, 5), labels[0][::-1], labels[1][::-1], 300, seed=0)
    assert len(pair_set(*audit)) == 300 and not pair_set(*audit) & pair_set(*labels)
    assert [a.tolist() for a in audit] == [a.tolist() for a in again]
    r, c = np.repeat(ROWS, len(COLUMNS)), np.tile(COLUMNS, len(ROWS))
    unlabelled = ~pairs_isin(r, c, *labels)
    r, c = r[unlabelled], c[unlabelled]
    nearest = np.argsort(hash_rank(r, 0, "audit-pair", c))[:300]
    assert audit[0].tolist() == r[nearest].tolist() and audit[1].tolist() == c[nearest].tolist()


def test_audit_of_scattered_labels_takes_no_more_than_is_left():
    labels = scattered_pairs(ROWS[:6], COLUMNS[:5], 26, seed=0)
    audit = audit_unlabelled(ROWS[:6], COLUMNS[:5], *labels, 300, seed=0)
    everything = pair_set(np.repeat(ROWS[:6], 5), np.tile(COLUMNS[:5], 6))
    assert pair_set(*audit) == everything - pair_set(*labels)
    with pytest.raises(ValueError, match="n must not be negative, got -1"):
        audit_unlabelled(ROWS, COLUMNS, *labels, -1, seed=0)


def test_positions_and_membership_of_pairs():
    ids = np.array([50, -3, 20])
    assert positions(ids, np.array([20, 7, 50, 99, -3])).tolist() == [2, -1, 0, -1, 1]
    assert positions(ids[:0], ids).tolist() == [-1, -1, -1]
    of = np.array([1, 1, 2]), np.array([10, 20, 20])
    found = pairs_isin(np.array([1, 2, 2, 3, 1]), np.array([20, 20, 10, 20, 30]), *of)
    assert found.tolist() == [True, True, False, False, False]
    assert pairs_isin(ids, ids, ids[:0], ids[:0]).tolist() == [False] * 3


def test_costs_are_sampled_by_hash_rank():
    sample = cost_sample(np.concatenate([ROWS, ROWS]), seed=4)
    assert len(set(sample.tolist())) == len(sample) == COST_SAMPLE
    assert cost_sample(ROWS[::-1], seed=4).tolist() == sample.tolist()
    assert sorted(cost_sample(COLUMNS, seed=4).tolist()) == sorted(COLUMNS.tolist())
