"""Vectors by content, computed once and stored in shards: embeddings, and features of influence functions."""

from __future__ import annotations

import base64
import threading
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from nncift_core.errors import RunError
from nncift_core.hashing import digest
from nncift_core.ids import Places
from nncift_core.store.files import publish
from nncift_core.store.remote.mirrors import bring, each, here
from nncift_core.store.shards import Signature, read_checked, read_footer, readable
from nncift_core.store.workspace import Workspace

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]

# In a file's footer: the content ids of its vectors.
_IDS = b"content_ids"


class VectorStore:
    """Vectors under one key: an encoder's, or a function's on one side of the matrix.

    `refresh` sees shards that others have written since.
    """

    def __init__(self, ws: Workspace, key: str, kind: Literal["embedding", "features"] = "embedding") -> None:
        self.ws, self.key, self.kind = ws, key, kind
        self.folder = ws.embedding_dir(key) if kind == "embedding" else ws.feature_dir(key)
        self._places = Places()
        self._seen: dict[str, Signature] = {}
        self._lock = threading.RLock()
        self.refresh()

    def refresh(self) -> None:
        """Index shards written since the last look; unfinished and damaged ones do not count."""
        with self._lock:
            found = readable(self.folder)
            # A place in a file that is gone, or was written anew, says nothing.
            kept = all(found.get(name) == seen for name, seen in self._seen.items())
            # Whoever reads meanwhile keeps what it has seen.
            places, known = (self._places.copy(), self._seen) if kept else (Places(), {})
            new = [n for n in found if n not in known]
            for name, ids in zip(new, each(self.folder, new, self._contents), strict=True):
                places.add(name, ids)
            self._places, self._seen = places, found

    def _contents(self, name: str) -> Int64:
        return contents_of(self.folder / name)

    def missing(self, content_ids: Int64) -> Int64:
        """Those of `content_ids` that have no vector yet, in order."""
        found: Int64 = content_ids[~self._places.has(content_ids)]
        return found

    def write(
        self,
        content_ids: Int64,
        vectors: Float32,
        parents: tuple[str, ...] = (),
        counts: dict[str, int] | None = None,
    ) -> str:
        """Store vectors [n, d] of `content_ids` [n]; returns the shard's relative path.

        counts: what a user should hear of (truncated texts), kept in the manifest. Raises ValueError
        for vectors that are not finite.
        """
        if not np.isfinite(vectors).all():
            raise ValueError(f"{int((~np.isfinite(vectors)).any(axis=1).sum())} vectors are not finite")
        key = digest([self.key, content_ids.tolist()])
        flat = pa.array(np.ascontiguousarray(vectors, dtype=np.float32).ravel())
        table = pa.table(
            {
                "content_id": pa.array(content_ids),
                "embedding": pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1]),
            }
        )
        path = self.folder / f"{key}.parquet"
        publish(
            self.ws.root,
            path,
            lambda p: write_vectors(table, p),
            kind=self.kind,
            key=key,
            rows=len(content_ids),
            producer="embed" if self.kind == "embedding" else "features",
            parents=parents,
            meta={"encoder" if self.kind == "embedding" else "function": self.key, **(counts or {})},
        )
        self.refresh()
        return self.ws.relative(path)

    def load(self, content_ids: Int64) -> Float32:
        """Vectors [n, d] of `content_ids` [n], in that order; raises RunError if one is missing."""
        places = self._places
        if not places.has(content_ids).all():
            self.refresh()
            places = self._places
        files, positions = places.find(content_ids)
        if (files < 0).any():
            lost = int(content_ids[files < 0][0])
            raise RunError(f"no {self.kind} of content {lost} under {self.key[:8]}; run again to compute it")
        bring(self.folder, (self.folder / places.names[f] for f in np.unique(files).tolist()))
        out: Float32 | None = None
        for file in np.unique(files).tolist():
            path = self.folder / places.names[file]
            column = read_checked(path, ["embedding"])["embedding"].combine_chunks()
            values = column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)
            if out is None:
                out = np.empty((len(content_ids), values.shape[1]), np.float32)
            here = files == file
            out[here] = values[positions[here]]
        return out if out is not None else np.empty((0, 0), np.float32)

    def files(self, content_ids: Int64) -> tuple[str, ...]:
        """Relative paths of the shards that hold `content_ids`; those without a vector have none."""
        places = self._places
        files = np.unique(places.find(content_ids)[0])
        names = sorted(places.names[n] for n in files.tolist() if n >= 0)
        return tuple(self.ws.relative(self.folder / n) for n in names)


def contents_of(path: Path) -> Int64:
    """Content ids [n] of a shard's vectors, in order; reads no vectors."""
    told = (read_footer(path).metadata or {}).get(_IDS)
    if told is not None:
        return np.frombuffer(base64.b64decode(told), "<i8").astype(np.int64)
    # Of an older store.
    ids: Int64 = pq.read_table(here(path), columns=["content_id"])["content_id"].to_numpy()
    return ids


def write_vectors(table: pa.Table, path: Path) -> None:
    """Write a shard's table, `content_id` and `embedding`, to `path`."""
    ids = table["content_id"].to_numpy().astype("<i8")
    table = table.replace_schema_metadata({_IDS: base64.b64encode(ids.tobytes())})
    pq.write_table(table, path, compression="zstd", use_dictionary=False, write_page_checksum=True)


def living_part(path: Path, living: Int64) -> pa.Table:
    """A shard's table without the vectors of contents that are not among `living`; the others bit-equal."""
    table = pq.read_table(here(path))
    return table.filter(pa.array(np.isin(table["content_id"].to_numpy(), living)))
