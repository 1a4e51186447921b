"""What is kept of trainings of classifiers: dynamics, checkpoints, gradient scores, results, subsets.

One folder per training, named by its key. `done.json` is written last: a training without it does not exist.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from nncift_core.classification.contract import Checkpoint, Dynamics, Int64
from nncift_core.store.files import is_intact, publish, void
from nncift_core.store.remote.mirrors import here
from nncift_core.store.workspace import Workspace

KIND = "classifier"
_POINT = ("steps", "epochs", "epoch_end")


class Kept:
    """The folder of one training.

    key: identity of all that decides its values; parents: the data that it was made from.
    """

    def __init__(self, ws: Workspace, key: str, parents: tuple[str, ...] = ()) -> None:
        self.ws, self.key, self.parents = ws, key, parents
        self.folder = ws.classifier_dir(key)

    @property
    def done(self) -> bool:
        """Whether it is there, and whole."""
        result = self._path("done.json")
        if not is_intact(result):
            return False
        return all(is_intact(self._path(name)) for name in self.read()["files"])

    @property
    def artifact(self) -> str:
        """Relative path of its result."""
        return self.ws.relative(self._path("done.json"))

    def read(self) -> dict[str, Any]:
        """Its result, as `finish` kept it."""
        found: dict[str, Any] = json.loads(self._path("done.json").read_text(encoding="utf-8"))
        return found

    def finish(self, result: Mapping[str, Any], files: Sequence[str] = ()) -> None:
        """Keep the result (JSON-ready) of a training whose `files` are written; now it exists."""
        text = json.dumps({**result, "files": list(files)}, sort_keys=True)
        self._publish("done.json", lambda p: void(p.write_text(text, encoding="utf-8")), 1)

    def write_dynamics(self, dynamics: Dynamics, rows: Int64) -> str:
        """Keep dynamics as Parquet, a line per logging point and row; rows: example ids [N]."""
        points, n = len(dynamics), dynamics.rows
        columns: dict[str, npt.NDArray[Any]] = {
            f.name: np.repeat(getattr(dynamics, f.name), n)
            if f.name in _POINT
            else getattr(dynamics, f.name).ravel()
            for f in fields(dynamics)
        }
        columns["train_id"] = np.tile(rows, points)
        table = pa.table(columns)
        return self._publish("dynamics.parquet", _parquet(table), points * n)

    def read_dynamics(self, rows: int) -> Dynamics:
        """The dynamics of `rows` rows, in the order in which they were written."""
        table = pq.read_table(self._path("dynamics.parquet"))
        found: dict[str, npt.NDArray[Any]] = {}
        for f in fields(Dynamics):
            column = table[f.name].to_numpy().reshape(-1, rows)
            found[f.name] = column[:, 0] if f.name in _POINT else column
        return Dynamics(**found)

    def write_arrays(
        self, name: str, arrays: Mapping[str, npt.NDArray[Any]], about: Mapping[str, Any]
    ) -> str:
        """Keep arrays as safetensors; about: what to say of them (JSON-ready)."""
        from safetensors.numpy import save_file

        made = {k: np.ascontiguousarray(v) for k, v in arrays.items()}
        meta = {"about": json.dumps(about, sort_keys=True)}
        return self._publish(f"{name}.safetensors", lambda p: save_file(made, p, metadata=meta), len(made))

    def read_arrays(self, name: str) -> dict[str, npt.NDArray[Any]]:
        """The arrays of `write_arrays`."""
        from safetensors.numpy import load_file

        found: dict[str, npt.NDArray[Any]] = load_file(self._path(f"{name}.safetensors"))
        return found

    def write_checkpoints(self, checkpoints: Sequence[Checkpoint]) -> str:
        """Keep the heads of checkpoints, with steps and learning rates."""
        arrays = {
            f"{k:02d}.{part}.{layer}": array
            for k, c in enumerate(checkpoints)
            for layer, pair in enumerate(c.layers)
            for part, array in zip(("weight", "bias"), pair, strict=True)
        }
        about = [{"step": c.step, "epoch": c.epoch, "learning_rate": c.learning_rate,
                  "encoder_rate": c.encoder_rate} for c in checkpoints]  # fmt: skip
        return self.write_arrays("checkpoints", arrays, {"checkpoints": about})

    def _path(self, name: str) -> Path:
        return here(self.folder / name)

    def _publish(self, name: str, write: Any, rows: int) -> str:
        publish(
            self.ws.root, self._path(name), write, kind=KIND, key=self.key, rows=rows,
            producer="train-classifiers", parents=self.parents,
        )  # fmt: skip
        return name


def _parquet(table: pa.Table) -> Callable[[Path], None]:
    return lambda part: pq.write_table(table, part, compression="zstd")


def write_subsets(
    ws: Workspace, key: str, names: Sequence[str], kept: Sequence[Int64], parents: tuple[str, ...]
) -> str:
    """Keep which rows (positions) every subset of a study holds; returns the file's relative path.

    A row group per subset, so that whoever wants one reads no other.
    """
    path = ws.classifier_dir(key) / "subsets.parquet"
    schema = pa.schema({"subset": pa.string(), "rows": pa.list_(pa.int32())})

    def write(part: Path) -> None:
        with pq.ParquetWriter(part, schema, compression="zstd") as out:
            for name, rows in zip(names, kept, strict=True):
                held = pa.ListArray.from_arrays(pa.array([0, len(rows)], pa.int32()), rows.astype(np.int32))
                out.write_table(pa.table([pa.array([name]), held], schema=schema))

    if not is_intact(path):
        publish(
            ws.root, path, write, kind=KIND, key=key, rows=len(names), producer="prune-subsets",
            parents=parents,
        )  # fmt: skip
    return ws.relative(path)


def read_subset(ws: Workspace, subsets: str, name: str) -> Int64:
    """Positions of the rows of one subset. Raises KeyError for one that is not there."""
    # Row groups of other subsets are passed over by the statistics of their names.
    table = pq.read_table(here(ws.root / subsets), filters=[("subset", "==", name)])
    if len(table) != 1:
        raise KeyError(f"{len(table)} subsets are named {name!r}")
    found: Int64 = table["rows"].combine_chunks().flatten().to_numpy().astype(np.int64)
    return found
