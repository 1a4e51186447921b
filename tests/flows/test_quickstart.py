"""The README's first command, as a newcomer runs it: twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Project

pytestmark = pytest.mark.heavy


def chosen(p: Project, result: dict[str, Any]) -> set[int]:
    """Rows of a run's subset."""
    rows = p.query("SELECT train_id FROM selection", "--run", result["run_id"])
    return {r["train_id"] for r in rows}


def test_quickstart_ends_with_a_subset_and_is_reused(
    offline_project: Project, prefect_env: dict[str, str]
) -> None:
    p = offline_project
    p.env = prefect_env
    first = json.loads(p.call("quickstart", "--workspace", str(p.workspace), "--json", timeout=1800).stdout)
    second = first["second_target"]
    assert first["pool_rows"] >= 1500
    assert first["selected"] == round(0.1 * first["pool_rows"])
    assert max(c["peak_rss_mb"] for c in first["costs"]) < 4000
    assert first["target_rows"] == 100 and first["second_target"]["target_rows"] == 60
    rivals = {c["against"]: c for c in first["comparison"] if c["metric"] == "loss"}
    assert set(rivals) == {"base", "random", "random-tokens", "longest"}
    assert rivals["random"]["n_seeds"] == 3 and rivals["random"]["lower"] <= rivals["random"]["gain"]
    # Which verdict is the data's matter; that there is one, and that the estimates were judged, is ours.
    assert {c["verdict"] for c in rivals.values()} <= {"better", "no clear difference", "worse"}
    assert first["facts"]["estimator_verdict"] == "trusted" == second["facts"]["estimator_verdict"]
    shared = chosen(p, first) & chosen(p, first["second_target"])
    assert len(shared) < 0.5 * first["selected"], "another target should want another subset"
    subset = Path(first["subset"]).read_bytes()
    again = json.loads(p.call("quickstart", "--workspace", str(p.workspace), "--json", timeout=1800).stdout)
    assert all(c["computed"] == 0 for c in again["costs"] if c["stage"] != "report")
    assert Path(again["subset"]).read_bytes() == subset
