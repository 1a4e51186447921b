"""An influence function that turns round for rows of a domain of its own, marked by their first letter."""

from __future__ import annotations

from collections import Counter

import numpy as np
from fifth_function import SharedLetters

from nncift_core.config import Config
from nncift_core.influence.contract import CostModel, Float32, Progress, Rows

MARK = "¶"


class Turned(SharedLetters):
    """The shared letters; in the new domain 5 minus three times them."""

    name = "turned-letters"
    cost = CostModel()

    def __init__(self) -> None:
        self.counters: Counter[str] = Counter()

    @classmethod
    def from_config(cls, config: Config, device: str) -> Turned:
        return cls()

    def tile(self, rows: Rows, columns: Rows, progress: Progress | None = None) -> Float32:
        return np.stack([_turn(p, v) for p, v in zip(rows.prompts, super().tile(rows, columns), strict=True)])

    def pairs(self, rows: Rows, columns: Rows, progress: Progress | None = None) -> Float32:
        values = super().pairs(rows, columns)
        return np.array([_turn(p, v) for p, v in zip(rows.prompts, values, strict=True)], np.float32)


def _turn(prompt: str, value: Float32) -> Float32:
    return 5 - 3 * value if prompt.startswith(MARK) else value
