"""Exact pairs for what came later: an audit of it, and labels at the density of the first draw."""

from __future__ import annotations

import numpy as np
import pytest

from nncift_core.estimator.label_growth import added_block, added_pairs, touching_pairs
from nncift_core.estimator.labels import audit_unlabelled, pairs_isin

OLD, NEW = np.arange(100, dtype=np.int64), np.arange(100, 120, dtype=np.int64)
COLUMNS = np.arange(1000, 1030, dtype=np.int64)
LABELS = np.repeat(NEW[:4], 30), np.tile(COLUMNS, 4)


def labelled(r: np.ndarray, c: np.ndarray) -> np.ndarray:
    return pairs_isin(r, c, *LABELS)


def pairs(found: tuple[np.ndarray, np.ndarray]) -> set[tuple[int, int]]:
    return set(zip(found[0].tolist(), found[1].tolist(), strict=True))


def audit(n: int, known_columns: np.ndarray = COLUMNS) -> set[tuple[int, int]]:
    rows = np.concatenate([OLD, NEW])
    found = touching_pairs(rows, COLUMNS, OLD, known_columns, labelled, n, 0)
    assert len(pairs(found)) == len(found[0])
    return pairs(found)


def test_the_audit_touches_only_what_is_new_and_no_label() -> None:
    found = audit(60)
    assert len(found) == 60 and {r for r, _ in found} <= set(NEW[4:].tolist())
    assert len(audit(10_000)) == 16 * 30
    both = audit(10_000, COLUMNS[:-2])
    assert both - audit(10_000) == {(r, c) for r in OLD.tolist() for c in COLUMNS[-2:].tolist()}
    assert audit(0) == set()


def test_a_larger_ordinary_audit_holds_it_so_that_nothing_is_bought_twice() -> None:
    rows = np.concatenate([OLD, NEW])
    ordinary = pairs(audit_unlabelled(rows, COLUMNS, *LABELS, 400, 0))
    new = {(r, c) for r, c in ordinary if r >= 100}
    assert 20 < len(new) < 100
    assert audit(len(new)) == new
    assert audit(len(new) + 5) > new


def test_the_order_of_rows_does_not_matter() -> None:
    rows = np.concatenate([OLD, NEW])
    given = OLD, COLUMNS[:-2], labelled, 80, 3
    first = touching_pairs(rows, COLUMNS, *given)
    turned = touching_pairs(rows[::-1].copy(), COLUMNS[::-1].copy(), *given)
    assert [a.tolist() for a in first] == [a.tolist() for a in turned]


def test_a_block_grows_by_the_share_that_it_labelled() -> None:
    nothing = np.empty(0, np.int64)
    rows, columns = added_block((NEW, nothing), (OLD[:20], COLUMNS[:6]), (0.2, 0.2), 1, 0)
    assert len(rows) == 4 and set(rows.tolist()) <= set(NEW.tolist()) and not len(columns)
    more = np.arange(2000, 2010, dtype=np.int64)
    rows, columns = added_block((NEW, more), (OLD[:20], COLUMNS[:6]), (0.2, 0.2), 1, 0)
    assert (len(rows), len(columns)) == (4, 2) and set(columns.tolist()) <= set(more.tolist())


@pytest.mark.parametrize(("minimum", "rows"), [(20, 4), (30, 5), (10_000, 20)])
def test_a_block_grows_by_some_labels_at_least_and_by_no_more_than_there_are(minimum: int, rows: int) -> None:
    nothing = np.empty(0, np.int64)
    found, _ = added_block((NEW, nothing), (OLD[:20], COLUMNS[:6]), (0.05, 0.2), minimum, 0)
    assert len(found) == rows


def test_scattered_labels_grow_at_their_density_among_new_pairs_only() -> None:
    more = np.arange(2000, 2010, dtype=np.int64)
    r, c = added_pairs((NEW, more), (OLD, COLUMNS), 0.1, 20, 0)
    total = 20 * 40 + 100 * 10
    assert len(pairs((r, c))) == len(r) == total // 10
    assert all(row >= 100 or column >= 2000 for row, column in pairs((r, c)))
    assert np.isin(r, NEW).sum() == 80
    few = added_pairs((NEW, more[:0]), (OLD, COLUMNS), 0.001, 20, 0)
    assert len(few[0]) == 20 and set(few[0].tolist()) == set(NEW.tolist()), "each new row gets its share"
    assert len(added_pairs((NEW[:0], more[:0]), (OLD, COLUMNS), 0.1, 20, 0)[0]) == 0
    assert len(added_pairs((NEW[:1], more[:0]), (OLD, COLUMNS[:7]), 0.1, 20, 0)[0]) == 7
