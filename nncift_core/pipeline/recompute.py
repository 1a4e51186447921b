"""Values that `store_matrix` left out, computed again where a query asks for them."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from nncift_core.config import parse_config
from nncift_core.errors import UserError
from nncift_core.pipeline.matrix import open_matrix
from nncift_core.pipeline.problem import Keys, Problem
from nncift_core.store.query import query
from nncift_core.store.references import DatasetRef, EstimatorRef
from nncift_core.store.runs import read_attempts, read_result, resolve_runs
from nncift_core.store.segments import SCHEMA
from nncift_core.store.views import Recomputed
from nncift_core.store.workspace import Workspace

Int64 = npt.NDArray[np.int64]
BLOCK = 1024


@contextmanager
def recomputed(ws: Workspace, condition: str, run: str | None = None) -> Iterator[tuple[str, Recomputed]]:
    """(run id, files) with all influence values of the pool rows that meet `condition`, for `store.query`.

    condition: SQL over the columns of the view `examples`. Files are gone when the context ends. Raises
    UserError for SQL that fails, a condition that no pool row meets, and unless exactly one run is meant.
    """
    found = resolve_runs(ws, run, kinds=(None,))
    if len(found) != 1:
        raise UserError(
            f"{len(found)} runs are meant", field="--run", mend="Name one run to compute values of."
        )
    (run_id,) = found
    problem, ref = problem_of(ws, run_id)
    if problem.config.pointwise:
        raise UserError(
            f"{problem.config.influence.function!r} gives a row one value of its own, not one per target row",
            field="--compute",
            mend="Ask the view scores.",
        )
    # The role is asked inside, out of a condition's reach; a comment in it ends with its line.
    sql = f"SELECT example_id FROM (SELECT * FROM examples WHERE role = 'pool') WHERE (\n{condition}\n)"
    try:
        ids = query(ws, sql, run_id)["example_id"].to_numpy()
    except UserError as e:
        raise UserError(
            f"{condition!r} is no condition on the view examples ({e.what})",
            field="--compute",
            mend="Name columns of examples; see docs/views.md.",
        ) from None
    if not len(ids):
        raise UserError(
            f"no pool row meets {condition!r}", field="--compute", mend="Ask the view examples what there is."
        )
    rows = np.unique(problem.pool.content_ids[np.isin(problem.pool.example_ids, ids)])
    with tempfile.TemporaryDirectory(dir=ws.tmp_dir) as scratch:
        exact, estimates = _write(ws, Path(scratch), problem, ref, rows)
        yield run_id, Recomputed(exact, estimates, tuple(ids.tolist()))


def problem_of(ws: Workspace, run_id: str) -> tuple[Problem, EstimatorRef | None]:
    """The matrix of a finished run and the estimator that filled it, from what the run recorded.

    Raises UserError for a run of a version that recorded too little.
    """
    result = read_result(ws, run_id) or {}
    matrix: dict[str, Any] = result.get("matrix", {})
    recorded = [a["config"] for a in read_attempts(ws) if a["run_id"] == run_id]
    if result.get("kind") is not None:
        raise UserError(f"run {run_id} has no influence matrix", field="--run", mend="Name a valuation.")
    if "keys" not in matrix or not recorded:
        raise UserError(f"run {run_id} recorded too little", field="--run", mend="Run that job again first.")
    raw = recorded[-1]
    config = parse_config(json.loads(raw) if isinstance(raw, str) else raw, base_dir=matrix["base_dir"])
    names = DatasetRef.model_fields
    refs = [DatasetRef(**{k: v for k, v in d.items() if k in names}) for d in result["datasets"]]
    problem = Problem.load(ws, config, Keys(**matrix["keys"]), refs)
    return problem, EstimatorRef(**matrix["estimator"]) if matrix["estimator"] else None


def _write(
    ws: Workspace, folder: Path, problem: Problem, ref: EstimatorRef | None, rows: Int64
) -> tuple[str, str | None]:
    shards = problem.config.shards.model_copy(update={"store_matrix": "none"})
    left_out = replace(problem, config=problem.config.model_copy(update={"shards": shards}))
    blocks = [rows[k : k + BLOCK] for k in range(0, len(rows), BLOCK)]
    exact, estimated = folder / "exact.parquet", folder / "estimated.parquet"
    with pq.ParquetWriter(exact, SCHEMA) as known, pq.ParquetWriter(estimated, SCHEMA) as others:
        for block in open_matrix(left_out, ref, rows=blocks):
            for writer, which in ((known, block.exact), (others, ~block.exact)):
                i, j = np.nonzero(which)
                columns = [block.row_ids[i], problem.columns[j], block.values[i, j]]
                writer.write_table(pa.table([pa.array(c) for c in columns], schema=SCHEMA))
    return ws.relative(exact), ws.relative(estimated) if ref is not None else None
