"""Training a head on cached embeddings: an encoder that is frozen costs nothing after its first pass.

Adam on the cross entropy, dropout from a generator of its own, so that trainings in several threads of a
process neither disturb each other nor torch's global state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch

from nncift_core.classification.contract import (
    Checkpoint,
    Float32,
    Int64,
    Log,
    Prediction,
    Run,
)
from nncift_core.classification.heads import layers_of, linears, make_head
from nncift_core.classification.schedule import (
    batches,
    checkpoint_steps,
    logging_points,
    rate_factor,
    steps_per_epoch,
    total_steps,
)
from nncift_core.config_prune import TrainingConfig
from nncift_core.hashing import int63

_ROWS_AT_ONCE = 4096


def train_head(
    x: Float32,
    labels: Int64,
    n_classes: int,
    settings: TrainingConfig,
    *,
    seed: int,
    device: str = "cpu",
    log: bool = False,
    checkpoints: int = 0,
    evaluate: Mapping[str, Float32] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Run:
    """Train a head on embeddings x [N, d] and labels [N] in 0..n_classes-1; an x that repeats one row by a
    stride of 0 (`np.broadcast_to`) is not copied.

    seed decides initial weights, order of rows and dropout; log: whether to keep the dynamics of all rows;
    checkpoints: how many to keep; evaluate: name -> embeddings [n, d] to predict at the end. progress(k): k
    more rows were stepped over. Equal arguments on one machine give equal results.
    """
    training = _Training(x, labels, n_classes, settings, seed, device)
    points = logging_points(len(x), settings) if log else {}
    keep = set(checkpoint_steps(training.total, checkpoints)) if checkpoints else set()
    noted = Log(labels, training.per_epoch, whole=settings.keep_logits)
    kept: list[Checkpoint] = []
    for step in range(1, training.total + 1):
        rate, rows = training.step()
        if step in points:
            noted.note(step, points[step], training.blocks(training.x))
        if step in keep:
            kept.append(Checkpoint(step, step / training.per_epoch, rate, layers_of(training.head)))
        if progress is not None:
            progress(rows)
    predictions = {
        name: predicted(training.logits(torch.from_numpy(each).to(device)))
        for name, each in (evaluate or {}).items()
    }
    dynamics, whole = (noted.dynamics(), noted.logits()) if log else (None, None)
    return Run(dynamics, tuple(kept), predictions, logits=whole)


def predicted(logits: Float32) -> Prediction:
    """The prediction of logits [n, K]."""
    f = logits.astype(np.float64)
    p = np.exp(f - f.max(axis=1, keepdims=True))
    return Prediction(f.argmax(axis=1), (p / p.sum(axis=1, keepdims=True)).astype(np.float32))


class _Training:
    """The state of one training: head, optimiser, place in the schedule."""

    def __init__(
        self, x: Float32, labels: Int64, n_classes: int, settings: TrainingConfig, seed: int, device: str
    ) -> None:
        self.x, self.y = _on(device, x), torch.from_numpy(labels).to(device)
        self.settings, self.seed, self.device = settings, seed, device
        self.per_epoch = steps_per_epoch(len(x), settings.batch_size)
        self.total = total_steps(len(x), settings)
        hidden, dropout = settings.hidden, settings.dropout
        self.head = make_head(settings.head, x.shape[1], n_classes, hidden, dropout, seed).to(device)
        self._linears = linears(self.head)
        self._optimizer = torch.optim.Adam(self.head.parameters(), lr=settings.learning_rate, fused=True)
        drawn = int63(f"dropout\x1f{seed}")
        self._generator = torch.Generator(device=device).manual_seed(drawn)
        self._done = 0
        self._batches: list[Int64] = []

    def step(self) -> tuple[float, int]:
        """One optimisation step; its learning rate and the rows of its batch."""
        place = self._done % self.per_epoch
        if place == 0:
            epoch = self._done // self.per_epoch
            self._batches = batches(len(self.x), self.settings.batch_size, self.seed, epoch)
        index = torch.from_numpy(self._batches[place]).to(self.device)
        rate = self.settings.learning_rate * rate_factor(self._done, self.total, self.settings.warmup)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.zero_grad(set_to_none=True)
        with torch.enable_grad():
            logits = self._forward(self.x.index_select(0, index))
            torch.nn.functional.cross_entropy(logits, self.y[index]).backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        self._done += 1
        return rate, len(index)

    def _forward(self, h: torch.Tensor) -> torch.Tensor:
        """The head in training, its dropout drawn from this training's own generator."""
        keep = 1 - self.settings.dropout
        for linear in self._linears[:-1]:
            h = torch.relu(linear(h))
            if keep < 1:
                h = h * (torch.rand(h.shape, generator=self._generator, device=self.device) < keep) / keep
        out: torch.Tensor = self._linears[-1](h)
        return out

    def logits(self, x: torch.Tensor) -> Float32:
        """Logits [n, K] of embeddings [n, d], without dropout."""
        return np.concatenate(list(self.blocks(x)))

    def blocks(self, x: torch.Tensor) -> Iterator[Float32]:
        """The same in blocks of rows, so that those of a million rows need not be held at once."""
        for at in range(0, len(x), _ROWS_AT_ONCE):
            self.head.eval()
            with torch.no_grad():
                found: Float32 = self.head(x[at : at + _ROWS_AT_ONCE]).float().cpu().numpy()
            self.head.train()
            yield found


def _on(device: str, x: Float32) -> torch.Tensor:
    """x [N, d] on a device; one row that is repeated stays one row."""
    if len(x) > 1 and x.strides[0] == 0:
        return torch.from_numpy(x[:1].copy()).to(device).expand(len(x), -1)
    return torch.from_numpy(x).to(device)
