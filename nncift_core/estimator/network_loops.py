"""The compiled loops of `network_numba`: vectors of LLVM, so that sums stay in registers.

numba's own vectoriser keeps the sums in memory, at half the speed. Both layers are sums over k of 4 values
broadcast against a vector of `WIDTH`, by product (first layer), maximum or minimum (second layer). They
stand in one file, because numba's cache of compiled code asks only whether the file of a loop has changed.
"""

from __future__ import annotations

from typing import Any, cast

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import binding, ir  # type: ignore[import-untyped]
from numba.core import cgutils
from numba.extending import intrinsic

from nncift_core.compiled import compiled

Float32 = npt.NDArray[np.float32]

# Typed in parts only.
_cgutils, _intrinsic = cast(Any, cgutils), cast(Any, intrinsic)

# Examples of a strip, which lies [unit, example], and rows whose sums are held at once.
STRIP = 64
ROWS = 4
_WIDE = bool(binding.get_host_cpu_features().get("avx512f"))
# Lanes of a vector, and vectors whose sums are held at once: as many as there are registers for.
_LANES, _VECTORS = (16, 4) if _WIDE else (8, 2)
WIDTH = _LANES * _VECTORS
# Depth of the first layer's tiles, which fit the first cache: 128 x 64 floats.
_DEPTH = 128


class _Emitter:
    """LLVM instructions on vectors at addresses."""

    def __init__(self, builder: Any) -> None:
        self.builder = builder
        self.scalar, self.vector = ir.FloatType(), ir.VectorType(ir.FloatType(), _LANES)

    def at(self, base: Any, offset: Any, kind: Any) -> Any:
        """Pointer to `offset` floats past the address `base`."""
        start = self.builder.inttoptr(base, self.scalar.as_pointer())
        return self.builder.bitcast(self.builder.gep(start, [offset]), kind.as_pointer())

    def read(self, base: Any, offset: Any, kind: Any) -> Any:
        value = self.builder.load(self.at(base, offset, kind))
        value.align = 4
        return value

    def write(self, value: Any, base: Any, offset: Any) -> None:
        self.builder.store(value, self.at(base, offset, self.vector)).align = 4

    def broadcast(self, x: Any) -> Any:
        undefined, lane = ir.Constant(self.vector, ir.Undefined), ir.IntType(32)
        first = self.builder.insert_element(undefined, x, ir.Constant(lane, 0))
        everywhere = ir.Constant(ir.VectorType(lane, _LANES), [0] * _LANES)
        return self.builder.shuffle_vector(first, undefined, everywhere)

    def accumulate(self, operation: str, x: Any, y: Any, total: Any) -> Any:
        if operation == "product":
            kind = ir.FunctionType(self.vector, [self.vector] * 3)
            fma = _cgutils.get_or_insert_function(self.builder.module, kind, f"llvm.fma.v{_LANES}f32")
            return self.builder.call(fma, [x, y, total])
        # Written so, it is one instruction; LLVM's own maximum would look for NaN first.
        better = self.builder.fcmp_ordered(">" if operation == "maximum" else "<", x, y)
        return self.builder.fadd(total, self.builder.select(better, x, y))


def _index(k: int) -> Any:
    return ir.Constant(ir.IntType(64), k)


def _accumulating(operation: str) -> Any:
    """`c[r, l] += operation(a[k, r], b[k, l])` over k < n, r < ROWS, l < WIDTH.

    Arguments: a, b and c as addresses of floats, each with the distance of its rows in floats; then n.
    """

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        a, a_row, b, b_row, c, c_row, n = arguments
        on = _Emitter(builder)
        sums = {
            (r, v): _cgutils.alloca_once(builder, on.vector) for r in range(ROWS) for v in range(_VECTORS)
        }
        places = {(r, v): builder.add(builder.mul(c_row, _index(r)), _index(v * _LANES)) for r, v in sums}
        for key, place in places.items():
            builder.store(on.read(c, place, on.vector), sums[key])
        with _cgutils.for_range(builder, n) as loop:
            a_start, b_start = builder.mul(loop.index, a_row), builder.mul(loop.index, b_row)
            starts = [builder.add(b_start, _index(v * _LANES)) for v in range(_VECTORS)]
            ys = [on.read(b, start, on.vector) for start in starts]
            xs = [on.read(a, builder.add(a_start, _index(r)), on.scalar) for r in range(ROWS)]
            for (r, v), total in sums.items():
                x = on.broadcast(xs[r])
                builder.store(on.accumulate(operation, x, ys[v], builder.load(total)), total)
        for key, place in places.items():
            on.write(builder.load(sums[key]), c, place)
        return context.get_dummy_value()

    def declared(context, a, a_row, b, b_row, c, c_row, n):  # type: ignore[no-untyped-def]
        return numba.void(*(numba.intp,) * 7), emit

    return _intrinsic(declared)


