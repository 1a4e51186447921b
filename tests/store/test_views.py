"""The view `influence` over a stored result: quadrants follow the label design."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nncift_core.store.query import rows
from nncift_core.store.runs import attempt
from nncift_core.store.workspace import Workspace


def result(ws: Workspace, design: dict[str, Any]) -> None:
    """Two rows x two columns, one row and one column labelled, everything exact."""
    members = {
        "side": ["row", "row", "column", "column"],
        "example_id": [1, 2, 11, 12],
        "content_id": [101, 102, 111, 112],
        "labelled": [True, False, True, False],
        "candidate": [True] * 4,
    }
    exact = {
        "row_content": [101, 101, 102, 102],
        "column_content": [111, 112, 111, 112],
        "value": pa.array([0.0, 1.0, 2.0, 3.0], pa.float32()),
    }
    for name, table in (("members", members), ("exact", exact)):
        pq.write_table(pa.table(table), ws.root / f"{name}.parquet")
    matrix = {
        "function": "delift", "predictor": None, "exact": ["exact.parquet"], "estimates": [],
        "members": "members.parquet", **design,
    }  # fmt: skip
    with attempt(ws, "0" * 16, {}, {}) as current:
        current.publish_result(
            {"run_id": "0" * 16, "datasets": [], "matrix": matrix, "tables": {}, "facts": {}}
        )


@pytest.mark.parametrize(
    ("design", "expected"),
    [
        ({}, ["Q1", "Q2", "Q3", "Q4"]),
        ({"design": "block"}, ["Q1", "Q2", "Q3", "Q4"]),
        ({"design": "all-targets"}, ["Q1", "Q2", "Q3", "Q4"]),
        ({"design": "scattered"}, [None] * 4),
    ],
)
def test_quadrants_follow_the_design(
    tmp_path: Path, design: dict[str, str], expected: list[str | None]
) -> None:
    ws = Workspace.create(tmp_path / "ws")
    result(ws, design)
    found = rows(ws, "SELECT quadrant, influence FROM influence ORDER BY train_id, target_id")
    assert [r["quadrant"] for r in found] == expected
    assert [r["influence"] for r in found] == [0.0, 1.0, 2.0, 3.0]
