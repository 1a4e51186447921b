"""The processes that train one model together: each takes its share of a step, and sums are made of all.

Every process holds the whole model and takes the same steps; a step's gradient is the sum over its batches,
wherever they were computed, so a training on several GPUs differs from one on one by rounding alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """This process among `size`; `accelerator` carries sums between them, None where it is alone.

    writer: the rank of the process that reads and writes files for all. Over several hosts that is one of
    the job's host, whichever rank the launcher, which numbers hosts by address, has given it.
    """

    rank: int = 0
    size: int = 1
    accelerator: Any = None
    writer: int = 0

    @property
    def writes(self) -> bool:
        """Whether this process is the writer."""
        return self.rank == self.writer

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

    def spread(self, values: torch.Tensor) -> torch.Tensor:
        """The writer's tensor, on every process; the others give one of its shape, dtype and device."""
        if self.accelerator is None:
            return values
        from accelerate.utils import broadcast  # type: ignore[import-untyped]

        found: torch.Tensor = broadcast(values, from_process=self.writer)
        return found

    def spread_text(self, device: str, text: str) -> str:
        """The writer's text, on every process."""
        data = text.encode("utf-8") if self.writes else b""
        (length,) = self.spread(torch.tensor([len(data)], device=device)).tolist()
        told = list(data) if self.writes else [0] * int(length)
        return bytes(self.spread(torch.tensor(told, dtype=torch.uint8, device=device)).tolist()).decode(
            "utf-8"
        )


def joined(device: str, writes: bool) -> World:
    """The world that the launcher's environment tells of; exactly one of its processes `writes`."""
    from accelerate import Accelerator  # type: ignore[import-untyped]

    accelerator = Accelerator(cpu=device == "cpu")
    world = World(accelerator.process_index, accelerator.num_processes, accelerator)
    (writer,) = world.sum_numbers(device, float(world.rank) if writes else 0.0)
    return replace(world, writer=int(writer))
