"""Timing a part of a stage: which parts, until when, and what they say of the whole."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Timed:
    """What was timed of a stage: seconds for `amount`, of `given` in all; done: which parts."""

    seconds: float
    amount: float
    given: float
    done: tuple[int, ...]

    @property
    def per(self) -> float:
        """Seconds of a unit of the amount."""
        return self.seconds / self.amount if self.amount else 0.0


def seconds_of_call(call: Callable[[], Any]) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def spread_order(n: int) -> Iterator[int]:
    """0..n-1 in an order of which every beginning lies evenly in them (van der Corput's, base 2)."""
    bits = max(1, (n - 1).bit_length())
    for k in range(1 << bits):
        place = int(format(k, f"0{bits}b")[::-1], 2)
        if place < n:
            yield place


def evenly(n: int, k: int) -> Int64:
    """k of 0..n-1 at equal distances, all for k >= n."""
    if k >= n:
        return np.arange(n)
    return np.unique(((np.arange(k) + 0.5) * n / k).astype(np.int64))


def time_parts(
    amounts: Sequence[float], call: Callable[[int], float | None], budget: float, least: int = 2
) -> Timed:
    """Call `call(part)` for parts spread evenly until `budget` seconds are over, at least `least` of them.

    amounts: of every part; a call may return the seconds that count of it (None: all that it took).
    """
    seconds = amount = 0.0
    done: list[int] = []
    began = time.perf_counter()
    for part in spread_order(len(amounts)):
        if len(done) >= least and time.perf_counter() - began > budget:
            break
        start = time.perf_counter()
        counted = call(part)
        seconds += counted if counted is not None else time.perf_counter() - start
        amount += amounts[part]
        done.append(part)
    return Timed(seconds, amount, float(sum(amounts)), tuple(done))


def mixed_groups(lengths: Float64, size: int) -> list[Int64]:
    """Positions in groups of at most `size`, each with texts of every length: what a stage batches."""
    n = len(lengths)
    count = -(-n // size)
    order = np.argsort(lengths, kind="stable")
    return [order[k::count] for k in range(count)]


def bytes_below(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def slope(small: tuple[float, float], large: tuple[float, float]) -> tuple[float, float]:
    """Seconds per unit, and those of nothing, of two timings (amount, seconds); neither below zero.

    Where the larger one took no longer, all time is put down to the amount.
    """
    (a, s), (b, t) = small, large
    per = (t - s) / (b - a) if b > a else 0.0
    if per <= 0:
        return (t / b if b else 0.0), 0.0
    return per, max(0.0, s - per * a)
