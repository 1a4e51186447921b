"""Random projections whose matrix is never stored: every sign comes from a hash of where it stands.

Rademacher: out[n, k] = sum_d g[n, d] s(d, k), s(d, k) = +-1. The signs of coordinates 64 c .. 64 c + 63 in
column k are the bits (1: +1) of the word h(seed, c, k), a SplitMix64 stream (Steele et al. 2014) in k whose
start is a SplitMix64 step away from seed and c. So the signs are those of their place, whatever the device,
the batch or the block size.

Count-sketch (Charikar et al. 2002): out[n, b(d)] += s(d) g[n, d]; bucket b(d) and sign s(d) are bits of the
word h(seed, d, 0).

Neither is scaled: E[<out_i, out_j>] is K <g_i, g_j> for the first and <g_i, g_j> for the second; features are
normalised afterwards, so no scale is left.

On the CPU a product with +-1 needs no multiplication: the 256 signed sums of eight coordinates are made
once, and each column looks its own up by one byte of its words. This beats a dense product about four times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import Any, Literal

import numba
import numpy as np
import numpy.typing as npt
import torch

Float32 = npt.NDArray[np.float32]
UInt64 = npt.NDArray[np.uint64]
Kind = Literal["rademacher", "count-sketch", "none"]

_WORD = 64
# Signed sums of the eight coordinates whose signs a byte holds.
_TABLE = 256
# Coordinates whose signs are held at once, in words: 64 words x 8,192 columns are 4 MB.
_WORDS_AT_ONCE = 64
# Examples whose sums stand side by side; the tables of 64 (512 KB) still fit a core's second cache.
_LANES = (16, 64)

_GOLDEN, _M1, _M2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_U64 = np.uint64


class Projection:
    """A fixed linear map from D to K numbers.

    dimension: D; to: wanted K; kind: see the module; "none" and D <= K keep vectors as they are.
    width: numbers that come out. Raises ValueError for sizes below 1 or beyond 2**31.
    """

    def __init__(self, dimension: int, to: int, kind: Kind, seed: int) -> None:
        if not 1 <= dimension or not 1 <= to < 1 << 31:
            raise ValueError(f"cannot project {dimension} numbers to {to}")
        self.dimension, self.kind, self.seed = dimension, kind, seed & ((1 << 64) - 1)
        self.keeps = kind == "none" or dimension <= to
        self.width = dimension if self.keeps else to

    def apply(self, gradients: torch.Tensor) -> torch.Tensor:
        """gradients [n, D] float32 -> [n, width] float32 on the same device; many rows at once pay.

        A row's result does not depend on the other rows (bit-equal on the CPU, to rounding elsewhere). What
        keeps vectors returns `gradients` itself. Raises ValueError for another shape or dtype.
        """
        if gradients.dim() != 2 or gradients.shape[1] != self.dimension or gradients.dtype != torch.float32:
            shape = f"{gradients.dtype} {list(gradients.shape)}"
            raise ValueError(f"wanted float32 [n, {self.dimension}], not {shape}")
        if self.keeps:
            return gradients
        if gradients.device.type != "cpu":
            return self.apply_dense(gradients)
        rows = gradients.detach().numpy()
        if self.kind == "count-sketch":
            out = np.zeros((len(rows), self.width), np.float32)
            if len(rows):
                _sketch(_U64(self.seed), rows, out)
            return torch.from_numpy(out)
        return torch.from_numpy(_by_tables(self.seed, rows, self.width))

    def apply_dense(self, gradients: torch.Tensor) -> torch.Tensor:
        """`apply` by torch on any device: signs of a block of coordinates, then one matrix product."""
        out = torch.zeros((len(gradients), self.width), device=gradients.device)
        device, step = gradients.device, _WORDS_AT_ONCE * _WORD
        with _full_float32(device):
            for start in range(0, self.dimension, step):
                block = gradients[:, start : start + step]
                stop = start + block.shape[1]
                if self.kind == "count-sketch":
                    bucket, sign = _buckets(self.seed, start, stop, self.width, device)
                    out.index_add_(1, bucket, block * sign)
                else:
                    words = sign_words(self.seed, start // _WORD, -(-stop // _WORD), self.width, device)
                    out += block @ unpacked(words)[: stop - start]
        return out


def sign_words(seed: int, first: int, last: int, columns: int, device: torch.device) -> torch.Tensor:
    """h(seed, c, k) for first <= c < last and k < columns, [last - first, columns], int64 on `device`."""
    c = torch.arange(first, last, device=device, dtype=torch.int64)
    k = torch.arange(1, columns + 1, device=device, dtype=torch.int64)
    start = mixed(c * signed(_GOLDEN) + signed(seed))
    return mixed(start[:, None] + k * signed(_GOLDEN))


def unpacked(words: torch.Tensor) -> torch.Tensor:
    """+-1 in float32 [64 C, K] from words [C, K]: bit j of words[c, k] stands at [64 c + j, k]."""
    shifts = torch.arange(_WORD, device=words.device)
    bits = (words[:, None, :] >> shifts[:, None]) & 1
    return (bits.float() * 2 - 1).view(-1, words.shape[1])


def _buckets(
    seed: int, start: int, stop: int, columns: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Bucket (int64) and sign (float32) of the coordinates start <= d < stop."""
    words = sign_words(seed, start, stop, 1, device)[:, 0]
    return (_shifted(words, 33) * columns) >> 31, (words & 1).float() * 2 - 1


