"""An influence function as a researcher would add it: this file, and one line in the catalogue."""

from __future__ import annotations

from collections import Counter

import numpy as np

from nncift_core.config import Config
from nncift_core.hashing import digest
from nncift_core.influence.contract import CostModel, Float32, Pairwise, Progress, Rows


class SharedLetters(Pairwise):
    """influence(i, j) = |letters of i and j| / |letters of i or j|, of the prompts."""

    name = "shared-letters"
    version = 1
    cost = CostModel()
    needs = frozenset[str]()

    def __init__(self) -> None:
        self.counters: Counter[str] = Counter()

    @classmethod
    def from_config(cls, config: Config, device: str) -> SharedLetters:
        return cls()

    @classmethod
    def key_of(cls, config: Config) -> str:
        return cls().key()

    def key(self) -> str:
        return digest({"name": self.name, "version": self.version})

    def tile(self, rows: Rows, columns: Rows, progress: Progress | None = None) -> Float32:
        values = [[_overlap(a, b) for b in columns.prompts] for a in rows.prompts]
        return np.array(values, np.float32)

    def pairs(self, rows: Rows, columns: Rows, progress: Progress | None = None) -> Float32:
        values = [_overlap(a, b) for a, b in zip(rows.prompts, columns.prompts, strict=True)]
        return np.array(values, np.float32)


def _overlap(a: str, b: str) -> float:
    return len(set(a) & set(b)) / max(1, len(set(a) | set(b)))
