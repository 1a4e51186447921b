"""Small workspaces as valuations leave them, made in a moment: values are a formula of the contents."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nncift_core.hashing import content_hash, content_id, digest
from nncift_core.records import Example
from nncift_core.store.dataset_writer import store_dataset
from nncift_core.store.datasets import Dataset
from nncift_core.store.designs import find_or_make
from nncift_core.store.files import MANIFEST_SUFFIX, publish, void
from nncift_core.store.references import EstimatorRef
from nncift_core.store.runs import attempt, publish_table
from nncift_core.store.segments import SegmentStore, rectangles
from nncift_core.store.vectors import VectorStore
from nncift_core.store.workspace import Workspace

FUNCTION, ENCODER = "f" * 32, "e" * 32
TARGET = ("t1", "t2")
CONFIG = {
    "seed": 3,
    "pool": {"source": "pool.jsonl"},
    "target": {"source": "target.jsonl"},
    "influence": {"function": "made", "label_fraction": 0.5, "made": {"width": 7}},
    "encoder": {"model": "an-encoder", "revision": "abc"},
    "language_model": {"model": "a-teacher", "dtype": "float32"},
}
VERSIONS = {"nncift": "1.2.3", "git": "0123456789"}


def contents(names: Sequence[str]) -> np.ndarray:
    """Content ids of the rows called so."""
    return np.array([content_id(content_hash(f"prompt {n}", f"response {n}")) for n in names], np.int64)


def values(rows: np.ndarray, columns: np.ndarray, factor: float = 1.0) -> np.ndarray:
    """Influence [rows, columns], the same whenever it is asked for."""
    return (factor * ((rows % 1009)[:, None] * 0.37 + (columns % 997)[None, :] * 0.11)).astype(np.float32)


def vectors(ids: np.ndarray) -> np.ndarray:
    """Vectors [n, 3] of contents."""
    return np.stack([ids % 101, ids % 103, ids % 107], axis=1).astype(np.float32)


def ingest(ws: Workspace, role: str, names: Sequence[str], block_rows: int = 3) -> Dataset:
    """A data set of rows called so."""
    examples = [Example(f"prompt {n}", f"response {n}", k) for k, n in enumerate(names)]
    ref = store_dataset(
        ws, examples, dataset=role, role=role, block_rows=block_rows, fingerprint=f"{role}-file"
    )
    return Dataset(ws, ref)


def complete(store: SegmentStore, rows: np.ndarray, columns: np.ndarray, factor: float, **about: Any) -> int:
    """Write the values that a store lacks; returns how many."""
    missing = ~store.coverage(rows, columns)
    for r, k in rectangles(missing):
        store.write_tile(rows[r], columns[k], values(rows[r], columns[k], factor), producer="made", **about)
    return int(missing.sum())


def valuation(
    ws: Workspace,
    pool: Sequence[str],
    run_id: str = "",
    *,
    estimator: str = "a" * 32,
    series: str = "",
    config: dict[str, Any] = CONFIG,
    finish: bool = True,
    **reference: Any,
) -> dict[str, int]:
    """A run over the rows `pool`: embeddings, some values exact, all estimated, tables, subset, report.

    Without finish it is broken off before its result. Returns what was computed, by stage.
    """
    run_id = run_id or hashlib.sha256(repr(pool).encode()).hexdigest()[:16]
    data = [ingest(ws, "pool", pool), ingest(ws, "target", TARGET)]
    with attempt(ws, run_id, config, VERSIONS, series) as current:
        rows, columns = data[0].contents, data[1].contents
        valued = tuple(d.ref.path for d in data)
        done: dict[str, int] = {}
        embeddings = VectorStore(ws, ENCODER)
        wanted = embeddings.missing(np.concatenate([rows, columns]))
        done["embed"] = len(wanted)
        if len(wanted):
            embeddings.write(wanted, vectors(wanted), valued)
        labelled = rows[rows % 2 == 0] if len(rows[rows % 2 == 0]) else rows[:1]
        design = find_or_make(ws, "d" * 32, rows, columns, 0.25, lambda r, c: (labelled, columns), valued)
        exact, parents = SegmentStore(ws, "exact", FUNCTION), {"parents": valued}
        done["exact"] = complete(exact, labelled, columns, 1.0, **parents)
        ref = fitted(ws, estimator, (design.ref.path, *exact.files(labelled)), **reference)
        done["fit"] = int(ref[1])
        estimates = SegmentStore(ws, "estimate", estimator)
        done["estimate"] = complete(estimates, rows, columns, 2.0, parents=(ref[0].path,))
        if not finish:
            return done
        tables = publish_tables(ws, run_id, data, labelled, (design.ref.path, ref[0].path, *valued))
        matrix = {
            "function": "made", "function_key": FUNCTION, "encoder_key": ENCODER, "design": "block",
            "predictor": "mlp", "learned": True, "half_width": None, "estimator": ref[0].model_dump(),
            "exact": exact.files(rows), "estimates": estimates.files(rows), "members": tables.pop("members"),
            "keys": {"encoder": ENCODER, "function": FUNCTION, "state": None}, "base_dir": "",
        }  # fmt: skip
        subset = ws.relative(ws.subset_file(run_id))
        text(ws, subset, "subset", digest([run_id]), (tables["selection"],))
        current.publish_result(
            {
                "run_id": run_id,
                "datasets": [
                    {**d.ref.model_dump(mode="json"), "blocks": [ws.relative(b) for b in d.blocks]}
                    for d in data
                ],
                "matrix": matrix,
                "tables": tables,
                "facts": {"subset": subset, "command": "nncift run job.toml"},
            }
        )
        text(
            ws,
            ws.relative(ws.report_file(run_id)),
            "report",
            digest([run_id, "report"]),
            (ws.relative(ws.result_file(run_id)),),
        )
    return done


def fitted(
    ws: Workspace, key: str, parents: tuple[str, ...], architecture: str = "mlp", **more: Any
) -> tuple[EstimatorRef, bool]:
    """An estimator's file, and whether it was made now."""
    path = ws.network_file(key)
    ref = EstimatorRef(
        key=key,
        path=ws.relative(path),
        architecture=architecture,
        learned=True,
        chosen=False,
        labels=2,
        **more,
    )
    fresh = not path.is_file()
    if fresh:
        publish(
            ws.root, path, lambda p: void(p.write_text(key)), kind="estimator", key=key, rows=2,
            producer="train-influence-network", parents=parents, meta={"reference": ref.model_dump()},
        )  # fmt: skip
    return ref, fresh


