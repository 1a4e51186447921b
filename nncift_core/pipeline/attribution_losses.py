"""What every query loses under a trained model, kept by the model and the queries' contents."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from nncift_core.evaluation import HeldOut, response_losses
from nncift_core.finetune import load_fine_tuned, load_student, settings
from nncift_core.hashing import digest
from nncift_core.pipeline.attribution import queries
from nncift_core.pipeline.downstream import Cell, trained_weights
from nncift_core.pipeline.problem import Problem
from nncift_core.store.files import publish
from nncift_core.store.runs import intact

Float64 = npt.NDArray[np.float64]
VERSION = 1
# Loading sets the process's default dtype for a moment: two threads must not.
_LOADING = threading.Lock()


@dataclass(frozen=True, eq=False)
class QueryLosses:
    """losses [Q], in nats a response token, in the order of `attribution.queries`; path: of their file."""

    losses: Float64
    path: str


def loss_key(problem: Problem, cell: Cell) -> str:
    """Identity of one model's losses: the model, the queries' contents, the text before a response."""
    template = settings(problem.config).template
    return digest(["query-losses", VERSION, cell.key, template, sorted(queries(problem).tolist())])


def has_losses(problem: Problem, cell: Cell) -> bool:
    """Whether a model's losses are there, whole."""
    return intact(problem.ws, problem.ws.relative(problem.ws.evaluation_file(loss_key(problem, cell))))


def measure_losses(
    problem: Problem, cell: Cell, device: str, progress: Callable[[int], None] | None = None
) -> int:
    """Publish the loss of every query under one model; returns the number of queries.

    progress(n): n more are measured. Raises RunError for a loss that is not finite.
    """
    config, ws, contents = problem.config, problem.ws, np.sort(queries(problem))
    with _LOADING:
        if cell.seed is None:
            model, parent = load_student(config, device), f"model:{cell.key}"
        else:
            weights = trained_weights(ws, cell.key)
            model, parent = load_fine_tuned(config, weights.parent, device), ws.relative(weights)
    texts = problem.texts(contents, side="column")
    rows = HeldOut(texts.prompts, texts.responses)
    tokens = config.evaluation.batch_tokens
    losses, truncated = response_losses(model, rows, settings(config).template, tokens, progress)
    table = pa.table({"content_id": pa.array(contents), "loss": pa.array(losses)})
    publish(
        ws.root,
        ws.evaluation_file(loss_key(problem, cell)),
        lambda part: pq.write_table(table, part, compression="zstd"),
        kind="evaluation-scores",
        key=loss_key(problem, cell),
        rows=len(table),
        producer="query-losses",
        parents=(parent, *(d.ref.path for d in problem.targets)),
        meta={"truncated_queries": truncated},
    )
    return len(contents)


def read_losses(problem: Problem, cell: Cell) -> QueryLosses:
    """The published losses of one model."""
    path = problem.ws.evaluation_file(loss_key(problem, cell))
    table = pq.read_table(path)
    at = np.searchsorted(table["content_id"].to_numpy(), queries(problem))
    return QueryLosses(table["loss"].to_numpy()[at], problem.ws.relative(path))


def loss_matrix(problem: Problem, found: Sequence[Cell], names: Sequence[str]) -> Float64:
    """Losses [s, len(names), Q] of the models of subsets `names` by seed, in the order of both."""
    by = {(c.subset, c.seed): read_losses(problem, c).losses for c in found if c.subset in set(names)}
    seeds = sorted({seed for _, seed in by if seed is not None})
    return np.stack([np.stack([by[name, seed] for name in names]) for seed in seeds])
