"""What device shards do, by name: one call into `pipeline` with the models of a slot."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow.parquet as pq

from nncift_core.devices import pick
from nncift_core.execution import models
from nncift_core.execution.failures import ShardError
from nncift_core.execution.job import BaseJob, Job
from nncift_core.execution.models import Slot
from nncift_core.finetune import Diverged, settings, training_devices
from nncift_core.pipeline.attribution_losses import has_losses, loss_key, measure_losses
from nncift_core.pipeline.downstream import base_cell, cells, is_trained, train_cell
from nncift_core.pipeline.embed import EmbedShard, embed_shard
from nncift_core.pipeline.estimate import EstimateShard, estimate_shard
from nncift_core.pipeline.estimator_features import ForwardShard, compute_estimator_features
from nncift_core.pipeline.evaluate import (
    evaluate_trial,
    evaluation_key,
    is_complete,
    needs_encoder,
    trials,
)
from nncift_core.pipeline.exact import ExactShard, compute_exact
from nncift_core.pipeline.features import FeatureShard, compute_features
from nncift_core.pipeline.state import fit_state, plan_state
from nncift_core.pipeline.trials import answers_key
from nncift_core.pruning.cells import CellShard, run_point_shard, run_score_shard
from nncift_core.pruning.embed import TextShard, embed_texts
from nncift_core.pruning.job import PruneJob
from nncift_core.store.references import EstimatorRef


class Progress(Protocol):
    """Who is told how far a shard is."""

    def advance(self, items: int) -> None:
        """`items` more are done."""

    def to(self, done: int, total: int) -> None:
        """`done` of `total` are done."""


@dataclass(frozen=True)
class Request:
    """One shard: which work, of which job (a `BaseJob`), and what only this work takes (`given`)."""

    work: str
    job: Any
    shard: dict[str, Any]
    given: dict[str, Any]


Work = Callable[[Request, Slot, Progress], int]


def perform(request: Request, slot: Slot, progress: Progress) -> int:
    """Do the work of `request` on `slot`; returns the items computed now, not counting what was there."""
    request.job.problem().look_again()
    return WORK[request.work](request, slot, progress)


def _embed(request: Request, slot: Slot, progress: Progress) -> int:
    job: Job = request.job
    with models.encoder(job, slot) as (encoder, _):
        return embed_shard(job.problem(), encoder, EmbedShard(**request.shard), progress.advance)


def _prepare_function(request: Request, slot: Slot, progress: Progress) -> int:
    job = request.job
    with models.function(job, slot) as (function, _):
        return len(fit_state(job.problem(), function, plan_state(job.problem()), progress.to))


def _features(request: Request, slot: Slot, progress: Progress) -> int:
    job = request.job
    with models.function(job, slot) as (function, _):
        return compute_features(job.problem(), function, FeatureShard(**request.shard), progress.advance)


def _estimator_features(request: Request, slot: Slot, progress: Progress) -> int:
    job = request.job
    with models.language_model(job, slot) as (model, _):
        shard = ForwardShard(**request.shard)
        return compute_estimator_features(job.problem(), model, shard, progress.advance)


def _exact_influence(request: Request, slot: Slot, progress: Progress) -> int:
    job = request.job
    with models.function(job, slot) as (function, _):
        return compute_exact(job.problem(), function, ExactShard(**request.shard), progress.advance)


def _student_device(job: Job, slot: Slot) -> str:
    """Where the student runs: the slot's device, or the one that [finetune] names."""
    return pick(settings(job.config).device, slot.device, "finetune.device")


def _turn(job: Job, name: str, progress: Progress) -> AbstractContextManager[None]:
    """Hold a lock of the workspace. Whoever has waited looks again at what is stored before computing."""
    return job.ws.turn(name, waiting=lambda: progress.advance(0))


def _cell(job: Job, key: str, progress: Progress) -> AbstractContextManager[None]:
    """The turn of one model, of what it says or of its losses: other runs may ask for the same from tables of
    their own, so the lock of the shard does not keep them apart."""
    return _turn(job, f"cell-{key[:16]}", progress)


@contextmanager
def _training_device(job: Job, slot: Slot, progress: Progress) -> Iterator[str]:
    """Where to train. A training that takes several GPUs has the same ones from every slot: in turns."""
    if settings(job.config).devices == 1:
        yield _student_device(job, slot)
        return
    gpus = training_devices(job.config)
    with _turn(job, "training-devices", progress):
        yield gpus[0]


