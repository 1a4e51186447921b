"""Which rows an optimiser step takes, in which batches, and at which learning rate."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nncift_core.config import FinetuneConfig

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Step:
    """An optimiser step: rows in `batches`, one forward pass each; ends_pass: it is a pass's last."""

    batches: tuple[tuple[int, ...], ...]
    ends_pass: bool

    @property
    def rows(self) -> list[int]:
        """Its rows, batch by batch."""
        return [row for batch in self.batches for row in batch]


def plan_steps(lengths: Int64, own: FinetuneConfig, seed: int, parts: int = 1) -> list[Step]:
    """Every step of a training on n rows of `lengths` [n] tokens.

    `own.epochs` passes over the rows, or as many as it takes to see `own.tokens` tokens; a pass's last step
    may be short. A step's batches divide evenly among `parts` processes where there are enough rows.
    """
    steps = []
    for order in passes(lengths, own, seed):
        for start in range(0, len(order), own.batch_size):
            rows = order[start : start + own.batch_size]
            # Sorting within a step leaves its sum as it is, and batches of like lengths waste no padding.
            rows = rows[np.argsort(-lengths[rows], kind="stable")]
            cut = _packed if own.packing else _padded
            last = start + own.batch_size >= len(order)
            steps.append(Step(tuple(cut(lengths, rows, own, parts)), last))
    return steps


def passes(lengths: Int64, own: FinetuneConfig, seed: int) -> Iterator[Int64]:
    """The rows of each pass, shuffled anew by `seed`.

    Under a budget of tokens the last pass ends with the row that reaches it, so that less than a row's
    tokens are seen beyond it.
    """
    left = own.tokens
    number = 0
    while number < own.epochs if left is None else left > 0:
        order = np.random.default_rng([seed, number]).permutation(len(lengths))
        if left is not None:
            seen = np.cumsum(lengths[order])
            order = order[: int(np.searchsorted(seen, left)) + 1]
            left -= int(seen[len(order) - 1])
        yield order
        number += 1


def micro_batch(longest: int, batch_size: int, batch_tokens: int, parts: int = 1) -> int:
    """Rows of a forward pass: the largest divisor of `batch_size` that fits `batch_tokens`, at least 1.

    With several `parts`, a step of `batch_size` rows has a batch for each of them, if it has the rows.
    """
    divisors = [m for m in range(1, batch_size + 1) if batch_size % m == 0]
    fits = (m for m in divisors if m * longest <= batch_tokens and batch_size // m >= min(parts, batch_size))
    return max(fits, default=1)


def learning_rate(step: int, steps: int, own: FinetuneConfig) -> float:
    """The rate of step 0, 1, ...: linear from 0 over the share `own.warmup`, then linear down towards 0.

    At least one step is no warmup step, so a short training has a rate.
    """
    rising = min(int(steps * own.warmup), steps - 1)
    share = step / rising if step < rising else (steps - step) / (steps - rising)
    return own.learning_rate * share


def _padded(lengths: Int64, rows: Int64, own: FinetuneConfig, parts: int) -> list[tuple[int, ...]]:
    size = micro_batch(int(lengths.max()), own.batch_size, own.batch_tokens, parts)
    return [tuple(rows[k : k + size].tolist()) for k in range(0, len(rows), size)]


def _packed(lengths: Int64, rows: Int64, own: FinetuneConfig, parts: int) -> list[tuple[int, ...]]:
    """Rows, longest first, each into the first batch that has room for it."""
    share = -(-int(lengths[rows].sum()) // parts)
    room = min(own.batch_tokens, share) if parts > 1 else own.batch_tokens
    batches: list[list[int]] = []
    filled: list[int] = []
    for row in rows.tolist():
        length = int(lengths[row])
        place = next((k for k, tokens in enumerate(filled) if tokens + length <= room), None)
        if place is None:
            batches.append([row])
            filled.append(length)
        else:
            batches[place].append(row)
            filled[place] += length
    return [tuple(batch) for batch in batches]
