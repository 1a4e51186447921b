"""Output, error and gradient of the network in training, each row and column of a batch embedded once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch

Parameters = list[torch.Tensor]

_CHUNK = 16384


@dataclass(frozen=True)
class Labels:
    """Embeddings of the labelled rows and columns only, indices into them, and scaled targets."""

    rows: torch.Tensor
    columns: torch.Tensor
    row_index: torch.Tensor
    column_index: torch.Tensor
    targets: torch.Tensor

    @classmethod
    def of(
        cls,
        rows: npt.NDArray[Any],
        columns: npt.NDArray[Any],
        row_index: npt.NDArray[np.int64],
        column_index: npt.NDArray[np.int64],
        targets: npt.NDArray[np.float64],
    ) -> Self:
        """Label k is row row_index[k] of rows [R, d], column column_index[k] of columns [C, d_column]."""
        used_rows, i = np.unique(row_index, return_inverse=True)
        used_columns, j = np.unique(column_index, return_inverse=True)
        return cls(
            rows=torch.tensor(rows[used_rows], dtype=torch.float32),
            columns=torch.tensor(columns[used_columns], dtype=torch.float32),
            row_index=torch.tensor(i, dtype=torch.int64),
            column_index=torch.tensor(j, dtype=torch.int64),
            targets=torch.tensor(targets, dtype=torch.float32),
        )


def outputs(parameters: Parameters, labels: Labels, batch: torch.Tensor) -> torch.Tensor:
    """Network output for the labels at `batch` [k] -> [k]; parameters: W1r, W1c, b1, W2, b2."""
    W1r, W1c, b1, W2, b2 = parameters
    i, to_i = torch.unique(labels.row_index[batch], return_inverse=True)
    j, to_j = torch.unique(labels.column_index[batch], return_inverse=True)
    # index_select, unlike A[to_i], has a backward pass that is deterministic with several threads.
    A = (labels.rows[i] @ W1r.T).index_select(0, to_i)
    B = torch.addmm(b1, labels.columns[j], W1c.T).index_select(0, to_j)
    return torch.relu(A + B) @ W2[0] + b2


def mean_squared_error(parameters: Parameters, labels: Labels, index: torch.Tensor) -> float:
    """Mean squared error on the scaled targets at `index` [k]."""
    total = 0.0
    with torch.no_grad():
        for start in range(0, len(index), _CHUNK):
            chunk = index[start : start + _CHUNK]
            error = outputs(parameters, labels, chunk) - labels.targets[chunk]
            total += float(error.double().square().sum())
    return total / len(index)


@torch.no_grad()
def set_gradients(parameters: Parameters, labels: Labels, batch: torch.Tensor, buffer: torch.Tensor) -> None:
    """The gradient of the mean squared error over `batch` [k] into `grad` of every parameter.

    What autograd gives for `outputs`, but with the hidden layer of a full tile computed for all its rows x
    columns at once, and kept in `buffer`, which grows as needed: memory asked for anew at every step costs
    more than the arithmetic.
    """
    W1r, W1c, b1, W2, b2 = parameters
    i, to_i = torch.unique(labels.row_index[batch], return_inverse=True)
    j, to_j = torch.unique(labels.column_index[batch], return_inverse=True)
    rows, columns = labels.rows[i], labels.columns[j]
    A, B = rows @ W1r.T, torch.addmm(b1, columns, W1c.T)
    r, c, units, full = len(i), len(j), len(b1), 2 * len(batch) > len(i) * len(j)
    pairs = r * c if full else len(batch)
    if buffer.numel() < pairs * units:
        buffer.resize_(pairs * units)
    H = buffer[: pairs * units].view(pairs, units)
    if full:
        torch.add(A[:, None], B[None], out=H.view(r, c, units))
    else:
        torch.index_select(A, 0, to_i, out=H).add_(B.index_select(0, to_j))
    at = to_i * c + to_j if full else torch.arange(pairs)
    slope = torch.zeros(pairs)
    error = torch.addmv(b2, H.relu_(), W2[0])[at] - labels.targets[batch]
    # Two labels of one pair, where there are any, add up.
    slope.index_add_(0, at, error.mul_(2 / len(batch)))
    W2.grad, b2.grad = (slope @ H)[None], slope.sum()[None]
    H.sign_().mul_(slope[:, None])
    if full:
        to_A, to_B = H.view(r, c, units).sum(dim=1), H.view(r, c, units).sum(dim=0)
    else:
        to_A = torch.zeros(r, units).index_add_(0, to_i, H)
        to_B = torch.zeros(c, units).index_add_(0, to_j, H)
    to_A, to_B = to_A.mul_(W2), to_B.mul_(W2)
    W1r.grad, W1c.grad, b1.grad = to_A.T @ rows, to_B.T @ columns, to_B.sum(dim=0)
