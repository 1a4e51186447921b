"""The README's first command, as a newcomer runs it: twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import Project

pytestmark = pytest.mark.heavy


def test_quickstart_ends_with_a_subset_and_is_reused(
    offline_project: Project, prefect_env: dict[str, str]
) -> None:
    p = offline_project
    p.env = prefect_env
    first = json.loads(p.call("quickstart", "--workspace", str(p.workspace), "--json").stdout)
    assert first["pool_rows"] >= 1500
    assert first["selected"] == round(0.1 * first["pool_rows"])
    assert max(c["peak_rss_mb"] for c in first["costs"]) < 4000
    subset = Path(first["subset"]).read_bytes()
    again = json.loads(p.call("quickstart", "--workspace", str(p.workspace), "--json").stdout)
    assert all(c["computed"] == 0 for c in again["costs"])
    assert Path(again["subset"]).read_bytes() == subset
