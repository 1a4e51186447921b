"""What every selection rule returns, and the checks that all rules share."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Floating = npt.NDArray[np.floating[Any]]
Mode = Literal["exact", "sparse", "stochastic", "partitioned"]


@dataclass(frozen=True, eq=False)
class Selection:
    """Candidates picked by a rule, best first.

    order: int64 [budget], candidate indices, all distinct.
    gains: float64 [budget], what each pick added to the objective (top-k: its score).
    ties: number of steps whose best gain was shared, exactly, by another candidate not yet picked.
    positive: number of picks with gain > 0; the picks after them added nothing.
    objective: what the rule maximises, for the chosen set: f(A), over all represented items and from the
    whole kernel in every mode (top-k: the sum of the scores).
    mode: "exact" for the greedy picks themselves; "sparse", "stochastic" or "partitioned" for
    approximations (`at_scale.py`), whose gains are those of their own order, replayed on the whole kernel.
    gap: for an approximation, 1 - f(its picks) / f(exact greedy's picks) on a subsample where exact greedy
    is feasible (negative where it found the better set); None where it was not measured.
    """

    order: Int64
    gains: Float64
    ties: int
    positive: int
    objective: float = math.nan
    mode: Mode = "exact"
    gap: float | None = None

    def __len__(self) -> int:
        return len(self.order)


def check_budget(budget: int, candidates: int) -> int:
    """`budget` as an int; ValueError unless 1 <= budget <= candidates."""
    budget = operator.index(budget)
    if not 1 <= budget <= candidates:
        raise ValueError(f"budget is {budget}, but must lie in 1..{candidates} (the number of candidates)")
    return budget


def as_floating(values: npt.ArrayLike, name: str, axes: tuple[str, ...]) -> Floating:
    """`values` as a plain array of float32 or float64 in native byte order, without a copy when it is one.

    float16 becomes float32; integers and booleans become float64; everything else is refused.
    axes: what the dimensions stand for, for the messages. A np.memmap becomes a view of the same
    file. Raises ValueError for a wrong number of dimensions, an empty dimension or a wrong type.
    """
    array = np.asarray(values)
    if array.ndim != len(axes):
        raise ValueError(f"{name} has shape {array.shape}, but must be [{', '.join(axes)}]")
    if array.size == 0:
        raise ValueError(f"{name} is empty: its shape [{', '.join(axes)}] is {array.shape}")
    if array.dtype.kind not in "fiub" or array.dtype.itemsize > 8:
        raise ValueError(f"{name} holds {array.dtype}, but must hold float32 or float64")
    wide = array.dtype.kind != "f" or array.dtype.itemsize == 8
    return array.astype(np.float64 if wide else np.float32, copy=False)


def finite_range(values: Floating, name: str, axes: tuple[str, ...]) -> tuple[float, float]:
    """Smallest and largest of `values`; ValueError naming the first value that is not finite.

    Two streaming passes without a temporary array, so that a memory-mapped matrix stays on disk.
    """
    low, high = float(values.min()), float(values.max())
    if np.isfinite(low) and np.isfinite(high):
        return low, high
    for first, part in enumerate(values):
        wrong = np.argwhere(~np.isfinite(part))
        if len(wrong):
            index = (first, *(int(i) for i in wrong[0]))
            where = ", ".join(f"{axis} {i}" for axis, i in zip(axes, index, strict=True))
            raise ValueError(f"{name}[{where}] is {values[index]}, but every value must be finite")
    raise AssertionError("min or max is not finite, yet every value is")
