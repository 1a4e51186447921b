"""Many scattered labels: the pair form of the kernel estimator by preconditioned conjugate gradients.

A product with the covariance needs no matrix of pairs by pairs: labels are spread into a [rows, columns]
matrix, multiplied by a kernel from each side, and read off again at the pairs. `solve_masked` does so with
the exact kernels. `solve_landmarks`, for matrices too large for that, has kernels through `LANDMARKS` items
of a side (Nystroem) and keeps the spread labels sparse.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from nncift_core.estimator.contract import Float32, Float64, Int64
from nncift_core.estimator.kernel_pairs import Pairs, PairSolve, spread
from nncift_core.estimator.kernel_sides import Side

LANDMARKS = 512
# The exact kernels are used up to this many items of a side and multiplications a step.
EXACT_ITEMS, EXACT_WORK = 4096, 2e10
TOLERANCE = 1e-4
STEPS = 500
_CHUNK = 8192
_PIVOTS, _PIVOT_FLOATS = 1000, 1 << 25
# Eigenvalues of the landmarks' kernel below this share of the largest are rounding of float32.
_RANK_SHARE = 1e-6

Product = Callable[[Float64], Float64]


def exact_is_cheap(rows: int, columns: int) -> bool:
    """Whether `solve_masked` is affordable for so many labelled rows and columns."""
    return max(rows, columns) <= EXACT_ITEMS and rows * columns * (rows + columns) <= EXACT_WORK


def solve_masked(rows: Side, columns: Side, pairs: Pairs, noise: float, widths: Float64) -> PairSolve:
    """By conjugate gradients on `v -> mask(K_r spread(v) K_c)`; landmarks are all labelled items."""
    shape = len(rows.x), len(columns.x)
    K_r = rows.own_kernel() + rows.d * np.eye(shape[0])
    K_c = columns.own_kernel() + columns.d * np.eye(shape[1])

    def product(v: Float64) -> Float64:
        out: Float64 = (K_r @ spread(pairs, v, shape) @ K_c)[pairs.r, pairs.c]
        return out + noise * v + (pairs.F.T * widths) @ (pairs.F @ v)

    at = pivots(len(pairs.y))
    near = K_r[:, pairs.r[at]][pairs.r] * K_c[:, pairs.c[at]][pairs.c]
    inverse = preconditioner(near, at, pairs.F, noise, widths)
    alpha, steps = conjugate_gradients(product, pairs.y, inverse)
    W = spread(pairs, alpha, shape)
    return PairSolve(alpha, W, rows.d * W, columns.d * W, None, steps)


def solve_landmarks(
    rows: Side, columns: Side, k_r: Float32, k_c: Float32, pairs: Pairs, noise: float, widths: Float64
) -> PairSolve:
    """By conjugate gradients on kernels through landmarks; k_r [R, m_r], k_c [C, m_c]: labelled items
    against landmarks. `K_r = P_r P_r^T + d_r I` with `P_r = k_r B_r`, `B_r = U diag(l)^-1/2`, K_c alike."""
    B_r, B_c = _whitening(rows), _whitening(columns)
    P_r, P_c = (torch.from_numpy(k.astype(np.float64) @ B) for k, B in ((k_r, B_r), (k_c, B_c)))
    r, c = torch.from_numpy(pairs.r), torch.from_numpy(pairs.c)
    shape = (len(k_r), len(k_c))

    def parts(v: Float64) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.from_numpy(v)
        there = torch.sparse_coo_tensor(torch.stack([r, c]), x, shape, check_invariants=False)
        back = torch.sparse_coo_tensor(torch.stack([c, r]), x, shape[::-1], check_invariants=False)
        return torch.sparse.mm(there, P_c), torch.sparse.mm(back, P_r)

    def product(v: Float64) -> Float64:
        of_rows, of_columns = parts(v)
        left = P_r @ (P_r.T @ of_rows) + rows.d * of_rows
        out = (noise + rows.d * columns.d) * v + (pairs.F.T * widths) @ (pairs.F @ v)
        for k in range(0, len(v), _CHUNK):
            i, j = r[k : k + _CHUNK], c[k : k + _CHUNK]
            near = torch.linalg.vecdot(left[i], P_c[j])
            near += columns.d * torch.linalg.vecdot(P_r[i], of_columns[j])
            out[k : k + _CHUNK] += near.numpy()
        return out

    at = pivots(len(pairs.y))
    near = _against_pivots(P_r, rows.d, pairs.r, at) * _against_pivots(P_c, columns.d, pairs.c, at)
    alpha, steps = conjugate_gradients(product, pairs.y, preconditioner(near, at, pairs.F, noise, widths))
    of_rows, of_columns = parts(alpha)
    W = B_r @ (P_r.T @ of_rows).numpy() @ B_c.T
    row_part = rows.d * (of_rows.numpy() @ B_c.T)
    column_part = columns.d * (B_r @ of_columns.numpy().T)
    return PairSolve(alpha, W, row_part, column_part, None, steps)


def pivots(n: int) -> Int64:
    """Positions of the labels that the preconditioner is built on, evenly over n labels."""
    k = max(1, min(n, _PIVOTS, _PIVOT_FLOATS // n))
    return np.unique(np.linspace(0, n - 1, k).astype(np.int64))


def preconditioner(near: Float64, at: Int64, F: Float64, noise: float, widths: Float64) -> Product:
    """`(P P^T + F diag(t) F^T + s^2 I)^-1` with the Nystroem factor P of the kernel on the labels `at` [k]
    (Woodbury's identity); near [n, k]: kernel of all labels with those."""
    core = near[at]
    core[np.diag_indices(len(at))] += 1e-8 * np.trace(core) / len(at)
    L = torch.linalg.cholesky(torch.from_numpy(core))
    P = torch.linalg.solve_triangular(L, torch.from_numpy(near.T), upper=False)
    factor = torch.cat([P, torch.from_numpy(F * np.sqrt(widths)[:, None])])
    small = factor @ factor.T + noise * torch.eye(len(factor), dtype=torch.float64)
    root = torch.linalg.cholesky(small)

    def apply(v: Float64) -> Float64:
        x = torch.from_numpy(v)
        inner = torch.cholesky_solve((factor @ x)[:, None], root)[:, 0]
        out: Float64 = ((x - inner @ factor) / noise).numpy()
        return out

    return apply


def conjugate_gradients(product: Product, b: Float64, inverse: Product) -> tuple[Float64, int]:
    """(x, steps) with `product(x) = b` to a relative residual of 1e-4 (Hestenes and Stiefel 1952).

    inverse: near to the inverse of `product`, symmetric. Raises ValueError when that takes more than 500
    steps.
    """
    x, residual = np.zeros_like(b), b.copy()
    goal = TOLERANCE * float(np.linalg.norm(b))
    better = inverse(residual)
    direction, square = better, float(residual @ better)
    for step in range(STEPS):
        if np.linalg.norm(residual) <= goal:
            return x, step
        image = product(direction)
        length = square / float(direction @ image)
        x += length * direction
        residual = residual - length * image
        better = inverse(residual)
        before, square = square, float(residual @ better)
        direction = better + (square / before) * direction
    raise ValueError(f"conjugate gradients did not converge in {STEPS} steps on {len(b)} labels")


def _against_pivots(P: torch.Tensor, d: float, place: Int64, at: Int64) -> Float64:
    kernel = (P @ P[torch.from_numpy(place[at])].T).numpy()
    out: Float64 = kernel[place]
    out += d * (place[:, None] == place[at])
    return out


def _whitening(side: Side) -> Float64:
    values, vectors = np.linalg.eigh(side.own_kernel())
    keep = values > values[-1] * _RANK_SHARE
    out: Float64 = vectors[:, keep] / np.sqrt(values[keep])
    return out
