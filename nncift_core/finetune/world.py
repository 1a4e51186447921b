"""The processes that train one model together: each takes its share of a step, and sums are made of all.

Every process holds the whole model and takes the same steps; a step's gradient is the sum over its batches,
wherever they were computed, so a training on several GPUs differs from one on one by rounding alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """This process among `size`; `accelerator` carries sums between them, None where it is alone."""

    rank: int = 0
    size: int = 1
    accelerator: Any = None

    def share(self, parts: Sequence[T]) -> Sequence[T]:
        """What this process does of `parts`."""
        return parts[self.rank :: self.size]

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Make every process's gradients the sum of all, none standing for zero."""
        if self.accelerator is None:
            return
        for p in parameters:
            own = torch.zeros_like(p) if p.grad is None else p.grad
            p.grad = self.accelerator.reduce(own, reduction="sum")

    def sum_numbers(self, device: str, *numbers: float) -> list[float]:
        """Every number summed over the processes."""
        if self.accelerator is None:
            return list(numbers)
        # Not in float64 on a device that may lack it; a sum of losses needs no more.
        values = torch.tensor(numbers, dtype=torch.float32, device=device)
        found: list[float] = self.accelerator.reduce(values, reduction="sum").tolist()
        return found


def joined(device: str) -> World:
    """The world that the launcher's environment tells of."""
    from accelerate import Accelerator  # type: ignore[import-untyped]

    accelerator = Accelerator(cpu=device == "cpu")
    return World(accelerator.process_index, accelerator.num_processes, accelerator)
