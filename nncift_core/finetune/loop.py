"""The training loop: transformers' Trainer with our batches, our loss and no output.

Imports torch and transformers, so it is imported where training starts.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from nncift_core.config import FinetuneConfig
from nncift_core.errors import RunError
from nncift_core.finetune.rows import Encoded
from nncift_core.finetune.training import Progress, not_finite
from nncift_core.language_models import LanguageModel

_IGNORED = -100
_CLIP, _EPSILON = 1.0, 1e-8
# Mean-loss gradients of many tokens underflow in float16. Clipping and Adam's epsilon are scaled along,
# which leaves the updates as they were (Adam's step does not depend on the gradient's scale).
_FLOAT16_SCALE = 1024.0


def train(
    model: LanguageModel,
    own: FinetuneConfig,
    encoded: Encoded,
    seed: int,
    float16: bool,
    progress: Progress | None,
) -> tuple[int, tuple[float, ...]]:
    """Train the parameters of `model.model` that want gradients; returns the steps and each epoch's loss.

    AdamW, linear warmup then linear decay to 0, gradients clipped to norm 1; `seed` (below 2**32) decides the
    order of rows and dropout; float16: whether the student's weights are. progress(done, total) steps.
    Raises UserError when a loss is not finite.
    """
    micro = micro_batch(max(map(len, encoded.sequences)), own.batch_size, own.batch_tokens)
    steps = own.epochs * math.ceil(len(encoded.sequences) / own.batch_size)
    scale = _FLOAT16_SCALE if float16 else 1.0
    loss = ResponseLoss(scale)
    with tempfile.TemporaryDirectory() as scratch:
        args = TrainingArguments(
            output_dir=scratch,
            num_train_epochs=own.epochs,
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=own.batch_size // micro,
            learning_rate=own.learning_rate,
            lr_scheduler_type="linear",
            # A warmup step starts at rate 0: a short training has none to lose.
            warmup_steps=min(int(steps * own.warmup), steps - 1),
            weight_decay=own.weight_decay,
            optim="adamw_torch",
            max_grad_norm=_CLIP * scale,
            adam_epsilon=_EPSILON * scale,
            seed=seed,
            use_cpu=model.device == "cpu",
            save_strategy="no",
            eval_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
            dataloader_num_workers=0,
            remove_unused_columns=False,
        )
        trainer = _Trainer(
            model=model.model,
            args=args,
            train_dataset=_examples(encoded),
            data_collator=Collator(model.eos_id if (pad := model.tokenizer.pad_token_id) is None else pad),
            compute_loss_func=loss,
            callbacks=[_Watch(loss, progress)],
        )
        trainer.order = RowOrder([len(s) for s in encoded.sequences], own.batch_size, seed)
        trainer.remove_callback(PrinterCallback)
        done = trainer.train().global_step
    if done != steps:
        raise RunError(f"the training library took {done} optimiser steps instead of {steps}")
    return done, tuple(loss.epochs)


def micro_batch(longest: int, batch_size: int, batch_tokens: int) -> int:
    """Rows of a forward pass: the largest divisor of `batch_size` that fits `batch_tokens`, at least 1."""
    divisors = [m for m in range(1, batch_size + 1) if batch_size % m == 0]
    return max((m for m in divisors if m * longest <= batch_tokens), default=1)


def _examples(encoded: Encoded) -> list[dict[str, Any]]:
    return [
        {"input_ids": ids, "n_prompt": n} for ids, n in zip(encoded.sequences, encoded.n_prompt, strict=True)
    ]


class Collator:
    """Rows of `_examples` as tensors [n, longest]: padded on the right, nothing learned but responses."""

    def __init__(self, pad: int) -> None:
        self.pad = pad

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        longest = max(len(row["input_ids"]) for row in rows)
        ids = torch.full((len(rows), longest), self.pad)
        mask = torch.zeros((len(rows), longest), dtype=torch.int64)
        labels = torch.full((len(rows), longest), _IGNORED)
        for k, row in enumerate(rows):
            n, first = len(row["input_ids"]), row["n_prompt"]
            ids[k, :n] = torch.tensor(row["input_ids"])
            mask[k, :n] = 1
            labels[k, first:n] = ids[k, first:n]
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}


class ResponseLoss:
    """The loss of a micro-batch: its share of the mean -log p over all response tokens of the step.

    epochs: mean training loss of a response token in each epoch so far, in nats.
    """

    def __init__(self, scale: float) -> None:
        self.scale, self.epochs = scale, list[float]()
        self._sum, self._count = 0.0, 0

    def __call__(self, outputs: Any, labels: torch.Tensor, num_items_in_batch: Any) -> torch.Tensor:
        """Raises UserError when the loss is not finite; num_items_in_batch: response tokens of the step."""
        learned = labels[:, 1:] != _IGNORED
        logits = outputs.logits[:, :-1][learned].float()
        total = torch.nn.functional.cross_entropy(logits, labels[:, 1:][learned], reduction="sum")
        value = float(total.detach())
        if not math.isfinite(value):
            raise not_finite("the training loss")
        self._sum += value
        self._count += len(logits)
        scaled: torch.Tensor = total * (self.scale / num_items_in_batch)
        return scaled

    def end_epoch(self) -> None:
        """Close an epoch's mean."""
        self.epochs.append(self._sum / self._count)
        self._sum, self._count = 0.0, 0


class RowOrder(torch.utils.data.Sampler[int]):
    """Indices of the rows, shuffled anew each epoch by `seed`; those of a step longest first.

    Sorting within a step leaves its sum as it is, and micro-batches of like lengths waste no padding.
    """

    def __init__(self, lengths: list[int], batch_size: int, seed: int) -> None:
        self.lengths, self.batch_size, self.seed, self.epoch = np.array(lengths), batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the training library before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(len(self.lengths))
        for start in range(0, len(order), self.batch_size):
            step = order[start : start + self.batch_size]
            yield from step[np.argsort(-self.lengths[step], kind="stable")].tolist()


class _Trainer(Trainer):
    """Trainer that takes the rows in `order`, set before training."""

    order: RowOrder

    def _get_train_sampler(self, train_dataset: Any = None) -> RowOrder:
        return self.order


class _Watch(TrainerCallback):
    """Reports steps, and ends the loss's epochs."""

    def __init__(self, loss: ResponseLoss, progress: Progress | None) -> None:
        self.loss, self.progress = loss, progress

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.progress is not None:
            self.progress(state.global_step, state.max_steps)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.loss.end_epoch()
