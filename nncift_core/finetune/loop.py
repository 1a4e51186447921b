"""The training loop: AdamW over planned steps, a loss of response tokens, a state to go on from.

A loop of our own: transformers' Trainer pickles its checkpoints, takes every GPU its process sees, and has
steps of equally many rows. The arithmetic is the Trainer's: adapters made by it are made again, bit by bit.
Imports torch, so it is imported where training starts.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from nncift_core.config import FinetuneConfig
from nncift_core.finetune.batches import IGNORED, check_packing, packed, padded
from nncift_core.finetune.checkpoints import Checkpoints, State, restore, snapshot, spread
from nncift_core.finetune.methods import Diverged
from nncift_core.finetune.rows import Encoded
from nncift_core.finetune.schedule import Step, learning_rate, plan_steps
from nncift_core.finetune.training import Progress
from nncift_core.finetune.world import World
from nncift_core.language_models import LanguageModel

_CLIP, _EPSILON = 1.0, 1e-8
# Mean-loss gradients of many tokens underflow in float16. Clipping and Adam's epsilon are scaled along,
# which leaves the updates as they were (Adam's step does not depend on the gradient's scale).
_FLOAT16_SCALE = 1024.0


@dataclass(frozen=True)
class Trained:
    """What a training did.

    steps: of the optimiser; losses: mean loss of a response token in each pass, in nats, taken before each
    step's update; seen_rows, seen_tokens: over all passes, no padding; resumed_at: steps that an
    earlier process had done.
    """

    steps: int
    losses: tuple[float, ...]
    seen_rows: int
    seen_tokens: int
    resumed_at: int


@dataclass(frozen=True)
class Place:
    """Where and how a training computes: changes rounding at most.

    float16: whether gradients need the scale that keeps them alive; autocast: the dtype of forward
    passes over weights in float32, None for the weights' own.
    """

    float16: bool = False
    autocast: torch.dtype | None = None
    checkpoints: Checkpoints | None = None
    world: World = World()


def train(
    model: LanguageModel,
    own: FinetuneConfig,
    encoded: Encoded,
    seed: int,
    place: Place | None = None,
    progress: Progress | None = None,
) -> Trained:
    """Train the parameters of `model.model` that want gradients.

    AdamW, linear warmup then linear decay to 0, gradients clipped to norm 1; `seed` (below 2**32) decides the
    order of rows and dropout. progress(done, total) steps. Raises Diverged when a loss is not finite, and
    UserError when the model cannot take packed rows.
    """
    lengths = np.array([len(s) for s in encoded.sequences], np.int64)
    place = place or Place()
    if own.packing:
        check_packing(model.model, model.device)
    steps = plan_steps(lengths, own, seed, place.world.size)
    run = _Run(model, own, encoded, seed, place)
    start = run.resume()
    for done, step in enumerate(steps[start:], start):
        run.take(step, done, len(steps))
        if progress is not None:
            progress(done + 1, len(steps))
    seen = [row for step in steps for row in step.rows]
    return Trained(len(steps), tuple(run.losses), len(seen), int(lengths[seen].sum()), start)


class _Run:
    """A training under way."""

    def __init__(
        self, model: LanguageModel, own: FinetuneConfig, encoded: Encoded, seed: int, place: Place
    ) -> None:
        self.model, self.own, self.encoded, self.seed, self.place = model, own, encoded, seed, place
        self.scale = _FLOAT16_SCALE if place.float16 else 1.0
        named = model.model.named_parameters()
        self.named: dict[str, torch.nn.Parameter] = {n: p for n, p in named if p.requires_grad}
        self.optimizer = _optimizer(self.named.values(), own.weight_decay, _EPSILON * self.scale)
        self.losses: list[float] = []
        self._sum, self._count = 0.0, 0
        model.model.train()
        torch.manual_seed(seed)

    def resume(self) -> int:
        """Go back to where an earlier process was; returns the steps it had done."""
        kept, world = self.place.checkpoints, self.place.world
        state = kept.load() if kept is not None and world.writes else None
        state = spread(state, world, self.model.device)
        if state is None:
            return 0
        restore(state.tensors, self.named, self.optimizer, self.model.device)
        self.losses, self._sum, self._count = list(state.losses), state.loss_sum, state.loss_count
        return state.steps

    def take(self, step: Step, done: int, steps: int) -> None:
        """One optimiser step after `done` of `steps`."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(done, steps, self.own)
        world = self.place.world
        if self._count == 0:
            # transformers' loader draws a number before each pass: with it, its dropout masks are made again.
            torch.empty((), dtype=torch.int64).random_()
        if world.size > 1:
            # Processes draw masks of their own, the same ones after a restart.
            torch.manual_seed(int(np.random.SeedSequence([self.seed, done, world.rank]).generate_state(1)[0]))
        learned = sum(len(self.encoded.sequences[r]) - self.encoded.n_prompt[r] for r in step.rows)
        total = 0.0
        for batch in world.share(step.batches):
            total += self._add_gradients(batch, learned)
        self._finish(total, learned)
        if step.ends_pass:
            self.losses.append(self._sum / self._count)
            self._sum, self._count = 0.0, 0
        kept = self.place.checkpoints
        if kept is not None and world.writes and kept.due():
            tensors = snapshot(self.named, self.optimizer, self.model.device)
            kept.save(State(done + 1, tensors, self.losses, self._sum, self._count))

    def _add_gradients(self, rows: tuple[int, ...], learned: int) -> float:
        """Add a batch's share of the gradient of the step's mean loss; returns its summed loss."""
        pad = self.model.tokenizer.pad_token_id
        made = (
            packed(self.encoded, rows)
            if self.own.packing
            else padded(self.encoded, rows, self.model.eos_id if pad is None else pad)
        )
        labels = made.pop("labels").to(self.model.device)
        inputs = {name: values.to(self.model.device) for name, values in made.items()}
        with _autocast(self.model.device, self.place.autocast):
            logits = self.model.model(**inputs, use_cache=False).logits
        total = summed_loss(logits, labels)
        value = float(total.detach())
        if math.isfinite(value):
            (total * (self.scale / torch.tensor(learned, device=total.device))).backward()  # type: ignore[no-untyped-call]
        return value

    def _finish(self, total: float, learned: int) -> None:
        """Update the weights, all processes having added their gradients; total: loss of this one's share."""
        world, parameters = self.place.world, list(self.named.values())
        (total,) = world.sum_numbers(self.model.device, total)
        # Asked of the sum, so that no process waits for one that has given up.
        if not math.isfinite(total):
            raise Diverged("the training loss")
        self._sum += total
        self._count += learned
        world.sum_gradients(parameters)
        torch.nn.utils.clip_grad_norm_(parameters, _CLIP * self.scale)
        self.optimizer.step()
        self.optimizer.zero_grad()


def summed_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Sum of -log p over the labels [n, tokens] that are not ignored, each given the tokens before it."""
    learned = labels[:, 1:] != IGNORED
    chosen = logits[:, :-1][learned].float()
    return torch.nn.functional.cross_entropy(chosen, labels[:, 1:][learned], reduction="sum")


def _optimizer(
    parameters: Iterable[torch.nn.Parameter], decay: float, epsilon: float
) -> torch.optim.Optimizer:
    """AdamW whose decay spares biases and the scales of norms, which have one dimension."""
    every = list(parameters)
    groups = [
        {"params": [p for p in every if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in every if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.999), eps=epsilon)


def _autocast(device: str, dtype: torch.dtype | None) -> contextlib.AbstractContextManager[Any]:
    if dtype is None:
        return contextlib.nullcontext()
    return torch.autocast(device.partition(":")[0], dtype=dtype)
