"""How large label designs are that cost the same: block, scattered pairs, or few rows against every target.

The budget is the price of the block of u of the rows x u of the columns (design decision 7), in tokens where
pairs cost forward passes, for a scattered pair shares no prefix; in rows where the work is linear.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Kind = Literal["block", "scattered", "all-targets"]
Rule = Literal["auto", "block", "scattered", "all-targets"]

# Rows per column of a block where rows and columns cost alike and no ratio is given.
ROWS_PER_COLUMN = 2.0


@dataclass(frozen=True)
class Costs:
    """Price of exact values in `unit`s: of a row and of a column that any pair touches, and of a pair.

    unit: "tokens", "rows" (linear work per row and per target row) or "pairs".
    """

    row: float = 0.0
    column: float = 0.0
    pair: float = 1.0
    unit: str = "pairs"

    def of(self, rows: int, columns: int, pairs: int) -> float:
        """Price of `pairs` that touch so many rows and columns."""
        return self.row * rows + self.column * columns + self.pair * pairs


@dataclass(frozen=True)
class LabelCounts:
    """Size of a label design: rows and columns that it touches, pairs, and their price.

    block_cost: price of the block of u of the rows x u of the columns, which is every design's budget.
    """

    kind: Kind
    rows: int
    columns: int
    pairs: int
    cost: float
    block_cost: float
    unit: str


def label_counts(
    rule: Rule,
    n_rows: int,
    n_columns: int,
    fraction: float,
    costs: Costs,
    ratio: float | None = None,
) -> LabelCounts:
    """How large a design by `rule` is at the price of the block of u = `fraction` (design decision 7).

    "block": that block, or with `ratio` R/C rows per column at the same R*C. "scattered": as many pairs as
    the price buys when they touch as many rows and columns as they can. "all-targets": as many rows as
    it buys against every column, two at least. "auto", for work per row and per column: with a price
    B = R + C, all targets where N <= B/2, else a block of R + C = B with `ratio` (default 2) rows a column.
    A block that leaves no pair is a block under every rule. Raises ValueError as `corner`.
    """
    square = corner(n_rows, fraction), corner(n_columns, fraction)
    block_cost = costs.of(*square, square[0] * square[1])
    kind: Kind = "block"
    rows, columns = square
    if square == (n_rows, n_columns):
        pass
    elif rule == "scattered":
        pairs = _affordable_pairs(n_rows, n_columns, costs, block_cost)
        rows, columns = min(pairs, n_rows), min(pairs, n_columns)
        cost = costs.of(rows, columns, pairs)
        return LabelCounts("scattered", rows, columns, pairs, cost, block_cost, costs.unit)
    elif rule == "all-targets" or (rule == "auto" and 2 * n_columns <= sum(square)):
        kind, columns = "all-targets", n_columns
        rows = _affordable_rows(n_rows, n_columns, costs, block_cost)
    elif rule == "auto":
        rows, columns = _split_sum(sum(square), n_rows, n_columns, ratio or ROWS_PER_COLUMN)
    elif ratio is not None:
        rows, columns = _split_product(square[0] * square[1], n_rows, n_columns, ratio)
    cost = costs.of(rows, columns, rows * columns)
    return LabelCounts(kind, rows, columns, rows * columns, cost, block_cost, costs.unit)


def corner(n: int, fraction: float) -> int:
    """ceil(u*n) of n rows or columns, at least min(2, n); ValueError when u = `fraction` is not in (0, 1]."""
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must be in (0, 1], got {fraction}")
    # 0.07 * 100 is 7.000000000000001: the small step back keeps the ceiling at 7.
    return max(math.ceil(fraction * n - 1e-9), min(2, n))


def _affordable_pairs(n_rows: int, n_columns: int, costs: Costs, budget: float) -> int:
    """The most scattered pairs, one at least, whose price is within `budget`."""
    low, high = 1, n_rows * n_columns
    while low < high:
        n = (low + high + 1) // 2
        if costs.of(min(n, n_rows), min(n, n_columns), n) <= budget * (1 + 1e-9):
            low = n
        else:
            high = n - 1
    return low


def _affordable_rows(n_rows: int, n_columns: int, costs: Costs, budget: float) -> int:
    """The most rows against every column within `budget`, at least min(2, M)."""
    rows = (budget * (1 + 1e-9) - costs.column * n_columns) / (costs.row + costs.pair * n_columns)
    return min(n_rows, max(int(rows), min(2, n_rows)))


def _split_sum(total: int, n_rows: int, n_columns: int, ratio: float) -> tuple[int, int]:
    """R and C with R + C = `total` and R/C near `ratio`, within M and N."""
    rows = min(n_rows, total - min(2, n_columns), max(min(2, n_rows), round(total * ratio / (1 + ratio))))
    columns = min(n_columns, total - rows)
    return min(n_rows, total - columns), columns


def _split_product(pairs: int, n_rows: int, n_columns: int, ratio: float) -> tuple[int, int]:
    """R and C with R*C near `pairs` and R/C near `ratio`, within M and N and at least two of each."""
    rows = min(n_rows, max(min(2, n_rows), round(math.sqrt(pairs * ratio))))
    columns = min(n_columns, max(min(2, n_columns), round(pairs / rows)))
    return min(n_rows, max(min(2, n_rows), round(pairs / columns))), columns