_add_products = _accumulating("product")
_add_maxima = _accumulating("maximum")
_add_minima = _accumulating("minimum")


@_intrinsic
def _write_sums(context, c, column_term, row_term, out):  # type: ignore[no-untyped-def]
    """`out[l] = (c[l] + column_term[l]) + row_term` over l < WIDTH; all but row_term are addresses."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        c, column_term, row_term, out = arguments
        on = _Emitter(builder)
        constant = on.broadcast(row_term)
        for v in range(_VECTORS):
            place = _index(v * _LANES)
            total = builder.fadd(on.read(c, place, on.vector), on.read(column_term, place, on.vector))
            on.write(builder.fadd(total, constant), out, place)
        return context.get_dummy_value()

    return numba.void(numba.intp, numba.intp, numba.float32, numba.intp), emit


@compiled
def first_layer(x: Float32, weights: Float32, bias: Float32, out: Float32) -> None:
    """out[s, u, l] = sum_k weights[u // 4, k, u % 4] x[64 s + l, k] + bias[u]; for x past its end, bias[u].

    x [n, d], weights [units / 4, d, 4], bias [units], out [strips, units, 64], all C-contiguous.
    """
    n, d = x.shape
    tile = np.zeros((_DEPTH, STRIP), np.float32)
    for s in range(out.shape[0]):
        for u in range(out.shape[1]):
            out[s, u, :] = bias[u]
        for first in range(0, d, _DEPTH):
            depth, lanes = min(_DEPTH, d - first), min(STRIP, n - s * STRIP)
            if lanes < STRIP:
                tile[:] = 0
                for j in range(lanes):
                    for k in range(depth):
                        tile[k, j] = x[s * STRIP + j, first + k]
            else:
                # By eight examples: their lines stay in the first cache, wherever they lie.
                for lane in range(0, STRIP, 8):
                    for k in range(depth):
                        for j in range(8):
                            tile[k, lane + j] = x[s * STRIP + lane + j, first + k]
            for q in range(weights.shape[0]):
                a = weights.ctypes.data + 4 * ROWS * (q * d + first)
                c = out.ctypes.data + 4 * STRIP * (s * out.shape[1] + ROWS * q)
                for left in range(0, STRIP, WIDTH):
                    b = tile.ctypes.data + 4 * left
                    _add_products(a, ROWS, b, STRIP, c + 4 * left, STRIP, depth)


@compiled
def second_layer(
    A: Float32,
    B: Float32,
    positive: int,
    units: int,
    row_term: Float32,
    column_term: Float32,
    out: Float32,
    distance: int,
) -> None:
    """out[i * distance + j] = sum max(A_i, B_j) + sum min(A_i, B_j) + column_term[j] + row_term[i].

    A [strips of rows, padded units, 64], B [strips of columns, padded units, 64]: the first `positive` of
    the `units` units take the maximum. row_term [m], column_term [n], out [(m - 1) * distance + n], all
    C-contiguous.
    """
    m, n, padded = len(row_term), len(column_term), A.shape[1]
    sums = np.empty((ROWS, WIDTH), np.float32)
    c, past = sums.ctypes.data, 4 * STRIP * positive
    for left in range(0, n, WIDTH):
        b = B.ctypes.data + 4 * (left // STRIP * padded * STRIP + left % STRIP)
        for top in range(0, m, ROWS):
            a = A.ctypes.data + 4 * (top // STRIP * padded * STRIP + top % STRIP)
            sums[:] = 0
            _add_maxima(a, STRIP, b, STRIP, c, WIDTH, positive)
            _add_minima(a + past, STRIP, b + past, STRIP, c, WIDTH, units - positive)
            for r in range(min(ROWS, m - top)):
                base, term = (top + r) * distance + left, row_term[top + r]
                if left + WIDTH <= n:
                    column = column_term.ctypes.data + 4 * left
                    _write_sums(c + 4 * WIDTH * r, column, term, out.ctypes.data + 4 * base)
                else:
                    for j in range(n - left):
                        out[base + j] = (sums[r, j] + column_term[left + j]) + term
    # The addresses hold nothing alive: `sums` must be in use until here.
    sums[:] = 0
