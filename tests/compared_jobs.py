"""A small comparison on the oracle rows, for tests of the flow and of what kills it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from conftest import Project, oracle_rows, write_jsonl

TRAINING = {"epochs": 1, "batch_size": 4, "learning_rate": 1e-3, "rank": 4}


def with_held_out(project: Project, **compare: Any) -> Path:
    """Seven held-out rows of two tasks; two functions, a teacher of its own, four rivals, two seeds."""
    rows = [{**r, "task": "odd" if k % 2 else "even"} for k, r in enumerate(oracle_rows("target")[:7])]
    held = [{**r, "prompt": r["prompt"] + " Please."} for r in rows]
    write_jsonl(project.folder / "held_out.jsonl", held)
    section = {"functions": ["bm25", "delift-se"], "rivals": ["base", "random", "similarity", "full"]}
    return project.configure(
        target={"source": "target.jsonl", "test": "held_out.jsonl"},
        finetune=TRAINING,
        evaluation={"seeds": 2, "metrics": ["loss"], "modes": ["finetune", "icl"]},
        compare={**section, **compare},
    )
