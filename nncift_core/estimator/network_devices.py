"""One matrix by several devices: row blocks to whichever is free."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from nncift_core.estimator import network_triton
from nncift_core.estimator.network import InfluenceNetwork

Float32 = npt.NDArray[np.float32]

# A few blocks for each device, so that a slower one takes fewer.
_BLOCKS_EACH = 4
_LEAST_ROWS = 256


def predict_on(
    devices: Sequence[str | torch.device],
    network: InfluenceNetwork,
    rows: npt.NDArray[Any],
    columns: npt.NDArray[Any],
    out: Float32 | None = None,
) -> Float32:
    """`network.predict` by several devices at once: rows [m, d], columns [n, d_column] -> [m, n].

    A device is named as torch names it, and may be named twice; CPUs use the kernel in use, GPUs
    `network_triton`. Each takes the next row block when it is free: devices of one kind agree in bits,
    others within rounding. Raises ValueError for no device, one that is neither, and as `predict` does.
    """
    places = [torch.device(d) for d in devices]
    if not places or any(p.type not in ("cpu", "cuda") for p in places):
        raise ValueError(f"devices must name CPUs (cpu) or GPUs (cuda:0), got {[str(p) for p in places]}")
    out = network.checked_out(rows, columns, out)
    step = max(_LEAST_ROWS, -(-len(rows) // (_BLOCKS_EACH * len(places))))
    waiting: SimpleQueue[int] = SimpleQueue()
    for first in range(0, len(rows), step):
        waiting.put(first)

    def work(place: torch.device) -> None:
        while True:
            try:
                first = waiting.get_nowait()
            except Empty:
                return
            here = slice(first, first + step)
            if place.type == "cpu":
                network.predict(rows[here], columns, out[here])
            else:
                network_triton.predict(network, rows[here], columns, out[here], place)

    with ThreadPoolExecutor(len(places)) as pool:
        for done in [pool.submit(work, place) for place in places]:
            done.result()
    return out
