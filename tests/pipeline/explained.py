"""A published run over made values, so that what is told of it can be computed apart: no model, no server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pipeline.priced import Priced

from nncift_core.config import parse_config
from nncift_core.pipeline.choose import choose, scores_table, selection_table
from nncift_core.pipeline.exact import plan_exact
from nncift_core.pipeline.explain_objective import Stored
from nncift_core.pipeline.problem import Keys, Problem
from nncift_core.pipeline.result import result_record
from nncift_core.records import Example
from nncift_core.store.dataset_writer import store_dataset
from nncift_core.store.files import publish, void
from nncift_core.store.references import EstimatorRef
from nncift_core.store.runs import Cost, attempt, publish_table
from nncift_core.store.workspace import Workspace

Array = npt.NDArray[Any]
RUN, LATER = "a" * 16, "b" * 16
POOL, TARGETS, EXISTING = 30, 12, 4
COPY_OF, COPIES = 3, 2
EXACT = 9
HALF = 0.25


def rows_of(role: str, count: int) -> list[Example]:
    """Rows with ids of their own, targets of two tasks; the last of the pool repeat row `COPY_OF`."""
    made = []
    for k in range(count):
        text = COPY_OF if role == "pool" and k >= count - COPIES else k
        task = ("sums", "names")[k % 2] if role == "target" else None
        made.append(Example(f"{role} {text}", f"answer {text}", k, source_id=f"{role}-{k}", task=task))
    return made


def matrix(rows: int, columns: int, seed: int = 0) -> Array:
    """Influence of distinct contents, partly negative, float32 [rows, columns]."""
    return np.random.default_rng(seed).normal(0.1, 1.0, (rows, columns)).astype(np.float32)


def publish_run(
    folder: Path,
    run_id: str = RUN,
    *,
    pool: int = POOL,
    targets: int = TARGETS,
    all_exact: bool = True,
    facts: dict[str, Any] | None = None,
    **selection: Any,
) -> Stored:
    """A finished run of the function `priced` with the selection settings; values are `matrix` by place.

    targets: 0 values the pool against itself; all_exact: else the first `EXACT` contents are exact, the
    others estimates with half width `HALF`.
    """
    root = folder / "ws"
    ws = Workspace.open(root) if root.is_dir() else Workspace.create(root)
    config = parse_config(
        {
            "pool": {"source": "pool.jsonl"},
            "target": {"source": "target.jsonl" if targets else "self"},
            "influence": {"function": "priced", "label_fraction": 1.0},
            "selection": selection,
        }
    )
    sizes = {"pool": pool} | ({"target": targets} if targets else {})
    if "existing" in selection:
        sizes["existing"] = EXISTING
    refs = [
        store_dataset(ws, rows_of(role, n), dataset="made", role=role, block_rows=16, fingerprint="f")
        for role, n in sizes.items()
    ]
    p = Problem.load(ws, config, Keys("encoder", "priced"), refs)
    ref = _values(p, all_exact)
    vectors = np.random.default_rng(1).normal(size=(len(p.pool.contents), 6)).astype(np.float32)
    vectors[5] = vectors[4] + 0.01
    missing = p.vectors("row").missing(p.pool.contents)
    p.vectors("row").write(missing, vectors[np.isin(p.pool.contents, missing)])
    return _publish(p, run_id, ref, facts or {})


def _values(p: Problem, all_exact: bool) -> EstimatorRef | None:
    """Store the values; contents are numbered in order of arrival, so that a smaller pool has a part."""
    values = matrix(200, 200)[: len(p.rows), : len(p.columns)]
    known = p.exact_store.coverage(p.rows, p.columns).all(axis=1)
    exact = np.arange(len(p.rows)) < (len(p.rows) if all_exact else EXACT)
    new = exact & ~known
    if new.any():
        p.exact_store.write_tile(p.rows[new], p.columns, values[new], producer="exact-influence")
    if all_exact:
        return None
    store = p.estimate_store("estimator")
    store.write_tile(p.rows, p.columns, values, producer="estimate-influence")
    path = p.ws.root / "estimators" / "made.bin"
    publish(p.ws.root, path, lambda part: void(part.write_bytes(b"x")), kind="estimator", key="estimator",
            rows=1, producer="train")  # fmt: skip
    return EstimatorRef(
        key="estimator",
        path=p.ws.relative(path),
        architecture="kernel",
        learned=True,
        chosen=False,
        labels=90,
    )


def _publish(p: Problem, run_id: str, ref: EstimatorRef | None, facts: dict[str, Any]) -> Stored:
    with attempt(p.ws, run_id, p.config.model_dump(mode="json"), {}) as current:
        choice = choose(p, Priced(), ref)
        tables = {
            name: publish_table(p.ws, run_id, name, "0" * 16, table, producer="test", parents=())
            for name, table in (
                ("selection", selection_table(run_id, choice, p.pool)),
                ("scores", scores_table(run_id, p, choice)),
            )
        }
        current.cost(Cost("exact-influence", "cpu", 100, 50, 50, 5.0, 1.0))
        told = {**choice.facts, "interval_half_width": HALF if ref else None, **facts}
        told["estimator_verdict"] = "trusted" if ref else None
        record = result_record(p, run_id, plan_exact(p), ref, {**tables, "members": "none"}, told)
        current.publish_result(record)
    return Stored.open(p.ws, run_id)


def scaled(stored: Stored) -> tuple[Array, Array]:
    """Influence in 0..1 by target row, computed apart: float64 [pool rows, N], and of existing rows."""
    p = stored.problem
    values = matrix(200, 200)[: len(p.rows), : len(p.columns)].astype(np.float64)
    place = {c: k for k, c in enumerate(p.rows.tolist())}
    unit = ((values - values.min()) / (values.max() - values.min()))[:, p.column_of_target]
    existing = [c for d in p.of_role("existing") for c in d.content_ids.tolist()]
    pool, old = ([place[c] for c in ids] for ids in (p.pool.content_ids.tolist(), existing))
    return unit[pool], unit[old]


def f(rule: str, s: Array, picked: list[int], old: Array, weight: float) -> float:
    """The objectives of methods.md 1.5 as they are written, of the pool rows `picked`."""
    if not picked:
        return 0.0
    best = s[picked].max(axis=0)
    if rule == "fl":
        return float(best.sum())
    if rule == "flmi":
        return float(best.sum() + weight * s[picked].max(axis=1).sum())
    return float(np.maximum(best - weight * old.max(axis=0), 0).sum())
