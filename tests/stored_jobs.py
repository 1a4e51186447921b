"""A small job whose data are stored, for tests of what computes shards without a server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from conftest import ORACLES, oracle_rows, write_jsonl

from nncift_core.config import parse_config
from nncift_core.execution.job import Job
from nncift_core.pipeline.inputs import read_inputs
from nncift_core.pipeline.problem import keys_of
from nncift_core.store.dataset_writer import store_dataset
from nncift_core.store.workspace import Workspace

BLOCK = 8


def exact_job(folder: Path, repeat: int = 1, **execution: Any) -> Job:
    """A job of which every pair is to be computed exactly: `repeat` pool rows for each of the oracle's, 12
    targets, blocks of 8 rows; execution: keys of that section."""
    pool = [
        {**row, "id": f"{row['id']}-{k}", "prompt": f"{row['prompt']} {k}"}
        for k in range(repeat)
        for row in oracle_rows("pool")
    ]
    write_jsonl(folder / "pool.jsonl", pool)
    write_jsonl(folder / "target.jsonl", oracle_rows("target"))
    config = parse_config(
        {
            "pool": {"source": "pool.jsonl"},
            "target": {"source": "target.jsonl"},
            "language_model": {"model": str(ORACLES / "tiny-lm")},
            "influence": {"function": "delift", "label_fraction": 1},
            "execution": execution,
        },
        base_dir=folder,
    )
    ws = Workspace.create(folder / "ws")
    refs = tuple(
        store_dataset(
            ws, i.examples, dataset=i.name, role=i.role, block_rows=BLOCK, fingerprint=i.fingerprint
        )
        for i in read_inputs(config)
    )
    return Job(
        workspace=str(ws.root), config_json=config.model_dump_json(), base_dir=config.base_dir,
        identity=keys_of(config), datasets=refs,
    )  # fmt: skip
