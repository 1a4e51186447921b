"""Exact greedy by torch, with the similarity on a device.

Lazy greedy with batches: the bounds lie on the device, and at each step the candidates of largest stale
bound are evaluated a batch at a time until the best is fresh. The kernel stays on the device where it
fits; rows of embeddings are computed there anew where it does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch

from nncift_core.selection.kernels import EmbeddingRows, Float32, SimilarityRows
from nncift_core.selection.result import Float64, Int64

Fetch = Callable[[torch.Tensor], torch.Tensor]


def run_device_greedy(
    rows: SimilarityRows,
    cover: Float32,
    modular: Float64,
    budget: int,
    device: str,
    *,
    memory: int | None = None,
    batch: int = 256,
) -> tuple[Int64, Float64, int]:
    """Order [budget], gains [budget] and tied steps, those of `lazy_greedy` up to float64 rounding of sums.

    memory: bytes for the kernel on the device; None: three quarters of what is free there (on a CPU: all
    it takes). Raises ValueError where the kernel does not fit and is not of embeddings.
    """
    where = torch.device(device)
    fetch = _fetcher(rows, where, memory)
    covered = torch.from_numpy(cover).to(where, copy=True)
    constants = torch.from_numpy(modular).to(where)
    candidates = rows.shape[0]
    bound = torch.full((candidates,), torch.inf, dtype=torch.float64, device=where)
    seen = torch.full((candidates,), -1, device=where)
    order, gains, ties = np.empty(budget, np.int64), np.empty(budget, np.float64), 0
    for some in _pieces(candidates, batch, where):
        bound[some] = _gains(fetch(some), covered) + constants[some]
    seen.fill_(0)
    for step in range(budget):
        best, tied = _freshest(fetch, covered, constants, bound, seen, step, batch)
        order[step], gains[step] = best, float(bound[best])
        ties += tied
        torch.maximum(covered, fetch(torch.tensor([best], device=where))[0], out=covered)
        bound[best] = -torch.inf
        seen[best] = budget
    return order, gains, ties


def _freshest(
    fetch: Fetch,
    cover: torch.Tensor,
    modular: torch.Tensor,
    bound: torch.Tensor,
    seen: torch.Tensor,
    step: int,
    batch: int,
) -> tuple[int, bool]:
    """Evaluate stale tops until the best is fresh; its lowest index, and whether another one shares it."""
    size = min(8, batch)
    while True:
        top = bound.max()
        ids = torch.nonzero(bound == top)[:, 0]
        fresh = seen[ids] == step
        lowest, fresh_lowest, shared, waiting = torch.stack(
            [ids[0], fresh[0].long(), fresh.sum(), (~fresh).sum()]
        ).tolist()
        if fresh_lowest and (shared > 1 or not waiting):
            return int(lowest), shared > 1
        key = torch.where(seen == step, -torch.inf, bound)
        some = torch.topk(key, min(size, len(key))).indices
        some = some[key[some] > -torch.inf]
        bound[some] = _gains(fetch(some), cover) + modular[some]
        seen[some] = step
        size = min(2 * size, batch)


def _pieces(candidates: int, size: int, where: torch.device) -> Iterator[torch.Tensor]:
    for a in range(0, candidates, size):
        yield torch.arange(a, min(a + size, candidates), device=where)


def _gains(rows: torch.Tensor, cover: torch.Tensor) -> torch.Tensor:
    """sum_i max(rows[k, i] - cover[i], 0): float32 differences, float64 sum, [len(rows)]."""
    return (rows - cover).clamp_(min=0).sum(dim=1, dtype=torch.float64)


def _fetcher(rows: SimilarityRows, where: torch.device, memory: int | None) -> Fetch:
    """From candidates to their rows, on the device."""
    candidates, represented = rows.shape
    if memory is None:
        memory = (
            torch.cuda.mem_get_info(where)[0] * 3 // 4
            if where.type == "cuda"
            else 4 * candidates * represented
        )
    source: Fetch
    if isinstance(rows, EmbeddingRows):
        there = rows.to(where)
        source = there.product
    else:

        def source(ids: torch.Tensor) -> torch.Tensor:
            return torch.from_numpy(rows.take(ids.cpu().numpy())).to(where)

    if 4 * candidates * represented <= memory:
        resident = torch.empty((candidates, represented), device=where)
        for some in _pieces(candidates, 1024, where):
            resident[some] = source(some)
        return lambda ids: resident[ids]
    if isinstance(rows, EmbeddingRows):
        return source
    raise ValueError(
        f"the kernel takes {4 * candidates * represented:,} bytes, but the device has {memory:,} for it: "
        "leave out device, or give the similarity as EmbeddingRows"
    )
