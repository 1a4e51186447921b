"""Data sets that an audit derives from a job's: some of its target rows, and its pool with planted rows.

They are stored like any other, under names of their own where rows are new, so that values of unchanged rows
are reused by their content.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from nncift_core.attribution import lowest, swap_partners
from nncift_core.config import Config
from nncift_core.hashing import content_hash, content_id, digest
from nncift_core.records import Example
from nncift_core.store.dataset_writer import store_dataset
from nncift_core.store.datasets import Dataset
from nncift_core.store.references import DatasetRef
from nncift_core.store.workspace import Workspace

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Planted:
    """A pool with planted rows. wrong [W]: contents of rows with another row's answer; copies [D]: contents
    of the queries that were copied into it; shared: queries that could not be, for the pool holds them."""

    ref: DatasetRef
    wrong: Int64
    copies: Int64
    shared: int


def distinct_targets(targets: Sequence[Dataset]) -> Int64:
    """Contents of all target rows [Q], each once, in order of arrival."""
    return np.array(list(dict.fromkeys(c for d in targets for c in d.contents.tolist())), np.int64)


def draw_queries(ws: Workspace, config: Config, targets: Sequence[Dataset]) -> list[DatasetRef]:
    """The target sets with `audit.queries` of their distinct contents, by hash rank; the sets themselves
    where it asks for no fewer. A set that none were drawn from is left out."""
    contents, n = distinct_targets(targets), config.audit.queries
    if n is None or n >= len(contents):
        return [d.ref for d in targets]
    drawn = contents[lowest(contents, n, config.seed, "audit-query")]
    refs = []
    for d in targets:
        # Of equal rows the first, so that a query counts once.
        first = np.unique(d.content_ids, return_index=True)[1]
        rows = np.sort(first[np.isin(d.content_ids[first], drawn)])
        if len(rows):
            refs.append(_stored(ws, config, d, _examples(d, rows), d.ref.dataset, "target"))
    return refs


def plant(ws: Workspace, config: Config, pool: Dataset, targets: Sequence[Dataset]) -> Planted:
    """Store the pool with the planted rows that `audit.tests` ask for, drawn by hash rank with the seed."""
    a, seed = config.audit, config.seed
    examples = _examples(pool, np.arange(len(pool.content_ids)))
    known = set(pool.contents.tolist())
    wrong: list[int] = []
    if "wrong" in a.tests:
        first = np.unique(pool.content_ids, return_index=True)[1]
        n = max(2, round(a.wrong * len(first)))
        chosen = first[lowest(pool.content_ids[first], n, seed, "audit-wrong")]
        partners = swap_partners([examples[k].response for k in chosen])
        answers = [examples[chosen[p]].response for p in partners]
        for k, partner, answer in zip(chosen.tolist(), partners.tolist(), answers, strict=True):
            content = content_id(content_hash(examples[k].prompt, answer))
            if partner >= 0 and content not in known:
                examples[k] = replace(examples[k], response=answer)
                wrong.append(content)
    queries = distinct_targets(targets)
    fresh = queries[~np.isin(queries, pool.contents)]
    copies = np.empty(0, np.int64)
    if "duplicates" in a.tests:
        copies = fresh[lowest(fresh, a.duplicates, seed, "audit-copy")]
        examples += _copies(targets, copies, len(examples))
    name = f"{pool.ref.dataset} planted {digest([a.wrong, a.duplicates, sorted(a.tests), seed])[:8]}"
    ref = _stored(ws, config, pool, examples, name, "pool")
    return Planted(ref, np.array(wrong, np.int64), copies, len(queries) - len(fresh))


def _copies(targets: Sequence[Dataset], contents: Int64, number: int) -> list[Example]:
    found: dict[int, Example] = {}
    for d in targets:
        rows = np.flatnonzero(np.isin(d.content_ids, contents))
        for content, example in zip(d.content_ids[rows].tolist(), _examples(d, rows), strict=True):
            found.setdefault(content, example)
    return [replace(found[c], row_number=number + k) for k, c in enumerate(contents.tolist())]


def _examples(dataset: Dataset, rows: Int64) -> list[Example]:
    """Stored rows [k] as they were read."""
    contents, back = np.unique(dataset.content_ids[rows], return_inverse=True)
    texts = dataset.texts(contents)
    columns = dataset.rows.take(rows).to_pylist()
    return [
        Example(
            texts.prompts[k], texts.responses[k], c["row_number"], c["source"], c["source_id"], c["task"],
            c["split"], c["label"], json.loads(record),
        )
        for k, c, record in zip(back.tolist(), columns, dataset.records(rows), strict=True)
    ]  # fmt: skip


def _stored(
    ws: Workspace, config: Config, base: Dataset, examples: Sequence[Example], name: str, role: str
) -> DatasetRef:
    size = config.shards.columns if role == "target" else config.shards.rows
    return store_dataset(
        ws, examples, dataset=name, role=role, block_rows=size, fingerprint=f"audit:{base.ref.version}"
    )
