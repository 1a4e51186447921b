"""Label designs: which pairs of the exact matrix were chosen, out of which rows and columns.

A design is kept while rows come and go within `growth`, so that appending rows changes no label, no
estimator and no tile (design decision 2). A refresh keeps it whatever the growth (`note_design`), or adds
labels to it: an extended design beside it, which names it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nncift_core.errors import IntegrityError
from nncift_core.hashing import digest, digest_of
from nncift_core.store.files import is_intact, publish, read_manifest, write_json
from nncift_core.store.references import DesignRef
from nncift_core.store.workspace import Workspace

Int64 = npt.NDArray[np.int64]


Kind = Literal["block", "scattered", "all-targets"]


@dataclass(frozen=True)
class LabelCost:
    """What the labels of a draw cost, and what the block of u x u would have cost, in `unit`s."""

    cost: float
    block_cost: float
    unit: str


@dataclass(frozen=True)
class Drawn:
    """A fresh draw: labelled rows [R] and columns [C]; of scattered pairs, the pairs [n] that touch them."""

    rows: Int64
    columns: Int64
    kind: Kind = "block"
    pair_rows: Int64 | None = None
    pair_columns: Int64 | None = None
    cost: LabelCost | None = None


@dataclass(frozen=True)
class StoredDesign:
    """Labelled rows [R] and columns [C], and all rows [M] and columns [N] they were drawn from.

    pair_rows, pair_columns [n]: the labelled pairs of a scattered design; of others, whose labels are all
    pairs of labelled rows and columns, both are empty.
    """

    ref: DesignRef
    label_rows: Int64
    label_columns: Int64
    all_rows: Int64
    all_columns: Int64
    pair_rows: Int64
    pair_columns: Int64

    @property
    def kind(self) -> Kind:
        """Which of the designs it is."""
        return self.ref.kind

    def pairs_among(self, rows: Int64, columns: Int64) -> tuple[Int64, Int64]:
        """The scattered pairs whose row is among `rows` and whose column is among `columns`."""
        here = np.isin(self.pair_rows, rows) & np.isin(self.pair_columns, columns)
        return self.pair_rows[here], self.pair_columns[here]

    def growth(self, rows: Int64, columns: Int64) -> float:
        """Largest share of rows or columns that came or went since the design was drawn."""
        return max(_change(self.all_rows, rows), _change(self.all_columns, columns))


def _change(old: Int64, new: Int64) -> float:
    kept = len(np.intersect1d(old, new))
    return max((len(new) - kept) / len(old), (len(old) - kept) / len(old))


def find(ws: Workspace, family: str, rows: Int64, columns: Int64, growth: float) -> StoredDesign | None:
    """The design these rows and columns use: the one they used before, the one drawn from them, else
    the nearest within `growth`; None when a new one is needed. Reads only.

    rows [M], columns [N]: content ids.
    """
    folder = ws.design_dir(family)
    exact = folder / f"{_key(family, rows, columns)}.parquet"
    used = _used_before(exact)
    if used is not None and is_intact(folder / used):
        return _load(ws, folder / used, reused=True)
    if is_intact(exact):
        return _load(ws, exact, reused=False)
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
    draw: Callable[[Int64, Int64], Drawn | tuple[Int64, Int64]],
    parents: tuple[str, ...] = (),
) -> StoredDesign:
    """What `find` gives, else a new design by `draw` (labelled rows and columns alone are a block).

    A kept design is noted for these rows and columns, so that a later design cannot take its place.
    """
    exact = ws.design_dir(family) / f"{_key(family, rows, columns)}.parquet"
    found = find(ws, family, rows, columns, growth)
    if found is not None:
        if found.ref.reused:
            note_design(ws, family, rows, columns, found.ref.key)
        return found
    drawn = draw(rows, columns)
    drawn = drawn if isinstance(drawn, Drawn) else Drawn(*drawn)
    _publish(ws, exact, rows, columns, drawn, parents)
    return _load(ws, exact, reused=False)


def load_design(ws: Workspace, family: str, key: str) -> StoredDesign:
    """The design of `family` under `key`, as one that was drawn earlier.

    Raises IntegrityError when it is not there or damaged.
    """
    path = ws.design_dir(family) / f"{key}.parquet"
    if not is_intact(path):
        raise IntegrityError(f"{ws.relative(path)}: the label design is missing or damaged")
    return _load(ws, path, reused=True)


def note_design(ws: Workspace, family: str, rows: Int64, columns: Int64, key: str) -> None:
    """From now on these rows [M] and columns [N] use the design under `key`, whatever was drawn from them."""
    exact = ws.design_dir(family) / f"{_key(family, rows, columns)}.parquet"
    design = f"{key}.parquet"
    if (_used_before(exact) or exact.name) != design:
        write_json(exact.with_suffix(".uses.json"), {"design": design})


def extend_design(
    ws: Workspace,
    family: str,
    base: StoredDesign,
    rows: Int64,
    columns: Int64,
    added: Drawn,
    parents: tuple[str, ...] = (),
) -> StoredDesign:
    """`base` with the labels of `added` beside its own, as drawn from `rows` [M] and `columns` [N].

    added: new labelled rows and columns, and new pairs of a scattered design. Labelled rows and columns of
    `base` that have gone stay in it, for they may come back. The same call gives the same design.
    """
    key = digest(["extends", base.ref.key, _key(family, rows, columns)])
    path = ws.design_dir(family) / f"{key}.parquet"
    if not is_intact(path):
        merged = Drawn(
            np.union1d(base.label_rows, added.rows),
            np.union1d(base.label_columns, added.columns),
            base.kind,
            _both(base.pair_rows, added.pair_rows),
            _both(base.pair_columns, added.pair_columns),
        )
        sides = _with(rows, base.label_rows), _with(columns, base.label_columns)
        _publish(ws, path, *sides, merged, (base.ref.path, *parents), extends=base.ref.key)
    return _load(ws, path, reused=False)


def _both(old: Int64, new: Int64 | None) -> Int64:
    return old if new is None else np.concatenate([old, new])


def _with(ids: Int64, more: Int64) -> Int64:
    """`ids`, then those of `more` that it lacks."""
    return np.concatenate([ids, more[~np.isin(more, ids)]])


def _publish(
    ws: Workspace,
    path: Path,
    rows: Int64,
    columns: Int64,
    drawn: Drawn,
    parents: tuple[str, ...],
    extends: str = "",
) -> None:
    table = _table(rows, columns, drawn)
    publish(
        ws.root,
        path,
        lambda p: pq.write_table(table, p, compression="zstd"),
        kind="label-design",
        key=path.stem,
        rows=len(table),
        producer="exact-influence",
        parents=parents,
        meta={
            "design": drawn.kind,
            "label_rows": len(drawn.rows),
            "label_columns": len(drawn.columns),
            **(asdict(drawn.cost) if drawn.cost else {}),
            **({"extends": extends} if extends else {}),
        },
    )


def _table(rows: Int64, columns: Int64, drawn: Drawn) -> pa.Table:
    """One line per row and per column, then one per scattered pair: its row and its `pair_column`."""
    none = np.empty(0, np.int64)
    pair_rows = none if drawn.pair_rows is None else drawn.pair_rows
    pair_columns = none if drawn.pair_columns is None else drawn.pair_columns
    sides = {"row": len(rows), "column": len(columns), "pair": len(pair_rows)}
    labelled = [np.isin(rows, drawn.rows), np.isin(columns, drawn.columns), np.ones(len(pair_rows), bool)]
    return pa.table(
        {
            "side": pa.DictionaryArray.from_arrays(
                np.repeat(np.arange(3, dtype=np.int8), list(sides.values())), list(sides)
            ),
            "content_id": pa.array(np.concatenate([rows, columns, pair_rows])),
            "labelled": pa.array(np.concatenate(labelled)),
            "pair_column": pa.concat_arrays(
                [pa.nulls(len(rows) + len(columns), pa.int64()), pa.array(pair_columns, pa.int64())]
            ),
        }
    )


def _used_before(exact: Path) -> str | None:
    """File name of the design that the rows and columns of `exact` were given earlier."""
    try:
        name = json.loads(exact.with_suffix(".uses.json").read_text(encoding="utf-8"))["design"]
    except (FileNotFoundError, json.JSONDecodeError, KeyError):
        return None
    return Path(str(name)).name


def _key(family: str, rows: Int64, columns: Int64) -> str:
    return digest_of(family, np.sort(rows), np.sort(columns))


def _load(ws: Workspace, path: Path, *, reused: bool) -> StoredDesign:
    t = pq.read_table(path)
    names = t["side"].cast(pa.string())
    side = {s: pc.equal(names, s).to_numpy(zero_copy_only=False) for s in ("row", "column", "pair")}
    ids, labelled = t["content_id"].to_numpy(), t["labelled"].to_numpy(zero_copy_only=False)
    rows, columns = ids[side["row"] & labelled], ids[side["column"] & labelled]
    # Designs of an older store are blocks: they have neither pairs nor costs.
    pair_columns = np.empty(0, np.int64)
    if side["pair"].any():
        pair_columns = t.filter(pa.array(side["pair"]))["pair_column"].to_numpy()
    manifest = read_manifest(path)
    meta = manifest.meta if manifest else {}
    kind = meta.get("design", "block")
    ref = DesignRef(
        key=path.stem,
        path=ws.relative(path),
        rows=len(rows),
        columns=len(columns),
        reused=reused,
        kind=kind,
        pairs=len(pair_columns) if kind == "scattered" else len(rows) * len(columns),
        cost=meta.get("cost"),
        block_cost=meta.get("block_cost"),
        cost_unit=meta.get("unit", ""),
        extends=meta.get("extends", ""),
    )
    return StoredDesign(
        ref, rows, columns, ids[side["row"]], ids[side["column"]], ids[side["pair"]], pair_columns
    )
