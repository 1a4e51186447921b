"""Gradient scores of a head on frozen embeddings: VoG at the embedding, TracIn and GraNd over the head.

Layer k of the head computes z_k = W_k a_k + b_k, with a_0 = x and a_{k+1} = relu(z_k). With delta_K the
gradient of a row's quantity with respect to its logits z_K (softmax(z) - onehot(y) for the cross entropy,
onehot(y) for the logit of its label),
    delta_k = (W_{k+1}^T delta_{k+1}) * [z_k > 0],    d / dx = W_0^T delta_0,
    ||d / dW_k||^2 + ||d / db_k||^2 = ||delta_k||^2 (||a_k||^2 + 1),
so that no gradient of a weight is ever computed. Products are in float32, sums over layers and checkpoints
in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from nncift_core.classification.contract import Checkpoint, Float32, Float64, Int64
from nncift_core.classification.heads import Layers
from nncift_core.errors import UserError
from nncift_core.scores.grand import grand
from nncift_core.scores.tracin import tracin

GRADIENT_SCORES = ("vog", "tracin", "grand")
_EARLY = 5


@dataclass(frozen=True, eq=False)
class HeadGradients:
    """Of n rows at one checkpoint: squared norm [n] of the cross entropy's gradient over all weights and
    biases of the head; gradients [n, d] of cross entropy and of the label's logit with respect to x."""

    squared_norm: torch.Tensor
    loss_at_x: torch.Tensor
    logit_at_x: torch.Tensor


class HeadAt:
    """The head of a checkpoint on a device."""

    def __init__(self, layers: Layers, device: str) -> None:
        self._layers = [
            (torch.from_numpy(np.ascontiguousarray(w)).to(device), torch.from_numpy(b).to(device))
            for w, b in layers
        ]

    @torch.no_grad()
    def gradients(self, x: torch.Tensor, labels: torch.Tensor) -> HeadGradients:
        """`HeadGradients` of x [n, d] with labels [n], all rows in one pass."""
        inputs = [x]
        for weight, bias in self._layers[:-1]:
            inputs.append(torch.relu(torch.addmm(bias, inputs[-1], weight.T)))
        weight, bias = self._layers[-1]
        delta = torch.softmax(torch.addmm(bias, inputs[-1], weight.T), dim=1)
        delta[torch.arange(len(x), device=x.device), labels] -= 1
        norm = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        logit = weight[labels]
        for k in range(len(self._layers) - 1, -1, -1):
            norm += squared(delta) * (squared(inputs[k]) + 1)
            delta = delta @ self._layers[k][0]
            if k:
                active = inputs[k] > 0
                delta *= active
                logit = (logit * active) @ self._layers[k - 1][0]
        return HeadGradients(norm, delta, logit)


class Spread:
    """Squared deviations of gradients from their mean over checkpoints, summed as they come (Welford).

    Holds two tensors of the gradients' shape, whatever the number of checkpoints.
    """

    def __init__(self) -> None:
        self._count = 0
        self._mean = self._squares = torch.empty(0)

    def add(self, gradients: torch.Tensor) -> None:
        """The gradients [n, ...] of one more checkpoint."""
        if not self._count:
            self._mean, self._squares = torch.zeros_like(gradients), torch.zeros_like(gradients)
        self._count += 1
        apart = gradients - self._mean
        self._mean.add_(apart, alpha=1 / self._count)
        self._squares.addcmul_(apart, gradients - self._mean)

    def per_row(self) -> torch.Tensor:
        """sum_c (G_c - mean)^2 / sqrt(C), averaged over all but the first dimension, [n] in float64.

        C is the number of checkpoints added, see `vog.py`.
        """
        places = self._squares.flatten(1).mean(dim=1, dtype=torch.float64)
        return places / math.sqrt(self._count)


def head_gradient_scores(
    checkpoints: Sequence[Checkpoint],
    x: Float32,
    labels: Int64,
    names: Collection[str],
    *,
    device: str = "cpu",
    batch: int = 2048,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Float64]:
    """Raw scores [N] by name of the rows x [N, d] with labels [N], from C checkpoints of one run.

    "vog": of the gradient of the label's logit with respect to x, [N, d] at each checkpoint; "tracin": the
    squared norms over all weights and biases of the head, weighted by its learning rates; "grand": the mean
    norm over the first fifth of the checkpoints (rounded up), since that score is meant early in training.
    batch: rows at once, 2 d numbers of memory each; progress(k): k more rows are through one checkpoint.
    Raises ValueError for unknown names or no checkpoint, UserError for VoG of a single one.
    """
    check_request(checkpoints, names)
    heads = [HeadAt(c.layers, device) for c in checkpoints]
    norms = np.empty((len(checkpoints), len(x)))
    vog = np.empty(len(x))
    for start in range(0, len(x), batch):
        rows = slice(start, start + batch)
        part = torch.from_numpy(np.ascontiguousarray(x[rows])).to(device)
        given = torch.from_numpy(np.ascontiguousarray(labels[rows])).to(device)
        spread = Spread()
        for c, head in enumerate(heads):
            found = head.gradients(part, given)
            norms[c, rows] = found.squared_norm.cpu().numpy()
            if "vog" in names:
                spread.add(found.logit_at_x)
            if progress is not None:
                progress(len(part))
        if "vog" in names:
            vog[rows] = spread.per_row().cpu().numpy()
    out = {"vog": vog} if "vog" in names else {}
    if "tracin" in names:
        out["tracin"] = tracin(norms, np.array([c.learning_rate for c in checkpoints]))
    if "grand" in names:
        out["grand"] = grand(norms[: early(len(checkpoints))])
    return out


def early(checkpoints: int) -> int:
    """How many of the first checkpoints GraNd averages over: a fifth, rounded up."""
    return -(-checkpoints // _EARLY)


def check_request(checkpoints: Sequence[Checkpoint], names: Collection[str]) -> None:
    """Refuse what no gradient score can be made of, see `head_gradient_scores`."""
    unknown = sorted(set(names) - set(GRADIENT_SCORES))
    if unknown:
        raise ValueError(f"no gradient score {unknown[0]}")
    if not checkpoints:
        raise ValueError("gradient scores need checkpoints")
    if "vog" in names and len(checkpoints) < 2:
        raise UserError(
            "VoG is a spread over checkpoints, and the training is so short that it has a single one",
            field="training.epochs",
            mend='Train for more steps, or leave "vog" out of scores.names.',
        )


def squared(rows: torch.Tensor) -> torch.Tensor:
    """Squared norm [n] of each of the rows [n, ...], in float64."""
    return rows.flatten(1).square().sum(dim=1, dtype=torch.float64)
