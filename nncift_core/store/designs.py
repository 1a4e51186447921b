"""Label designs: which rows and columns of the exact matrix were chosen, out of which ones.

A design is kept while rows come and go within `growth`, so that appending rows changes no label, no
estimator and no tile (design decision 2).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from nncift_core.hashing import digest
from nncift_core.store.files import is_intact, publish, write_json
from nncift_core.store.references import DesignRef
from nncift_core.store.workspace import Workspace

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class StoredDesign:
    """Labelled rows [R] and columns [C], and all rows [M] and columns [N] they were drawn from."""

    ref: DesignRef
    label_rows: Int64
    label_columns: Int64
    all_rows: Int64
    all_columns: Int64

    def growth(self, rows: Int64, columns: Int64) -> float:
        """Largest share of rows or columns that came or went since the design was drawn."""
        return max(_change(self.all_rows, rows), _change(self.all_columns, columns))


def _change(old: Int64, new: Int64) -> float:
    kept = len(np.intersect1d(old, new))
    return max((len(new) - kept) / len(old), (len(old) - kept) / len(old))


def find(ws: Workspace, family: str, rows: Int64, columns: Int64, growth: float) -> StoredDesign | None:
    """The design these rows and columns use: the one drawn from them, the one they used before, else
    the nearest within `growth`; None when a new one is needed. Reads only.

    rows [M], columns [N]: content ids.
    """
    folder = ws.design_dir(family)
    exact = folder / f"{_key(family, rows, columns)}.parquet"
    if is_intact(exact):
        return _load(ws, exact, reused=False)
    used = _used_before(exact)
    if used is not None and is_intact(folder / used):
        return _load(ws, folder / used, reused=True)
    known = [_load(ws, p, reused=True) for p in sorted(folder.glob("*.parquet")) if is_intact(p)]
    near = [(d.growth(rows, columns), d.ref.key, d) for d in known]
    near = [n for n in near if n[0] <= growth]
    return min(near, key=lambda n: n[:2])[2] if near else None


def find_or_make(
    ws: Workspace,
    family: str,
    rows: Int64,
    columns: Int64,
    growth: float,
    draw: Callable[[Int64, Int64], tuple[Int64, Int64]],
    parents: tuple[str, ...] = (),
) -> StoredDesign:
    """What `find` gives, else a new design by `draw` (which returns labelled rows and columns).

    A kept design is noted for these rows and columns, so that a later design cannot take its place.
    """
    exact = ws.design_dir(family) / f"{_key(family, rows, columns)}.parquet"
    found = find(ws, family, rows, columns, growth)
    if found is not None:
        if found.ref.reused and _used_before(exact) != f"{found.ref.key}.parquet":
            write_json(exact.with_suffix(".uses.json"), {"design": f"{found.ref.key}.parquet"})
        return found
    label_rows, label_columns = draw(rows, columns)
    labelled = [np.isin(rows, label_rows), np.isin(columns, label_columns)]
    table = pa.table(
        {
            "side": pa.array(["row"] * len(rows) + ["column"] * len(columns)).dictionary_encode(),
            "content_id": pa.array(np.concatenate([rows, columns])),
            "labelled": pa.array(np.concatenate(labelled)),
        }
    )
    publish(
        ws.root,
        exact,
        lambda p: pq.write_table(table, p, compression="zstd"),
        kind="label-design",
        key=exact.stem,
        rows=len(table),
        producer="exact-influence",
        parents=parents,
        meta={"label_rows": len(label_rows), "label_columns": len(label_columns)},
    )
    return _load(ws, exact, reused=False)


def _used_before(exact: Path) -> str | None:
    """File name of the design that the rows and columns of `exact` were given earlier."""
    try:
        name = json.loads(exact.with_suffix(".uses.json").read_text(encoding="utf-8"))["design"]
    except (FileNotFoundError, json.JSONDecodeError, KeyError):
        return None
    return Path(str(name)).name


def _key(family: str, rows: Int64, columns: Int64) -> str:
    return digest([family, np.sort(rows).tolist(), np.sort(columns).tolist()])


def _load(ws: Workspace, path: Path, *, reused: bool) -> StoredDesign:
    t = pq.read_table(path)
    side = np.array(t["side"].to_pylist()) == "row"
    ids, labelled = t["content_id"].to_numpy(), t["labelled"].to_numpy(zero_copy_only=False)
    rows, columns = ids[side & labelled], ids[~side & labelled]
    ref = DesignRef(
        key=path.stem, path=ws.relative(path), rows=len(rows), columns=len(columns), reused=reused
    )
    return StoredDesign(ref, rows, columns, ids[side], ids[~side])
