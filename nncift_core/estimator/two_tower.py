"""Two linear towers whose inner product is the value of a pair (`two-tower`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from nncift_core.estimator.contract import Float32, Int64
from nncift_core.estimator.linear import folds
from nncift_core.estimator.sides import Arrays, InnerProduct, Labels, WarmSides
from nncift_core.estimator.warm import Bool, Start

RANK = 8
_FOLDS = 5
_MANY_LABELS = 20_000
_STEPS = 300
_PATIENCE = 50
_LEARNING_RATE = 0.02
_MOMENTUM = 0.9
_DECAY = 0.03
_START = 0.1
_MAX_GRADIENT = 1.0

_NAMES = ("U", "V", "u", "v", "b")

Towers = list[torch.Tensor]


class TwoTower(InnerProduct, WarmSides):
    """`<U f_i, V g_j> + u f_i + v g_j + b` with towers of 8 dimensions, beside the linear mean of the pairs.

    Gradient descent with momentum and weight decay on all labels at once (which learns the directions of
    most variance first; Adam takes all at the same pace and ranks unseen rows worse). The number of steps,
    at most 300, is the one with the least mean squared error on held-out rows x held-out columns, over 5
    splits (2 above 20,000 labels; 50 steps without a better one end the search); the towers are then
    trained for so many steps on all labels. A warm start begins at the earlier towers; then only rows that
    are new to them are held out.
    """

    name = "two-tower"

    def _learn(self, labels: Labels, seed: int) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        return _fit(labels, seed, lambda part: _start(part, seed), None)

    def _continue(
        self, labels: Labels, seed: int, start: Start
    ) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        start.check_new_rows()
        return _fit(labels, seed, lambda part: _said_again(start, part), start.new_rows)

    def _vectors(self, weights: Arrays, F: Float32, G: Float32) -> tuple[Float32, Float32]:
        return _sides(weights, F, G)


def _fit(
    labels: Labels, seed: int, start: Callable[[Labels], Towers], new_rows: Bool | None
) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
    """Weights and facts; new_rows [L_r]: the rows that may be held out, all when None."""
    with torch.inference_mode(False), torch.enable_grad():
        curve = _curve(labels, seed, start, new_rows)
        steps = int(np.argmin(curve)) if curve else 0
        towers = start(labels)
        run = _train(towers, labels)
        for _ in range(steps + 1 if steps else 0):
            next(run)
    mse = curve[steps] if curve else None
    weights = {name: x.detach().numpy().copy() for name, x in zip(_NAMES, towers, strict=True)}
    return weights, {"rank": RANK, "steps": steps, "held_out_mse": mse}


def _said_again(start: Start, labels: Labels) -> Towers:
    """The earlier towers on the new coordinates and the new scale of `labels`, all centred."""
    U, V, u, v, b = (start.weights[name].astype(np.float64) for name in _NAMES)
    rows, columns = start.rows.of_part(labels.F.mean(axis=0)), start.columns.of_part(labels.G.mean(axis=0))
    root = np.sqrt(start.ratio)
    # With f_old = f T + t and g_old = g S + s, the products of t and s with the towers are linear parts.
    tU, sV = rows.t @ U, columns.t @ V
    parts = [
        rows.T @ U * root,
        columns.T @ V * root,
        rows.T @ (u + (U @ sV)[:, None]) * start.ratio,
        columns.T @ (v + (V @ tU)[:, None]) * start.ratio,
        (b + rows.t @ u + columns.t @ v + tU @ sV) * start.ratio - labels.z.mean(),
    ]
    return [torch.tensor(x, dtype=torch.float32).requires_grad_() for x in parts]


def _sides(weights: Arrays, F: Float32, G: Float32) -> tuple[Float32, Float32]:
    """[U f, u f + b, 1] of rows and [V g, 1, v g] of columns: their inner product is the prediction."""
    one_row, one_column = np.ones((len(F), 1), np.float32), np.ones((len(G), 1), np.float32)
    a = np.concatenate([F @ weights["U"], F @ weights["u"] + weights["b"], one_row], axis=1)
    b = np.concatenate([G @ weights["V"], one_column, G @ weights["v"]], axis=1)
    return a, b


def _start(labels: Labels, seed: int) -> Towers:
    """U [r, 8], V [c, 8] small and random, u [r, 1], v [c, 1], b [1] zero."""
    generator = torch.Generator().manual_seed(seed)
    r, c = labels.F.shape[1], labels.G.shape[1]
    U, V = (torch.randn(d, RANK, generator=generator) * _START for d in (r, c))
    made = [U, V, torch.zeros(r, 1), torch.zeros(c, 1), torch.zeros(1)]
    return [x.requires_grad_() for x in made]


def _predict(
    towers: Towers, F: torch.Tensor, G: torch.Tensor, i: torch.Tensor, j: torch.Tensor
) -> torch.Tensor:
    U, V, u, v, b = towers
    # index_select has a backward pass that is deterministic with several threads.
    a = torch.cat([F @ U, F @ u + b], dim=1).index_select(0, i)
    c = torch.cat([G @ V, G @ v], dim=1).index_select(0, j)
    return (a[:, :RANK] * c[:, :RANK]).sum(dim=1) + a[:, RANK] + c[:, RANK]


def _train(towers: Towers, labels: Labels, held_out: Labels | None = None) -> Iterator[float]:
    """Train in place, a step each time it is asked; mean squared error on `held_out` before that step.

    Without held-out labels the error is 0.
    """
    F, G, i, j, z = _tensors(labels)
    other = None if held_out is None else _tensors(held_out)
    optimizer = torch.optim.SGD(
        towers, lr=_LEARNING_RATE, momentum=_MOMENTUM, nesterov=True, weight_decay=_DECAY
    )
    while True:
        error = 0.0
        if other is not None:
            with torch.no_grad():
                error = float((_predict(towers, *other[:4]) - other[4]).square().mean())
        yield error
        optimizer.zero_grad()
        (_predict(towers, F, G, i, j) - z).square().mean().backward()  # type: ignore[no-untyped-call]
        # A product of two towers has no bounded curvature: a long step could diverge.
        torch.nn.utils.clip_grad_norm_(towers, _MAX_GRADIENT)
        optimizer.step()


def _tensors(labels: Labels) -> tuple[torch.Tensor, ...]:
    arrays = (labels.F, labels.G, labels.i, labels.j, labels.z)
    return tuple(torch.from_numpy(x if x.dtype == np.int64 else x.astype(np.float32)) for x in arrays)


def _curve(
    labels: Labels, seed: int, start: Callable[[Labels], Towers], new_rows: Bool | None
) -> list[float]:
    """Mean squared error on held-out rows x held-out columns after 0, 1, .. steps; empty when too few."""
    runs = []
    for part, held_out in _splits(labels, seed, new_rows):
        run = _train(start(part), part.centred_as(part), held_out.centred_as(part))
        runs.append((len(held_out.z), run))
    count = sum(n for n, _ in runs)
    curve: list[float] = []
    while count and len(curve) <= min(_STEPS, int(np.argmin(curve or [0])) + _PATIENCE):
        curve.append(sum(n * next(run) for n, run in runs) / count)
    return curve


def _splits(labels: Labels, seed: int, new_rows: Bool | None) -> Iterator[tuple[Labels, Labels]]:
    """Labels to train on, and held-out ones of other rows and other columns; not yet centred."""
    m, n = len(labels.F), len(labels.G)
    of_row = folds(m, _FOLDS, seed) if new_rows is None else _folds_among(new_rows, seed)
    # A single column cannot be held out: it stays on both sides.
    of_column = folds(n, _FOLDS, seed + 1) if n > 1 else None
    splits = min(m, _FOLDS) if len(labels.z) <= _MANY_LABELS else 2
    for f in range(splits if m > 1 else 0):
        train, test = of_row[labels.i] != f, of_row[labels.i] == f
        if of_column is not None:
            column_out = of_column[labels.j] == f % min(n, _FOLDS)
            train, test = train & ~column_out, test & column_out
        if train.any() and test.any():
            part, held_out = labels.take(np.flatnonzero(train)), labels.take(np.flatnonzero(test))
            yield part, held_out


def _folds_among(new_rows: Bool, seed: int) -> Int64:
    """A fold for each new row, -1 for the others."""
    out = np.full(len(new_rows), -1, np.int64)
    out[new_rows] = folds(int(new_rows.sum()), _FOLDS, seed)
    return out
