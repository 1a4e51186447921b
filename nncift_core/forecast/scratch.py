"""A job's rows in a workspace that is thrown away, for looking at another one without writing into it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nncift_core.config import Config, run_key
from nncift_core.pipeline.inputs import Input, store_input
from nncift_core.pipeline.problem import Keys, Problem
from nncift_core.store.datasets import Dataset
from nncift_core.store.references import DatasetRef
from nncift_core.store.workspace import Workspace


@dataclass(frozen=True)
class Scratch:
    """The thrown-away workspace and the data sets stored in it."""

    ws: Workspace
    refs: tuple[DatasetRef, ...]

    def problem(self, config: Config, keys: Keys, ws: Workspace | None = None) -> Problem:
        """The matrix of the job; ws: where its vectors and values are looked for, instead of here."""
        return Problem(ws or self.ws, config, keys, tuple(Dataset(self.ws, r) for r in self.refs))

    def run_id(self, config: Config, keys: Keys) -> str:
        """The id that a run on these rows has."""
        versions = {f"{r.role}:{r.dataset}": r.version for r in self.refs}
        return run_key(config, versions, keys.models())


@contextmanager
def scratch(config: Config, inputs: Sequence[Input]) -> Iterator[Scratch]:
    """`inputs` stored as a run stores them, in a temporary folder; it goes when this is left."""
    with tempfile.TemporaryDirectory(prefix="nncift-plan-") as folder:
        ws = Workspace.create(Path(folder) / "workspace")
        refs = []
        for i in inputs:
            size = config.shards.columns if i.role == "target" else config.shards.rows
            refs.append(store_input(ws, i, size))
        yield Scratch(ws, tuple(refs))