def _fine_tune(request: Request, slot: Slot, progress: Progress) -> int:
    job: Job = request.job
    problem, subsets = job.problem(), request.given["subsets"]
    found = cells(problem, pq.read_table(problem.ws.root / subsets))
    cell = next(c for c in found if c.key == request.shard["key"])
    with _cell(job, cell.key, progress):
        if is_trained(problem.ws, cell.key):
            return 0
        with _training_device(job, slot, progress) as device:
            try:
                return train_cell(problem, cell, device, subsets, progress.advance)
            except Diverged as e:
                if len({c.key for c in found}) == 1:
                    raise e.as_input from e
                # The other models may well stay finite: it is this cell that fails.
                raise ShardError(str(e), permanent=True) from e


def _evaluate(request: Request, slot: Slot, progress: Progress) -> int:
    job: Job = request.job
    problem, device = job.problem(), _student_device(job, slot)
    table = pq.read_table(problem.ws.root / request.given["subsets"])
    # Whether the base model is asked for is the planner's business.
    found = trials(job.config, cells(problem, table), base=True)
    key = request.shard["key"]
    trial = next(t for t in found if evaluation_key(problem, t) == key)
    # What the model says is shared even by runs with different judges.
    with _cell(job, answers_key(problem, trial), progress):
        if is_complete(problem, trial):
            return 0
        if needs_encoder(job.config, trial):
            with models.encoder(job, slot) as (encoder, _):
                computed = evaluate_trial(problem, trial, device, encoder, progress.advance)
        else:
            computed = evaluate_trial(problem, trial, device, None, progress.advance)
    models.free_device_memory()
    return computed


def _query_losses(request: Request, slot: Slot, progress: Progress) -> int:
    job: Job = request.job
    problem, device = job.problem(), _student_device(job, slot)
    table = pq.read_table(problem.ws.root / request.given["subsets"])
    found = [base_cell(job.config), *cells(problem, table)]
    cell = next(c for c in found if c.key == request.shard["key"])
    with _cell(job, loss_key(problem, cell), progress):
        if has_losses(problem, cell):
            return 0
        computed = measure_losses(problem, cell, device, progress.advance)
    models.free_device_memory()
    return computed


def estimate(job: Job, shard: dict[str, Any], given: dict[str, Any], progress: Progress) -> int:
    """Estimates of one block of rows, by the estimator that `given` names; returns the pairs computed."""
    ref, problem = EstimatorRef(**given["estimator"]), job.problem()
    problem.estimate_store(ref.key).refresh()
    return estimate_shard(problem, ref, EstimateShard(**shard), progress.advance)


def _estimate_influence(request: Request, slot: Slot, progress: Progress) -> int:
    return estimate(request.job, request.shard, request.given, progress)


def _embed_texts(request: Request, slot: Slot, progress: Progress) -> int:
    job: PruneJob = request.job
    with models.encoder(job, slot) as (encoder, _):
        return embed_texts(job.problem(), encoder, TextShard(**request.shard), progress.advance)


def _train_scores(request: Request, slot: Slot, progress: Progress) -> int:
    job: PruneJob = request.job
    device = pick(job.config.encoder.device, slot.device, "encoder.device")
    return run_score_shard(job.problem(), CellShard(**request.shard), device, progress.advance)


def _train_subsets(request: Request, slot: Slot, progress: Progress) -> int:
    job: PruneJob = request.job
    device = pick(job.config.encoder.device, slot.device, "encoder.device")
    shard, subsets = CellShard(**request.shard), request.given["subsets"]
    return run_point_shard(job.problem(), shard, subsets, device, progress.advance)


JOBS: dict[str, type[BaseJob]] = {job.kind: job for job in (Job, PruneJob)}
WORK: dict[str, Work] = {
    "embed": _embed,
    "prepare-function": _prepare_function,
    "features": _features,
    "estimator-features": _estimator_features,
    "exact-influence": _exact_influence,
    "estimate-influence": _estimate_influence,
    "fine-tune": _fine_tune,
    "evaluate": _evaluate,
    "query-losses": _query_losses,
    "embed-texts": _embed_texts,
    "train-scores": _train_scores,
    "train-subsets": _train_subsets,
}
