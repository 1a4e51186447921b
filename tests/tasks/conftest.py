"""A job without models or data."""

from __future__ import annotations

from pathlib import Path

import pytest

from nncift_core.execution.job import Job
from nncift_core.pipeline.problem import Keys
from nncift_core.store.workspace import Workspace


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """A job of whose config only `[execution]` is read."""
    ws = Workspace.create(tmp_path / "ws")
    config = '{"pool": {"source": "builtin:pool"}, "target": {"source": "builtin:target"}}'
    return Job(workspace=str(ws.root), config_json=config, base_dir="", identity=Keys("encoder", "function"))
