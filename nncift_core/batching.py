"""Batches by token budget, longest first, with the budget halved where memory does not hold a batch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from nncift_core.errors import RunError

Int64 = npt.NDArray[np.int64]

# How an allocation that failed reads where there is no exception class for it.
_OUT_OF_MEMORY = (
    "defaultcpuallocator: can't allocate memory",
    "defaultcpuallocator: not enough memory",
    "out of memory",
    "cublas_status_alloc_failed",
)

_log = logging.getLogger(__name__)


class TokenBudget:
    """Most tokens of a forward pass; halved for good when memory does not hold them.

    tokens: the present limit, padding included; slack: most padding in a batch, in tokens (0: any
    amount), see `slack_of`; field: the setting to name in messages; device: likewise, where known;
    single: every batch is one sequence, for models such as `forward.one_at_a_time` finds.
    """

    def __init__(
        self,
        tokens: int,
        slack: int = 0,
        field: str = "language_model.batch_tokens",
        device: str = "",
        single: bool = False,
    ) -> None:
        self.tokens, self.slack, self.field, self.device = tokens, slack, field, device
        self.single = single

    def run(self, lengths: Int64, work: Callable[[Int64], None]) -> None:
        """Call work(indices) for batches of `lengths` [n], in tokens, longest first.

        When memory runs out in `work`, the limit becomes half of what that batch held and stays so, and the
        batch is cut anew: `work` must write its results last, so that a failed call leaves nothing behind.
        Raises RunError for a single sequence that memory does not hold.
        """
        self.run_blocks(1, lengths, lambda _, batch: work(batch))

    def run_blocks(self, height: int, lengths: Int64, work: Callable[[slice, Int64], None]) -> None:
        """Call work(rows, columns) for blocks of a grid, as `run` for batches.

        The grid has `height` >= 1 rows; every cell of column k is lengths[k] tokens long. A block is as high
        as the grid while a column fits into the limit, else a piece of one column; `single`: one cell.
        """
        order = np.argsort(-lengths, kind="stable")
        ordered = lengths[order]
        start = top = 0
        while start < len(order):
            longest = int(ordered[start])
            if top == 0 and height * longest <= self.tokens and not self.single:
                rows = slice(0, height)
                size = _batch_size(height * ordered[start:], self.tokens, self.slack)
            else:
                high = 1 if self.single else max(1, self.tokens // max(1, longest))
                rows = slice(top, min(height, top + high))
                size = 1
            if not _fits(work, rows, order[start : start + size]):
                self._halve(longest, size * (rows.stop - rows.start))
                continue
            top = rows.stop % height
            start += 0 if top else size

    def _halve(self, longest: int, size: int) -> None:
        where = f" of {self.device}" if self.device else ""
        if size == 1:
            raise RunError(
                f"one sequence of {longest} tokens does not fit into the memory{where}: leave out such long "
                "rows, use a smaller model or dtype, or free memory that other programs hold"
            )
        self.tokens = max(1, longest * size // 2)
        _log.warning(
            "memory%s does not hold %d tokens at once: going on with %d (%s)",
            where,
            longest * size,
            self.tokens,
            self.field,
        )


def slack_of(device: str) -> int:
    """Tokens that cost about what one more forward pass costs on `device`: the padding a batch may hold.

    Measured on the builtin model (CPU: 4 ms a pass, 0.05 ms a token); larger models take longer for both.
    """
    return 4096 if device.startswith("cuda") else 96


def plan_batches(lengths: Int64, budget: int, slack: int = 0) -> Iterator[Int64]:
    """Indices of `lengths` [n] in batches, longest first: longest length x size <= budget.

    A sequence longer than the budget is a batch of its own; slack: see `TokenBudget`.
    """
    order = np.argsort(-lengths, kind="stable")
    ordered = lengths[order]
    start = 0
    while start < len(order):
        size = _batch_size(ordered[start:], budget, slack)
        yield order[start : start + size]
        start += size


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that an allocation failed, on the CPU or on a GPU."""
    import torch

    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(sign in text for sign in _OUT_OF_MEMORY)


def _batch_size(ordered: Int64, tokens: int, slack: int) -> int:
    """How many of the first of `ordered`, lengths in falling order, go into one batch; at least 1."""
    longest = int(ordered[0])
    most = max(1, tokens // max(1, longest))
    if not slack:
        return min(most, len(ordered))
    padding = np.cumsum(longest - ordered[:most])
    return max(1, int(np.searchsorted(padding, slack, side="right")))


def _fits(work: Callable[[slice, Int64], None], rows: slice, columns: Int64) -> bool:
    """Do `work`; False when memory ran out, with what it held given back."""
    try:
        work(rows, columns)
        return True
    except (RuntimeError, MemoryError) as e:
        if not is_out_of_memory(e):
            raise
    # Outside of the except block: there the traceback still holds the tensors of the failed batch.
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return False
