"""The cached tasks after selection: fine-tune, evaluate, report."""

from __future__ import annotations

from typing import Any

import pyarrow.parquet as pq

from nncift_core.devices import pick
from nncift_core.finetune import settings
from nncift_core.pipeline.choose import selected_rows
from nncift_core.pipeline.downstream import base_cell, cells, draw_subsets, train_cell
from nncift_core.pipeline.evaluate import evaluate_cell
from nncift_core.pipeline.report import write_report
from nncift_core.store.runs import publish_table
from tasks import job as jobs
from tasks.job import Job
from tasks.stages import current, stage_task


@stage_task("draw-subsets", "draw-subsets")
def draw(key: str, job: Job, run_id: str, selection: str) -> str:
    """Which rows the subset and its rivals hold; returns the path of the table."""
    problem = job.problem()
    table = draw_subsets(problem, run_id, selected_rows(problem, selection))
    return publish_table(
        problem.ws, run_id, "subsets", key, table, producer="draw-subsets", parents=(selection,)
    )


def _device(job: Job, slot: jobs.Slot) -> str:
    """Where the student runs: the slot's device, or the one that [finetune] names."""
    return pick(settings(job.config).device, slot.device, "finetune.device")


@stage_task("fine-tune", "fine-tune {shard[name]}")
def fine_tune(key: str, job: Job, subsets: str, shard: dict[str, Any]) -> dict[str, Any]:
    """Fine-tune one model on a free device and keep its adapter."""
    problem = job.problem()
    found = cells(problem, pq.read_table(problem.ws.root / subsets))
    cell = next(c for c in found if c.key == shard["key"])
    with jobs.slots(job.config).take() as slot:
        device = _device(job, slot)
        computed = train_cell(problem, cell, device, subsets, current.advance)
    return {"computed": computed, "device": device}


@stage_task("evaluate", "evaluate {shard[name]}")
def evaluate(key: str, job: Job, subsets: str, shard: dict[str, Any]) -> dict[str, Any]:
    """Score the held-out rows under one model on a free device."""
    problem = job.problem()
    found = [base_cell(job.config), *cells(problem, pq.read_table(problem.ws.root / subsets))]
    cell = next(c for c in found if c.key == shard["key"])
    with jobs.slots(job.config).take() as slot:
        device = _device(job, slot)
        computed = evaluate_cell(problem, cell, device, current.advance)
        jobs.free_device_memory()
    return {"computed": computed, "device": device}


@stage_task("report", "report")
def report(key: str, job: Job, run_id: str) -> str:
    """Write the page of the run, or of the sweep, from its views; returns its path."""
    return write_report(job.ws, run_id)
