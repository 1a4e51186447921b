"""Storing rows as they were read: new ones in blocks, all of them in a version file.

Beside the rows themselves only their identities are held: texts and records are written in parts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from nncift_core.hashing import (
    canonical_json,
    content_hash,
    content_id,
    digest,
    digest_in_parts,
    example_id,
    int63,
)
from nncift_core.records import Example
from nncift_core.store.datasets import BLOCK_SCHEMA, VERSION_SCHEMA, blocks_of
from nncift_core.store.files import is_intact, publish
from nncift_core.store.references import DatasetRef
from nncift_core.store.workspace import Workspace

Int64 = npt.NDArray[np.int64]

# Rows whose texts and records are held as columns at once.
_PART = 1 << 14
_IDENTITY = pa.schema(
    [BLOCK_SCHEMA.field(n) for n in ("example_id", "content_id", "text_id", "content_hash")]
)


def identify(examples: Sequence[Example], dataset: str, role: str) -> pa.Table:
    """Both identities of every row: example_id, content_id, text_id, content_hash, [len(examples)]."""
    seen: Counter[str] = Counter()
    return pa.Table.from_batches(
        (_identities(examples[start:stop], dataset, role, seen) for start, stop in _parts(len(examples))),
        schema=_IDENTITY,
    )


def _identities(examples: Sequence[Example], dataset: str, role: str, seen: Counter[str]) -> pa.RecordBatch:
    """seen: how often each content stood before these; counted on."""
    columns: dict[str, list[Any]] = {name: [] for name in _IDENTITY.names}
    for e in examples:
        hash_ = content_hash(e.prompt, e.response)
        columns["example_id"].append(example_id(dataset, role, hash_, seen[hash_]))
        seen[hash_] += 1
        columns["content_id"].append(content_id(hash_))
        columns["content_hash"].append(hash_)
        columns["text_id"].append(int63(f"{len(e.prompt)}\x1f{e.prompt}{e.response}"))
    return pa.RecordBatch.from_pydict(columns, schema=_IDENTITY)


def store_dataset(
    ws: Workspace, examples: Sequence[Example], *, dataset: str, role: str, block_rows: int, fingerprint: str
) -> DatasetRef:
    """Append the rows that are new, in blocks of at most `block_rows`, and write the version file.

    Returns a reference whose `new_rows` counts the appended rows.
    """
    ids = identify(examples, dataset, role)
    folder = ws.dataset_dir(role, dataset)
    with ws.turn(f"dataset-{folder.name}"):
        new = np.flatnonzero(~_known(folder, ids))
        number = 1 + max((int(p.name[:6]) for p in (folder / "blocks").glob("*.parquet")), default=-1)
        for start in range(0, len(new), block_rows):
            part = _block(examples, ids, new[start : start + block_rows])
            _write_block(ws, folder, number, part, fingerprint)
            number += 1
        version = digest_in_parts(
            (_values(examples, ids, name, *part) for part in _parts(len(examples)))
            for name in VERSION_SCHEMA.names
        )
        path = folder / "versions" / f"{version}.parquet"
        if not is_intact(path):
            publish(
                ws.root,
                path,
                lambda p: _write_version(p, examples, ids),
                kind="dataset-version",
                key=version,
                rows=len(ids),
                producer="ingest",
                parents=tuple(ws.relative(b) for b in blocks_of(folder)),
                meta={"dataset": dataset, "role": role},
            )
    return DatasetRef(
        role=role, dataset=dataset, version=version, path=ws.relative(path), rows=len(ids), new_rows=len(new)
    )


def _parts(rows: int) -> Iterator[tuple[int, int]]:
    return ((start, min(start + _PART, rows)) for start in range(0, rows, _PART))


def _known(folder: Path, ids: pa.Table) -> npt.NDArray[np.bool_]:
    """Which rows [rows] are in the blocks of `folder`, by example id and text."""
    names = ["example_id", "text_id"]
    own = _pairs(ids)
    stored = [_pairs(pq.read_table(block, columns=names)) for block in blocks_of(folder)]
    known = np.concatenate([np.empty((0, 2), np.int64), *stored])
    _, which = np.unique(np.concatenate([known, own]), axis=0, return_inverse=True)
    is_known = np.zeros(len(known) + len(own), bool)
    is_known[which[: len(known)]] = True
    found: npt.NDArray[np.bool_] = is_known[which[len(known) :]]
    return found


def _pairs(table: pa.Table) -> Int64:
    return np.stack([table["example_id"].to_numpy(), table["text_id"].to_numpy()], axis=1)


def _block(examples: Sequence[Example], ids: pa.Table, rows: Int64) -> pa.Table:
    """The block of the rows at `rows` [k], BLOCK_SCHEMA."""
    own, some = ids.take(pa.array(rows)), [examples[k] for k in rows.tolist()]
    texts = {"prompt": [e.prompt for e in some], "response": [e.response for e in some]}
    return pa.table({n: texts[n] if n in texts else own[n] for n in BLOCK_SCHEMA.names}, schema=BLOCK_SCHEMA)


def _write_block(ws: Workspace, folder: Path, number: int, part: pa.Table, fingerprint: str) -> None:
    key = digest(part["content_hash"].to_pylist())
    publish(
        ws.root,
        folder / "blocks" / f"{number:06d}-{key[:12]}.parquet",
        lambda p: pq.write_table(part, p, compression="zstd"),
        kind="dataset-block",
        key=key,
        rows=len(part),
        producer="ingest",
        parents=(f"source:{fingerprint}",),
    )


def _values(examples: Sequence[Example], ids: pa.Table, name: str, start: int, stop: int) -> list[Any]:
    """A column of the version file, of the rows start to stop."""
    if name in ids.column_names:
        found: list[Any] = ids[name][start:stop].to_pylist()
        return found
    if name == "record":
        return [canonical_json(e.record) for e in examples[start:stop]]
    return [getattr(e, name) for e in examples[start:stop]]


def _write_version(path: Path, examples: Sequence[Example], ids: pa.Table) -> None:
    with pq.ParquetWriter(path, VERSION_SCHEMA, compression="zstd") as writer:
        for part in _parts(len(examples)):
            columns = {name: _values(examples, ids, name, *part) for name in VERSION_SCHEMA.names}
            writer.write_table(pa.table(columns, schema=VERSION_SCHEMA))
