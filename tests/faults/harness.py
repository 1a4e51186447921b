"""Faults by number: each is one kind with random numbers of its own, so that any can be repeated alone."""

from __future__ import annotations

import os
import random
import shutil
from dataclasses import dataclass

from faults.kinds import KINDS
from faults.world import World

SEED = int(os.environ.get("NNCIFT_FAULT_SEED", "20261125"))
# How often each kind is injected where all are injected; one that is not named: once.
OFTEN = {
    "worker killed": 5,
    "worker hangs": 1,
    "worker may not write": 2,
    "driver killed": 4,
    "writer killed": 3,
    "writer killed at a rename": 4,
    "disk full": 2,
}


class Lost(AssertionError):
    """A fault that cost more than the work in flight."""


@dataclass(frozen=True)
class Fault:
    """Fault `number` of a seed."""

    seed: int
    number: int
    kind: str

    def __str__(self) -> str:
        return f"{self.number:03d} {self.kind}"

    def inject(self, world: World) -> None:
        """Let it happen and have the work go on. Raises Lost, naming seed and number."""
        name = f"fault-{self.seed}-{self.number}"
        try:
            KINDS[self.kind](world, name, random.Random(f"{self.seed}/{self.number}"))
        except Exception as e:
            raise Lost(
                f"seed {self.seed}, fault {self.number} ({self.kind}): {type(e).__name__}: {e}. "
                f"Repeat it with: python benchmarks/faults.py --seed {self.seed} --only {self.number}"
            ) from e
        finally:
            world.end_children()
        for folder in world.folder.glob(f"{name}*"):
            shutil.rmtree(folder) if folder.is_dir() else folder.unlink()


def faults(seed: int, count: int | None = None) -> list[Fault]:
    """The first `count` faults of a seed (each kind as often as `OFTEN` says, when None), in random order.

    More than one round of the kinds repeats them.
    """
    one = [kind for kind in KINDS for _ in range(OFTEN.get(kind, 1))]
    wanted: list[str] = []
    while len(wanted) < (count or len(one)):
        mixed = list(one)
        random.Random(f"{seed}/{len(wanted)}").shuffle(mixed)
        wanted += mixed
    return [Fault(seed, n, kind) for n, kind in enumerate(wanted[: count or len(one)])]
