"""One kernel per workspace: measured once, taken from the record, measured anew for other libraries."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nncift_core.config import parse_config
from nncift_core.errors import IntegrityError
from nncift_core.estimator import network_calibration
from nncift_core.pipeline.kernels import needs_kernel, recorded, settle_kernel
from nncift_core.store.workspace import Workspace


@pytest.fixture
def ws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setattr(network_calibration, "_recorded", None)
    return Workspace.create(tmp_path / "ws")


def test_the_record_decides_and_not_the_clock(ws: Workspace) -> None:
    first = settle_kernel(ws, 10)
    record = json.loads(ws.calibration_file.read_text())
    assert set(record["pairs_per_second"]) == set(network_calibration.installed())
    other = {**record, "kernel": "torch"}
    ws.calibration_file.write_text(json.dumps(other))
    assert settle_kernel(ws, 10)["kernel"] == "torch" == network_calibration.in_use()
    assert json.loads(ws.calibration_file.read_text()) == other
    assert first["version"] and recorded(ws) is not None


def test_another_version_of_its_library_is_measured_anew(ws: Workspace) -> None:
    settle_kernel(ws, 10)
    record = json.loads(ws.calibration_file.read_text())
    ws.calibration_file.write_text(json.dumps({**record, record["kernel"]: "0.0.1"}))
    assert recorded(ws) is None
    assert settle_kernel(ws, 10)["version"] != "0.0.1"


def test_a_damaged_record_is_told(ws: Workspace) -> None:
    ws.calibration_file.write_text("{}")
    with pytest.raises(IntegrityError, match="calibration.json: not the record of a calibration"):
        settle_kernel(ws, 10)
    ws.calibration_file.write_text("{")
    with pytest.raises(IntegrityError, match="Delete the file"):
        recorded(ws)


@pytest.mark.parametrize("architecture, needed", [("mlp", True), ("kernel", False), ("auto", True)])
def test_only_networks_need_one(architecture: str, needed: bool) -> None:
    made = parse_config({"pool": {"source": "a.jsonl"}, "target": {"source": "b.jsonl"}})
    estimator = made.estimator.model_copy(update={"candidates": ["ridge", "mlp"]})
    assert needs_kernel(made.model_copy(update={"estimator": estimator}), architecture) == needed