def text(ws: Workspace, artifact: str, kind: str, key: str, parents: tuple[str, ...] = ()) -> str:
    """A published text file."""
    publish(
        ws.root, ws.root / artifact, lambda p: void(p.write_text(key)), kind=kind, key=key, rows=1,
        producer="made", parents=parents,
    )  # fmt: skip
    return artifact


def publish_tables(
    ws: Workspace, run_id: str, data: list[Dataset], labelled: np.ndarray, parents: tuple[str, ...]
) -> dict[str, str]:
    """Members, selection and scores."""
    sides = [("row", data[0], labelled), ("column", data[1], data[1].contents)]
    members = pa.concat_tables(
        [
            pa.table(
                {
                    "side": [side] * len(d.content_ids),
                    "example_id": d.example_ids,
                    "content_id": d.content_ids,
                    "labelled": np.isin(d.content_ids, some),
                    "candidate": [True] * len(d.content_ids),
                }
            )
            for side, d, some in sides
        ]
    )
    n = len(data[0].example_ids)
    scores = pa.table(
        {"run_id": [run_id] * n, "train_id": data[0].example_ids, "score": np.arange(n, dtype=float)}
    )
    first = {"run_id": [run_id], "rank": [1], "train_id": data[0].example_ids[:1]}
    selection = pa.table({**first, "gain": [1.0], "score": [1.0]})
    found = {"members": members, "selection": selection, "scores": scores}
    return {
        name: publish_table(
            ws, run_id, name, digest([run_id, name]), table, producer="select", parents=parents
        )
        for name, table in found.items()
    }


def tree(root: Path) -> dict[str, bytes]:
    """Every file of a workspace but locks, half-written ones and marks of collection; of a manifest all but
    the file's inode and time, which a copy of the folder has anew."""
    return {
        p.relative_to(root).as_posix(): _without_stamp(p)
        for p in sorted(root.rglob("*"))
        if p.is_file() and p.suffix not in (".lock", ".part") and p.name != "collected.json"
    }


def _without_stamp(path: Path) -> bytes:
    if not path.name.endswith(MANIFEST_SUFFIX):
        return path.read_bytes()
    found = json.loads(path.read_text(encoding="utf-8"))
    return json.dumps({k: v for k, v in found.items() if k != "stamp"}, sort_keys=True).encode()


def stored_pairs(ws: Workspace, kind: str) -> dict[tuple[int, int], bytes]:
    """Every stored value's bits by pair, whatever files hold it."""
    found = {}
    for path in sorted(ws.root.glob(f"{kind}/*/*.parquet")):
        t = pq.read_table(path)
        bits = t["value"].to_numpy().view(np.uint32)
        for r, c, v in zip(t["row_content"].to_pylist(), t["column_content"].to_pylist(), bits, strict=True):
            found[r, c] = v.tobytes()
    return found
