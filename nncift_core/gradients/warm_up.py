"""The warm-up training of LESS: LoRA adapters on a sample of the pool, a checkpoint after each epoch.

A loop of our own: the training library takes every GPU its process sees, numbers its optimiser's moments
instead of naming them, and draws dropout by batch. Here a training depends on rows, settings and seed only:
rows are taken in the order of their content, shuffled by the seed; an optimiser step's gradient is the sum
over its rows, however they are batched; and dropout masks are hashes of where they stand (row, epoch, layer,
position), the same on every device. The model's own dropout, where it has any, stays off.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from nncift_core.batching import TokenBudget
from nncift_core.config import LessConfig
from nncift_core.errors import UserError
from nncift_core.gradients.adapters import Adapted, set_dropout
from nncift_core.gradients.checkpoints import Checkpoint
from nncift_core.gradients.features import BETA1, BETA2, EPSILON
from nncift_core.gradients.per_sample import Sequences, gradient_scale, token_losses
from nncift_core.gradients.projection import mixed, signed
from nncift_core.hashing import int63

Int64 = npt.NDArray[np.int64]
StepProgress = Callable[[int, int], None]

_CLIP = 1.0
_FIELD = "influence.less.learning_rate"


@dataclass(frozen=True)
class WarmUp:
    """What a warm-up did.

    learning_rates: mean over each epoch's steps; losses: mean training loss of a response token in each
    epoch, in nats, taken before each step's update; steps: of the optimiser, all epochs.
    """

    learning_rates: tuple[float, ...]
    losses: tuple[float, ...]
    steps: int


def checkpoint_name(epoch: int) -> str:
    """File name of the checkpoint after epoch 1, 2, ..."""
    return f"checkpoint-{epoch}.safetensors"


def schedule(steps: int, peak: float, warmup: float) -> list[float]:
    """Learning rate of each step: linear from 0 over the share `warmup`, then linear down towards 0.

    At least one step is no warmup step, so a short training has a rate.
    """
    rising = min(int(steps * warmup), steps - 1)
    return [peak * (k / rising if k < rising else (steps - k) / (steps - rising)) for k in range(steps)]


def warm_up(
    adapted: Adapted,
    config: LessConfig,
    content_ids: Int64,
    sequences: Sequences,
    seed: int,
    budget: TokenBudget,
    folder: Path,
    progress: StepProgress | None = None,
) -> WarmUp:
    """Train fresh adapters on n rows for `config.epochs` epochs and write a checkpoint after each.

    AdamW (0.9, 0.999, 1e-8; moments in float32), `schedule`, gradients clipped to norm 1; a step's loss is
    the mean over its response tokens. content_ids [n]: distinct, they decide the order. Files go to `folder`
    (`checkpoint_name`). progress(done, total) steps. Raises UserError when a loss or gradient is not finite.
    """
    order = np.argsort(content_ids, kind="stable")
    content_ids, sequences = content_ids[order], sequences.take(order)
    per_epoch = math.ceil(len(sequences) / config.batch_size)
    rates = schedule(per_epoch * config.epochs, config.learning_rate, config.warmup)
    adapted.start_anew(seed)
    means, losses = [], []
    with _trainable(adapted, config.dropout) as dropouts:
        optimizer = torch.optim.AdamW(
            list(adapted.parameters.values()),
            lr=0.0,
            betas=(BETA1, BETA2),
            eps=EPSILON,
            weight_decay=config.weight_decay,
        )
        for epoch in range(config.epochs):
            for dropout in dropouts:
                dropout.set_place(seed, epoch)
            shuffled = np.random.default_rng([seed, epoch]).permutation(len(sequences))
            total, tokens = 0.0, 0
            for step in range(per_epoch):
                rows = shuffled[step * config.batch_size : (step + 1) * config.batch_size]
                done = epoch * per_epoch + step
                optimizer.param_groups[0]["lr"] = rates[done]
                loss, count = _gradients(adapted, sequences.take(rows), content_ids[rows], dropouts, budget)
                _clip(adapted, loss)
                optimizer.step()
                total, tokens = total + loss, tokens + count
                if progress is not None:
                    progress(done + 1, len(rates))
            losses.append(total / tokens)
            means.append(math.fsum(rates[epoch * per_epoch : (epoch + 1) * per_epoch]) / per_epoch)
            saved = _checkpoint(adapted, optimizer, epoch + 1, (epoch + 1) * per_epoch, means[-1])
            saved.save(folder / checkpoint_name(epoch + 1))
    return WarmUp(tuple(means), tuple(losses), len(rates))


def _clip(adapted: Adapted, loss: float) -> None:
    """Clip the gradients to norm 1; raises UserError when they or the loss are not finite."""
    norm = torch.nn.utils.clip_grad_norm_(list(adapted.parameters.values()), _CLIP)
    if math.isfinite(loss) and math.isfinite(float(norm)):
        return
    raise UserError(
        "the warm-up training failed: its loss or gradient is not a finite number",
        field=_FIELD,
        mend='Lower it, or use dtype = "float32" or "bfloat16".',
    )


def _checkpoint(
    adapted: Adapted, optimizer: torch.optim.Optimizer, epoch: int, steps: int, learning_rate: float
) -> Checkpoint:
    moments = {name: optimizer.state[p] for name, p in adapted.parameters.items()}
    return Checkpoint(
        epoch=epoch,
        steps=steps,
        learning_rate=learning_rate,
        shape=adapted.shape,
        model_key=adapted.model.key,
        weight=dict(adapted.parameters),
        exp_avg={name: moment["exp_avg"] for name, moment in moments.items()},
        exp_avg_sq={name: moment["exp_avg_sq"] for name, moment in moments.items()},
    )


def _gradients(
    adapted: Adapted,
    sequences: Sequences,
    content_ids: Int64,
    dropouts: list[RowDropout],
    budget: TokenBudget,
) -> tuple[float, int]:
    """Set every adapter's gradient of the mean loss over the response tokens of one step.

    Returns the summed loss and the number of its tokens. Memory that runs out costs a batch, not a sum:
    gradients are added after a pass is through.
    """
    trained = list(adapted.parameters.values())
    scale = gradient_scale(adapted.model)
    count = sum(map(len, sequences.responses))
    total = 0.0
    sums = [torch.zeros_like(p) for p in trained]

    def work(batch: Int64) -> None:
        nonlocal total
        for dropout in dropouts:
            dropout.rows = torch.from_numpy(content_ids[batch])
        losses, _ = token_losses(adapted.model, sequences.take(batch))
        loss = losses.sum()
        found = torch.autograd.grad(
            loss * (scale / count), trained, allow_unused=True, materialize_grads=True
        )
        for g_sum, g in zip(sums, found, strict=True):
            g_sum.add_(g, alpha=1 / scale)
        total += float(loss.detach())

    with torch.enable_grad():
        budget.run(sequences.lengths(), work)
    for p, g_sum in zip(trained, sums, strict=True):
        p.grad = g_sum
    return total, count


class RowDropout(torch.nn.Module):
    """Dropout [n, tokens, features] whose mask depends on each row's content, not on its batch.

    Sixteen bits of a SplitMix64 hash of (seed, epoch, layer, row, token, feature) decide each entry; what
    stays is scaled so that the mean stays. rows [n]: content ids of the rows of the next forward pass.
    """

    def __init__(self, p: float, layer: str) -> None:
        super().__init__()
        # A feature is dropped when its 16 bits, read as a signed number, lie below the threshold.
        self.dropped = min(round(p * 65536), 65535)
        self.layer = layer
        self.rows = torch.empty(0, dtype=torch.int64)
        self._place = 0

    def set_place(self, seed: int, epoch: int) -> None:
        """In which training and epoch the next passes are."""
        self._place = int63(f"dropout\x1f{seed}\x1f{epoch}\x1f{self.layer}")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [n, tokens, features] with some entries 0 and the others scaled up."""
        n, tokens, features = x.shape
        golden, device = signed(0x9E3779B97F4A7C15), x.device
        row = mixed(self.rows.to(device) * golden + self._place)
        token = mixed(row[:, None] + torch.arange(1, tokens + 1, device=device) * golden)
        group = torch.arange(1, -(-features // 4) + 1, device=device) * golden
        bits = mixed(token[:, :, None] + group).view(torch.int16)[:, :, :features]
        kept = bits >= self.dropped - 32768
        return x * (kept * (65536 / (65536 - self.dropped)))


@contextmanager
def _trainable(adapted: Adapted, p: float) -> Iterator[list[RowDropout]]:
    """The adapters trainable and with dropout `p`, and as they were afterwards."""
    dropouts = []
    adapted.model.model.eval()
    for parameter in adapted.parameters.values():
        parameter.requires_grad_(True)
    for name, layer in adapted.layers.items():
        if p:
            dropouts.append(RowDropout(p, name))
            set_dropout(layer, dropouts[-1])
    try:
        yield dropouts
    finally:
        for layer in adapted.layers.values():
            set_dropout(layer, torch.nn.Identity())
        for parameter in adapted.parameters.values():
            parameter.requires_grad_(False)
            parameter.grad = None
