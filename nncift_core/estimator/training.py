"""Fitting the InfluenceNetwork on exact labels: as published (`mlp-paper`) or with early stopping (`mlp`)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from nncift_core.estimator.network import InfluenceNetwork
from nncift_core.estimator.training_step import (
    Labels,
    Parameters,
    mean_squared_error,
    outputs,
    set_gradients,
)
from nncift_core.estimator.training_tiles import Shuffled, Tiles, one_thread

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Architecture = Literal["mlp", "mlp-paper"]
Progress = Callable[[int, int], None]

_MINIMUM_FOR_SPLIT = 5
# Labels seen in training, passes times labels: what keeps `mlp` within half a minute on two cores.
_MAX_SEEN = 6_000_000
_MINIMUM_EPOCHS = 20

# Part of every estimator key: raise it when the same labels would give another network.
FIT_VERSION = 4


@dataclass(frozen=True)
class FitReport:
    """What fitting did.

    epochs: epochs run; best_epoch: the one whose weights were kept; train_mse, validation_mse: mean
    squared error on the raw scale of influence, on the labels the weights were fitted to and on those
    held out for early stopping (None when none were); n_labels: labels given, n_validation of them held
    out; minimum, maximum (`mlp-paper`) or mean, std (`mlp`): the numbers that scaled the targets;
    most_epochs: how many there could have been (None when nothing was trained).
    """

    architecture: Architecture
    epochs: int
    best_epoch: int
    train_mse: float
    validation_mse: float | None
    seconds: float
    n_labels: int
    n_validation: int = 0
    minimum: float | None = None
    maximum: float | None = None
    mean: float | None = None
    std: float | None = None
    most_epochs: int | None = None


@dataclass(frozen=True, eq=False)
class WarmNetwork:
    """Where a fit of `mlp` begins instead of at random weights, and what may be held out.

    W1r [hidden, d], W1c [hidden, d_column], b1 [hidden], W2 [1, hidden], b2 [1]: of standardised targets;
    new_rows: of each row up to the last labelled one, whether these weights have seen no label of it.
    """

    W1r: npt.NDArray[Any]
    W1c: npt.NDArray[Any]
    b1: npt.NDArray[Any]
    W2: npt.NDArray[Any]
    b2: npt.NDArray[Any]
    new_rows: npt.NDArray[np.bool_]

    def parameters(self) -> Parameters:
        """For training."""
        parts = (self.W1r, self.W1c, self.b1, self.W2, self.b2)
        return [torch.tensor(x, dtype=torch.float32).requires_grad_() for x in parts]


@dataclass(frozen=True)
class _Recipe:
    learning_rate: float
    weight_decay: float
    batch: int
    epochs: int
    patience: int | None
    tiles: bool


def fit(
    row_embeddings: Float32,
    column_embeddings: Float32,
    row_index: Int64,
    column_index: Int64,
    values: npt.NDArray[Any],
    *,
    architecture: Architecture,
    hidden: int = 100,
    seed: int,
    progress: Progress | None = None,
    start: WarmNetwork | None = None,
) -> tuple[InfluenceNetwork, FitReport]:
    """Fit `net(e_i ++ e_j) ~ influence(i, j)` by mean squared error.

    row_embeddings [R, d]; column_embeddings [C, d], or [C, 0] for a function of the row alone; label k
    says that row `row_index[k]` has influence `values[k]` on column `column_index[k]`.

    `mlp-paper` (methods.md 1): Linear(2d, hidden), ReLU, Linear(hidden, 1); Adam, lr 1e-4, 20 epochs,
    batch 64; targets min-max scaled, scaled back at prediction. `mlp`: the same layers; standardised
    targets, AdamW, lr 2e-3, decay 0.01, batches of 32 to 2,048 labels that share rows and columns
    (`training_tiles`), early stopping (patience 20, at most 300 epochs, fewer where they would see more
    than 6,000,000 labels) on 20 % of the labelled rows held out whole, the best weights restored.
    With fewer than 5 rows pairs are held out, with fewer than 5 pairs none.

    start: of `mlp`, weights to begin at. Then only rows that are new to them are held out: as many as
    without a start, but at most half of the new ones.

    Below a million weights one torch thread trains. Equal arguments (and, above, an equal number of threads)
    give equal weights, whatever torch's global seed. Values that are all equal give a network that predicts
    them. `progress(epochs done, at most)` follows each epoch.
    Raises ValueError for an unknown architecture, no labels, shapes or indices that do not fit, and
    non-finite values (with their count).
    """
    began = time.perf_counter()
    z = _checked(row_embeddings, column_embeddings, row_index, column_index, values)
    if architecture not in ("mlp", "mlp-paper") or hidden < 1:
        raise ValueError(f"unknown architecture {architecture!r} with {hidden} hidden units")
    scaling, shift, scale = _scaling(z, architecture)
    if z.min() == z.max() or scale == 0:
        network = _constant(row_embeddings.shape[1], column_embeddings.shape[1], hidden, float(z[0]))
        seconds = time.perf_counter() - began
        return network, FitReport(architecture, 0, 0, 0.0, None, seconds, len(z), **scaling)

    generator = torch.Generator().manual_seed(seed)
    labels = Labels.of(row_embeddings, column_embeddings, row_index, column_index, (z - shift) / scale)
    train, held_out = torch.arange(len(z)), torch.arange(0)
    if architecture == "mlp":
        train, held_out = _split(labels.row_index, generator, None if start is None else start.new_rows)
    recipe = _recipe(architecture, len(train))
    # A caller's no_grad or inference mode must not reach the training.
    width = row_embeddings.shape[1] + column_embeddings.shape[1]
    with torch.inference_mode(False), torch.enable_grad(), one_thread(width * hidden):
        d, e, warm = row_embeddings.shape[1], column_embeddings.shape[1], start is not None
        parameters = start.parameters() if start else _initial(d, e, hidden, generator)
        epochs, best_epoch = _train(parameters, labels, train, held_out, recipe, generator, progress, warm)
        report = FitReport(
            architecture=architecture,
            epochs=epochs,
            best_epoch=best_epoch,
            train_mse=mean_squared_error(parameters, labels, train) * scale**2,
            validation_mse=mean_squared_error(parameters, labels, held_out) * scale**2
            if len(held_out)
            else None,
            seconds=time.perf_counter() - began,
            n_labels=len(z),
            n_validation=len(held_out),
            most_epochs=recipe.epochs,
            **scaling,
        )
    W1r, W1c, b1, W2, b2 = (p.detach().numpy() for p in parameters)
    W1 = np.concatenate([W1r, W1c], axis=1)
    return InfluenceNetwork.from_weights(W1, b1, W2, b2, dimension=d, scale=scale, shift=shift), report


def _checked(
    rows: Float32, columns: Float32, row_index: Int64, column_index: Int64, values: npt.NDArray[Any]
) -> Float64:
    z = np.asarray(values, dtype=np.float64)
    if z.ndim != 1 or len(z) == 0 or row_index.shape != z.shape or column_index.shape != z.shape:
        shapes = [list(x.shape) for x in (row_index, column_index, z)]
        raise ValueError(f"row_index, column_index and values must be [k] with k > 0, got {shapes}")
    if rows.ndim != 2 or columns.ndim != 2 or columns.shape[1] not in (0, rows.shape[1]):
        shapes = [list(rows.shape), list(columns.shape)]
        raise ValueError(f"embeddings must be [R, d] and [C, d] or [C, 0], got {shapes}")
    for name, index, table in (("row_index", row_index, rows), ("column_index", column_index, columns)):
        if index.min() < 0 or index.max() >= len(table):
            span = f"{index.min()} to {index.max()}"
            raise ValueError(f"{name} runs from {span}, the table has {len(table)} rows")
    bad = int((~np.isfinite(z)).sum())
    if bad:
        raise ValueError(f"{bad} of {len(z)} label values are not finite")
    for name, index, table in (("row", row_index, rows), ("column", column_index, columns)):
        bad = int((~np.isfinite(table[np.unique(index)])).any(axis=1).sum())
        if bad:
            raise ValueError(f"{bad} {name} embeddings are not finite")
    return z


def _scaling(z: Float64, architecture: Architecture) -> tuple[dict[str, Any], float, float]:
    """Fields for the report, and shift and scale of `target = (z - shift) / scale`."""
    if architecture == "mlp-paper":
        low, high = float(z.min()), float(z.max())
        return {"minimum": low, "maximum": high}, low, high - low
    mean, std = float(z.mean()), float(z.std())
    return {"mean": mean, "std": std}, mean, std


def _constant(dimension: int, column_dimension: int, hidden: int, value: float) -> InfluenceNetwork:
    W1, W2 = np.zeros((hidden, dimension + column_dimension)), np.zeros((1, hidden))
    zeros = np.zeros(hidden), W2, np.zeros(1)
    return InfluenceNetwork.from_weights(W1, *zeros, dimension=dimension, shift=value)


def _split(
    row_index: torch.Tensor, generator: torch.Generator, new_rows: npt.NDArray[np.bool_] | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Label positions to fit and to hold out: a fifth of the rows, else of the pairs, else nothing.

    With `new_rows` half of these, but no more than a fifth of all.
    """
    n_rows, n_pairs = int(row_index.max()) + 1, len(row_index)
    if new_rows is not None:
        new = torch.from_numpy(np.flatnonzero(new_rows))
        order = torch.randperm(len(new), generator=generator)
        held = torch.isin(row_index, new[order[: min(round(0.2 * n_rows), len(new) // 2)]])
    elif n_rows >= _MINIMUM_FOR_SPLIT:
        held_rows = torch.randperm(n_rows, generator=generator)[: round(0.2 * n_rows)]
        held = torch.isin(row_index, held_rows)
    else:
        held = torch.zeros(n_pairs, dtype=torch.bool)
        if n_pairs >= _MINIMUM_FOR_SPLIT:
            held[torch.randperm(n_pairs, generator=generator)[: round(0.2 * n_pairs)]] = True
    return torch.nonzero(~held).flatten(), torch.nonzero(held).flatten()


def _recipe(architecture: Architecture, n: int) -> _Recipe:
    if architecture == "mlp-paper":
        return _Recipe(learning_rate=1e-4, weight_decay=0.0, batch=64, epochs=20, patience=None, tiles=False)
    batch = min(2048, max(32, n // 8))
    epochs = min(300, max(_MINIMUM_EPOCHS, _MAX_SEEN // max(n, 1)))
    return _Recipe(learning_rate=2e-3, weight_decay=0.01, batch=batch, epochs=epochs, patience=20, tiles=True)


def _initial(dimension: int, column_dimension: int, hidden: int, generator: torch.Generator) -> Parameters:
    """W1r, W1c, b1, W2, b2 as torch's Linear starts them: uniform in +-1/sqrt(fan-in)."""

    def uniform(fan_in: int, *shape: int) -> torch.Tensor:
        bound = 1 / math.sqrt(fan_in)
        draw = torch.rand(shape, generator=generator, dtype=torch.float32)
        return ((2 * draw - 1) * bound).requires_grad_()

    d, c, h = dimension, column_dimension, hidden
    fan_in = d + c
    return [uniform(fan_in, h, d), uniform(fan_in, h, c), uniform(fan_in, h), uniform(h, 1, h), uniform(h, 1)]


def _train(
    parameters: Parameters,
    labels: Labels,
    train: torch.Tensor,
    held_out: torch.Tensor,
    recipe: _Recipe,
    generator: torch.Generator,
    progress: Progress | None,
    warm: bool,
) -> tuple[int, int]:
    """Train `parameters` in place; (epochs run, epoch whose weights were kept: of a warm start 0, too)."""
    # AdamW without decay is Adam.
    optimizer = torch.optim.AdamW(
        parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
    )
    cut = Tiles if recipe.tiles else Shuffled
    batches = cut(labels.row_index[train], labels.column_index[train], recipe.batch)
    buffer = torch.empty(0)
    best, best_epoch, epoch = math.inf, 0, 0
    kept: Parameters = []
    if warm and len(held_out):
        best = mean_squared_error(parameters, labels, held_out)
        kept = [p.detach().clone() for p in parameters]
    for epoch in range(1, recipe.epochs + 1):
        for batch in (train[at] for at in batches.epoch(generator)):
            optimizer.zero_grad()
            if recipe.tiles:
                set_gradients(parameters, labels, batch, buffer)
            else:
                error = outputs(parameters, labels, batch) - labels.targets[batch]
                error.square().mean().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        if progress is not None:
            progress(epoch, recipe.epochs)
        if recipe.patience is None or not len(held_out):
            best_epoch = epoch
            continue
        mse = mean_squared_error(parameters, labels, held_out)
        if mse < best:
            best, best_epoch, kept = mse, epoch, [p.detach().clone() for p in parameters]
        elif epoch - best_epoch >= recipe.patience:
            break
    with torch.no_grad():
        for parameter, value in zip(parameters, kept, strict=False):
            parameter.copy_(value)
    return epoch, best_epoch