def signed(value: int) -> int:
    """The int64 with the bits of a uint64: torch computes with signed words, modulo 2**64 alike."""
    return value - (1 << 64) if value >= 1 << 63 else value


def _shifted(x: torch.Tensor, by: int) -> torch.Tensor:
    return (x >> by) & ((1 << (64 - by)) - 1)


def mixed(x: torch.Tensor) -> torch.Tensor:
    """The SplitMix64 finaliser on int64 words."""
    x = (x ^ _shifted(x, 30)) * signed(_M1)
    x = (x ^ _shifted(x, 27)) * signed(_M2)
    return x ^ _shifted(x, 31)


@contextmanager
def _full_float32(device: torch.device) -> Iterator[None]:
    """Matrix products in float32 proper: TF32 keeps ten bits."""
    before = torch.get_float32_matmul_precision()
    if device.type == "cuda":
        torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        if device.type == "cuda":
            torch.set_float32_matmul_precision(before)


def _by_tables(seed: int, rows: Float32, columns: int) -> Float32:
    """The Rademacher projection of rows [n, D] -> [n, columns] by table look-ups, on torch's threads."""
    out = np.empty((len(rows), columns), np.float32)
    threads = max(1, min(torch.get_num_threads(), columns // 256))
    edges = np.linspace(0, columns, threads + 1).astype(np.int64).tolist()
    spans = list(zip(edges[:-1], edges[1:], strict=True))
    if threads == 1:
        _columns_by_tables(seed, rows, out, *spans[0])
        return out
    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(_columns_by_tables, seed, rows, out, *span) for span in spans]:
            done.result()
    return out


def _columns_by_tables(seed: int, rows: Float32, out: Float32, first: int, last: int) -> None:
    """Fill out[:, first:last] from rows [n, D]."""
    n, dimension = rows.shape
    k, groups = last - first, _lane_groups(n)
    sums = [np.zeros(k * lanes, np.float32) for _, lanes in groups]
    words = np.empty((_WORDS_AT_ONCE, k), np.uint64)
    table = np.empty(8 * 256 * max(_LANES), np.float32)
    part = np.empty(k * max(_LANES), np.float32)
    for start in range(0, dimension, _WORDS_AT_ONCE * _WORD):
        block = rows[:, start : start + _WORDS_AT_ONCE * _WORD]
        count = -(-block.shape[1] // _WORD)
        _fill_words(_U64(seed), _U64(start // _WORD), words[:count], _U64(first))
        for (at, lanes), total in zip(groups, sums, strict=True):
            side = np.zeros((count * _WORD, lanes), np.float32)
            some = block[at : at + lanes]
            side[: block.shape[1], : len(some)] = some.T
            # A block's sum starts from zero, so that millions of coordinates do not round it off.
            mine = part[: k * lanes]
            mine[:] = 0
            _kernel(lanes)(words[:count], side, table, mine)
            total += mine
    for (at, lanes), total in zip(groups, sums, strict=True):
        taken = min(lanes, n - at)
        out[at : at + taken, first:last] = total.reshape(k, lanes)[:, :taken].T


def _lane_groups(n: int) -> list[tuple[int, int]]:
    """(first row, lanes) of the groups that cover n rows: wide ones, a small rest in a narrow one."""
    narrow, wide = _LANES
    return [(at, narrow if n - at <= narrow else wide) for at in range(0, n, wide)]


@numba.njit(cache=True, nogil=True)
def _mix(x: Any) -> Any:
    x = (x ^ (x >> _U64(30))) * _U64(_M1)
    x = (x ^ (x >> _U64(27))) * _U64(_M2)
    return x ^ (x >> _U64(31))


@numba.njit(cache=True, nogil=True)
def _fill_words(seed: Any, first: Any, words: UInt64, column: Any) -> None:
    """`sign_words` into words [C, K], from column `column` on."""
    for c in range(words.shape[0]):
        start = _mix(seed + (first + _U64(c)) * _U64(_GOLDEN))
        for k in range(words.shape[1]):
            words[c, k] = _mix(start + (column + _U64(k + 1)) * _U64(_GOLDEN))


@numba.njit(cache=True, nogil=True)
def _sketch(seed: Any, rows: Float32, out: Float32) -> None:
    """The count-sketch of rows [n, D] added to out [n, K]."""
    columns = _U64(out.shape[1])
    bucket, sign = np.empty(4096, np.int64), np.empty(4096, np.float32)
    for start in range(0, rows.shape[1], 4096):
        count = min(4096, rows.shape[1] - start)
        for d in range(count):
            word = _mix(_mix(seed + _U64(start + d) * _U64(_GOLDEN)) + _U64(_GOLDEN))
            bucket[d] = np.int64(((word >> _U64(33)) * columns) >> _U64(31))
            sign[d] = np.float32(1.0) if word & _U64(1) else np.float32(-1.0)
        for n in range(rows.shape[0]):
            for d in range(count):
                out[n, bucket[d]] += sign[d] * rows[n, start + d]


@cache
def _kernel(lanes: int) -> Callable[[UInt64, Float32, Float32, Float32], None]:
    """The look-up loop, compiled for `lanes` examples side by side (a constant, so that it vectorises)."""
    sums = _TABLE * lanes

    @numba.njit(cache=True, nogil=True)
    def add(words: UInt64, side: Float32, table: Float32, out: Float32) -> None:
        """out [K * lanes] += signs of words [C, K] times side [64 C, lanes]; table: scratch."""
        byte = _U64(255)
        for c in range(words.shape[0]):
            for b in range(8):
                own = table[b * sums : (b + 1) * sums]
                first = c * _WORD + b * 8
                for lane in range(lanes):
                    total = np.float32(0)
                    for j in range(8):
                        total -= side[first + j, lane]
                    own[lane] = total
                size = 1
                for j in range(8):
                    row = side[first + j]
                    for q in range(size):
                        for lane in range(lanes):
                            own[(size + q) * lanes + lane] = own[q * lanes + lane] + np.float32(2) * row[lane]
                    size *= 2
            for k in range(words.shape[1]):
                w = words[c, k]
                t0 = np.int64(w & byte) * lanes
                t1 = np.int64((w >> _U64(8)) & byte) * lanes + sums
                t2 = np.int64((w >> _U64(16)) & byte) * lanes + 2 * sums
                t3 = np.int64((w >> _U64(24)) & byte) * lanes + 3 * sums
                t4 = np.int64((w >> _U64(32)) & byte) * lanes + 4 * sums
                t5 = np.int64((w >> _U64(40)) & byte) * lanes + 5 * sums
                t6 = np.int64((w >> _U64(48)) & byte) * lanes + 6 * sums
                t7 = np.int64(w >> _U64(56)) * lanes + 7 * sums
                at = k * lanes
                for lane in range(lanes):
                    low = (table[t0 + lane] + table[t1 + lane]) + (table[t2 + lane] + table[t3 + lane])
                    high = (table[t4 + lane] + table[t5 + lane]) + (table[t6 + lane] + table[t7 + lane])
                    out[at + lane] += low + high

    return add
