"""Subsets that a selected one is compared with: random rows, random tokens, longest responses.

Random orders come from hash ranks of example ids, so they do not depend on where a row stands: rows
appended to a pool leave the order of the others as it was.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from nncift_core.hashing import hash_rank

Int64 = npt.NDArray[np.int64]

_CHUNK = 256


def random_rows(example_ids: Int64, count: int, seed: int) -> Int64:
    """Indices [count] of the rows of smallest hash rank, smallest first: a uniform draw of distinct rows.

    example_ids: [n], distinct. Raises ValueError unless 0 <= count <= n.
    """
    _check_count(count, len(example_ids))
    return _random_order(example_ids, seed, "evaluation-random-rows")[:count]


def random_tokens(
    example_ids: Int64, tokens_of: Callable[[Int64], Int64], budget_tokens: int, seed: int
) -> Int64:
    """Indices [k >= 1] of random rows whose token total is the nearest to `budget_tokens`.

    Rows are taken in a random order of their own (not that of `random_rows`) until the total reaches
    the budget; the last one stays when that is nearer than stopping before it, so the total is never
    more than one row away. A pool that is too small is taken whole.
    example_ids: [n], distinct; tokens_of: indices [c] -> tokens [c] each row is trained on, asked for
    chunk by chunk, only as far as needed. Raises ValueError for an empty pool or a budget below 1.
    """
    if budget_tokens < 1 or not len(example_ids):
        raise ValueError(f"a budget of {budget_tokens} tokens from {len(example_ids)} rows holds no row")
    order = _random_order(example_ids, seed, "evaluation-random-tokens")
    before = 0
    for start in range(0, len(order), _CHUNK):
        totals = before + np.cumsum(tokens_of(order[start : start + _CHUNK]))
        k = int(np.searchsorted(totals, budget_tokens))
        if k < len(totals):
            under = int(totals[k - 1]) if k else before
            nearer = int(totals[k]) - budget_tokens < budget_tokens - under
            return order[: max(1, start + k + nearer)]
        before = int(totals[-1])
    return order


def longest_rows(response_lengths: Int64, count: int, example_ids: Int64, seed: int) -> Int64:
    """Indices [count] of the rows with the longest responses, longest first, ties by hash rank.

    response_lengths: [n], in characters; example_ids: [n], distinct. Raises ValueError unless
    0 <= count <= n, or for unequal lengths.
    """
    if len(response_lengths) != len(example_ids):
        raise ValueError(f"{len(response_lengths)} lengths but {len(example_ids)} ids")
    _check_count(count, len(example_ids))
    order = _random_order(example_ids, seed, "evaluation-longest-rows")
    longest = np.argsort(-response_lengths[order], kind="stable")
    out: Int64 = order[longest[:count]]
    return out


def _random_order(example_ids: Int64, seed: int, salt: str) -> Int64:
    # The id decides between equal ranks, so that not even a collision lets the position matter.
    order: Int64 = np.lexsort((example_ids, hash_rank(example_ids, seed, salt)))
    return order


def _check_count(count: int, rows: int) -> None:
    if not 0 <= count <= rows:
        raise ValueError(f"cannot take {count} of {rows} rows")
