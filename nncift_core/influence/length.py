"""Length of the response: the cheapest value of a row, and a hard one to beat when long answers win.

value(i) = number of characters (Unicode code points) of the response of i: the measure by which the rival
subset "longest" is drawn, so the k highest are the k longest, ties apart.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from nncift_core.config import Config
from nncift_core.hashing import digest
from nncift_core.influence.contract import CostModel, Float32, Pointwise, Progress, Rows


class Length(Pointwise):
    """Characters of a row's response; no model, no settings."""

    name = "length"
    version = 1
    cost = CostModel()
    needs = frozenset[str]()

    def __init__(self) -> None:
        self.counters: Counter[str] = Counter()

    @classmethod
    def from_config(cls, config: Config, device: str) -> Length:
        """The function; it runs on the CPU whatever the device."""
        return cls()

    @classmethod
    def key_of(cls, config: Config) -> str:
        """What `key()` gives: nothing in `config` changes it."""
        return cls().key()

    def key(self) -> str:
        """Digest of name and version."""
        return digest({"name": self.name, "version": self.version})

    def values(self, rows: Rows, progress: Progress | None = None) -> Float32:
        """Characters of every response, [len(rows)]; exact below 2^24 characters."""
        out = np.fromiter((len(response) for response in rows.responses), np.float32, len(rows))
        if progress is not None:
            progress(len(out))
        return out
