"""The network's matrix on a GPU: tiles of maxima and minima (`network_signed`), compiled by Triton.

Where Triton is missing, the same sums by torch's own operations. Products and sums are float32.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from nncift_core.estimator.network_signed import SignedNetwork

if TYPE_CHECKING:
    from nncift_core.estimator.network import InfluenceNetwork

Float32 = npt.NDArray[np.float32]

HAS_TRITON = find_spec("triton") is not None
TILE_ROWS, TILE_COLUMNS = 64, 128
# A block of the result on the device: 256 MB.
_BLOCK_ROWS, _BLOCK_COLUMNS = 4096, 16384
_EAGER_FLOATS = 1 << 24

if HAS_TRITON:
    import triton  # type: ignore[import-untyped, import-not-found, unused-ignore]
    import triton.language as tl  # type: ignore[import-untyped, import-not-found, unused-ignore]

    @triton.jit  # type: ignore[untyped-decorator, unused-ignore]
    def _tile(A, B, row_term, column_term, out, m, n, positive, units, BM: tl.constexpr, BN: tl.constexpr):  # type: ignore[no-untyped-def]
        """out [m, n] = sum max(A, B) + sum min(A, B) + column_term + row_term; A [units, m], B [units, n]."""
        i = tl.program_id(0) * BM + tl.arange(0, BM)
        j = tl.program_id(1) * BN + tl.arange(0, BN)
        total = tl.zeros((BM, BN), dtype=tl.float32)
        for u in range(0, positive):
            a = tl.load(A + u * m + i, mask=i < m, other=0.0)
            b = tl.load(B + u * n + j, mask=j < n, other=0.0)
            total += tl.maximum(a[:, None], b[None, :])
        for u in range(positive, units):
            a = tl.load(A + u * m + i, mask=i < m, other=0.0)
            b = tl.load(B + u * n + j, mask=j < n, other=0.0)
            total += tl.minimum(a[:, None], b[None, :])
        column = tl.load(column_term + j, mask=j < n, other=0.0)
        row = tl.load(row_term + i, mask=i < m, other=0.0)
        total = (total + column[None, :]) + row[:, None]
        tl.store(out + i[:, None] * n + j[None, :], total, mask=(i[:, None] < m) & (j[None, :] < n))


def predict(
    network: InfluenceNetwork,
    rows: npt.NDArray[Any],
    columns: npt.NDArray[Any],
    out: Float32,
    device: torch.device,
    *,
    by_triton: bool = HAS_TRITON,
) -> None:
    """Fill out [m, n] with raw-scale influence of rows [m, d] on columns [n, d_column] by `device`.

    The device holds 256 MB of the result at a time. An embedding that is not finite gives NaN all along its
    row or column. by_triton: False for torch's operations; a CPU device needs them, unless Triton interprets
    (TRITON_INTERPRET=1). Shapes are the caller's to check.
    """
    signed = SignedNetwork.of(network)
    # The units that matter: an empty matrix has no place on the device to point to.
    fill = _by_triton if by_triton and signed.units else _by_torch
    with torch.inference_mode():
        bias = torch.from_numpy(signed.row_bias).to(device)
        W_rows, W_columns = (torch.from_numpy(W).to(device) for W in (signed.W_rows, signed.W_columns))
        for c in range(0, len(columns), _BLOCK_COLUMNS):
            B = W_columns @ _placed(columns[c : c + _BLOCK_COLUMNS], device).T
            column_term = _term(signed.offset, -1, B)
            for r in range(0, len(rows), _BLOCK_ROWS):
                A = torch.addmm(bias[:, None], W_rows, _placed(rows[r : r + _BLOCK_ROWS], device).T)
                row_term = _term(signed.shift, 0, A)
                block = torch.empty((A.shape[1], B.shape[1]), device=device)
                fill(A, B, row_term, column_term, block, signed.positive)
                out[r : r + len(block), c : c + block.shape[1]] = block.cpu().numpy()


def _by_triton(
    A: torch.Tensor,
    B: torch.Tensor,
    row_term: torch.Tensor,
    column_term: torch.Tensor,
    out: torch.Tensor,
    positive: int,
) -> None:
    (units, m), n = A.shape, B.shape[1]
    grid = (triton.cdiv(m, TILE_ROWS), triton.cdiv(n, TILE_COLUMNS))
    if out.is_cuda:
        torch.cuda.set_device(out.device)
    _tile[grid](A, B, row_term, column_term, out, m, n, positive, units, BM=TILE_ROWS, BN=TILE_COLUMNS)


def _by_torch(
    A: torch.Tensor,
    B: torch.Tensor,
    row_term: torch.Tensor,
    column_term: torch.Tensor,
    out: torch.Tensor,
    positive: int,
) -> None:
    step = max(1, _EAGER_FLOATS // max(1, B.numel()))
    for i in range(0, len(out), step):
        a, here = A[:, i : i + step, None], out[i : i + step]
        torch.sum(torch.maximum(a[:positive], B[:positive, None]), dim=0, out=here)
        here += torch.minimum(a[positive:], B[positive:, None]).sum(dim=0)
        here += column_term
        here += row_term[i : i + step, None]


def _term(constant: float, factor: int, side: torch.Tensor) -> torch.Tensor:
    """constant + factor * (sum over units), [n]; NaN where that sum is not finite."""
    total = side.sum(dim=0, dtype=torch.float64)
    return torch.where(total.isfinite(), constant + factor * total, torch.nan).float()


def _placed(x: npt.NDArray[Any], device: torch.device) -> torch.Tensor:
    # A copy: torch refuses to promise anything about read-only arrays such as memory maps.
    return torch.from_numpy(np.array(x, dtype=np.float32, order="C")).to(device)
