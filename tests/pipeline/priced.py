"""Influence functions of every cost structure, and a stored problem over made rows."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nncift_core.config import Config, parse_config
from nncift_core.functions import CATALOGUE, Entry
from nncift_core.hashing import hash_rank
from nncift_core.influence.contract import CostModel, Float32, Float64, Pairwise, Pointwise, Progress, Rows
from nncift_core.pipeline.problem import Keys, Problem
from nncift_core.records import Example
from nncift_core.store.dataset_writer import store_dataset
from nncift_core.store.workspace import Workspace

ROWS, COLUMNS = 60, 24


def value(rows: Rows, columns: Rows) -> Float32:
    """Of rows[k] on columns[k]: a number made of both contents."""
    return (hash_rank(rows.content_ids, 0, "value", columns.content_ids) % 997).astype(np.float32) / 997


class Priced(Pairwise):
    """Pairs cost forward passes; their tokens are the lengths of the texts."""

    name, version = "priced", 1
    cost = CostModel(per_pair=1, per_column=1)
    needs = frozenset[str]()

    def __init__(self) -> None:
        self.counters: Counter[str] = Counter()
        self.asked: list[tuple[str, int, int]] = []

    @classmethod
    def from_config(cls, config: Config, device: str) -> Priced:
        return cls()

    @classmethod
    def key_of(cls, config: Config) -> str:
        return cls.name

    def key(self) -> str:
        return self.name

    def token_costs(self, rows: Rows, columns: Rows) -> tuple[Float64, Float64]:
        """The prompt of a row is shared, the prompt of a column is not."""
        lengths = [np.array([len(p) for p in side.prompts], np.float64) for side in (rows, columns)]
        return lengths[0], lengths[1]

    def tile(self, rows: Rows, columns: Rows, progress: Progress | None = None) -> Float32:
        self.asked.append(("tile", len(rows), len(columns)))
        i, j = np.divmod(np.arange(len(rows) * len(columns)), len(columns))
        return value(rows.take(i), columns.take(j)).reshape(len(rows), len(columns))

    def pairs(self, rows: Rows, columns: Rows, progress: Progress | None = None) -> Float32:
        self.asked.append(("pairs", len(rows), len(columns)))
        return value(rows, columns)


class Uncounted(Priced):
    """Pairs cost forward passes of which nothing more is known."""

    name = "uncounted"
    token_costs = None  # type: ignore[assignment]


class Linear(Priced):
    """Rows and target rows cost, pairs do not."""

    name = "linear"
    cost = CostModel(per_row=3, per_column=3)


class Free(Priced):
    """Nothing costs anything."""

    name = "free"
    cost = CostModel()


class Single(Pointwise):
    """One value per row, at a price."""

    name, version = "single", 1
    cost = CostModel(per_row=5)
    needs = frozenset[str]()
    counters: Counter[str] = Counter()

    @classmethod
    def from_config(cls, config: Config, device: str) -> Single:
        return cls()

    @classmethod
    def key_of(cls, config: Config) -> str:
        return cls.name


class FreeSingle(Single):
    """One value per row, at none."""

    name = "free-single"
    cost = CostModel()


def register(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the functions of this file known to configs by their names."""
    for made in (Priced, Uncounted, Linear, Free, Single, FreeSingle):
        kind = "pointwise" if issubclass(made, Single) else "pairwise"
        entry = Entry(f"pipeline.priced:{made.__name__}", kind, "top-k")
        monkeypatch.setitem(CATALOGUE, made.name, entry)


def config(function: str = "priced", **influence: Any) -> Config:
    """A config of one of the functions above; `architecture` goes to the estimator."""
    architecture = influence.pop("architecture", "auto")
    return parse_config(
        {
            "pool": {"source": "pool.jsonl"},
            "target": {"source": "target.jsonl"},
            "influence": {"function": function, "label_fraction": 0.2, "audit_pairs": 50, **influence},
            "estimator": {"architecture": architecture},
        }
    )


def examples(side: str, start: int, stop: int) -> list[Example]:
    """Rows `start` to `stop` of an endless list; prompts of the pool are about 60 long, others about 30."""
    filler = "word " * (10 if side == "pool" else 4)
    return [Example(f"{filler}{side} {k}", f"answer {k}", k) for k in range(start, stop)]


def problem(folder: Path, config: Config, pool: range = range(ROWS), columns: int = COLUMNS) -> Problem:
    """The matrix of pool rows `pool` x `columns` target rows, in blocks of 16."""
    ws = Workspace.create(folder / "ws")
    rows = {"pool": examples("pool", pool.start, pool.stop), "target": examples("target", 0, columns)}
    refs = [
        store_dataset(ws, e, dataset="made", role=role, block_rows=16, fingerprint="f")
        for role, e in rows.items()
    ]
    return Problem.load(ws, config, Keys("encoder", config.influence.function), refs)
