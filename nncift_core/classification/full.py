"""Training an encoder together with a head on it: fine-tuning, with dynamics and checkpoints as `frozen`.

Adam (AdamW without weight decay) on the cross entropy, dropout on in encoder and head, two learning rates.
accelerate gives the precision: on a GPU the encoder runs under bfloat16 autocast where the GPU has it, the
head always in float32. The device is set here, because accelerate itself only ever takes a process's first.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from nncift_core.batching import TokenBudget, is_out_of_memory, slack_of
from nncift_core.classification.contract import (
    Checkpoint,
    Float32,
    Int64,
    Log,
    Run,
)
from nncift_core.classification.frozen import predicted
from nncift_core.classification.heads import layers_of, make_head
from nncift_core.classification.schedule import (
    batches,
    checkpoint_steps,
    logging_points,
    rate_factor,
    steps_per_epoch,
    total_steps,
)
from nncift_core.classification.texts import TextEncoder, TokenRows, load_text_encoder, tokenise
from nncift_core.config_prune import TrainingConfig
from nncift_core.devices import default_dtype
from nncift_core.errors import RunError, UserError
from nncift_core.hashing import int63
from nncift_core.hub import quiet

# Dropout in an encoder draws from the process's random state, and accelerate keeps its own process-wide.
_ONE_AT_A_TIME = threading.Lock()
# Tokens of a forward pass over all rows; on the CPU more only leave the caches.
_CPU_TOKENS, _GPU_TOKENS = 2048, 32768

TextSet = tuple[Sequence[str], Sequence[str] | None]


def train_encoder(
    folder: Path,
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    labels: Int64,
    n_classes: int,
    settings: TrainingConfig,
    *,
    seed: int,
    device: str = "cpu",
    log: bool = False,
    checkpoints: int = 0,
    weights_dir: Path | None = None,
    evaluate: Mapping[str, TextSet] | None = None,
    progress: Callable[[int], None] | None = None,
    trust_remote_code: bool = False,
) -> Run:
    """Fine-tune the encoder in `folder` with a fresh head on texts [N] (and pairs [N]), labels [N].

    seed decides the head's initial weights, the order of rows and dropout; log: whether to keep the dynamics
    of all rows; checkpoints: how many to keep, each with its encoder as encoder-STEP.safetensors in the
    existing folder `weights_dir`; evaluate: name -> (texts, pairs) to predict at the end. progress(k): k more
    rows were stepped over. Trainings of a process wait for each other; its random state is as before. Equal
    arguments on one machine's CPU give equal results. facts: truncated_texts (of the N rows, longer than
    `max_tokens`), training_loss (mean over the last epoch's rows).

    Raises UserError (an unusable encoder, a loss that is not finite), RunError (too little memory),
    ValueError (texts, pairs, labels of different lengths; checkpoints without a folder).
    """
    if len(texts) != len(labels):
        raise ValueError(f"{len(texts)} texts and {len(labels)} labels")
    if checkpoints and weights_dir is None:
        raise ValueError("checkpoints were asked for without a folder for the encoder's weights")
    with (
        _ONE_AT_A_TIME,
        quiet(),
        torch.inference_mode(False),
        torch.enable_grad(),
        _seeded(seed, device),
        _accelerator(device) as accelerator,
        _memory(device),
    ):
        encoder = load_text_encoder(folder, device, trust_remote_code)
        rows = tokenise(encoder, texts, pairs, settings.max_tokens)
        training = _Training(encoder, rows, labels, n_classes, settings, seed, accelerator)
        points = logging_points(len(rows), settings) if log else {}
        keep = set(checkpoint_steps(training.total, checkpoints)) if checkpoints else set()
        noted = Log(labels, training.per_epoch, whole=settings.keep_logits)
        kept: list[Checkpoint] = []
        for step in range(1, training.total + 1):
            count = training.step()
            if step in points:
                noted.note(step, points[step], [training.logits(rows)])
            if step in keep and weights_dir is not None:
                kept.append(training.checkpoint(weights_dir))
            if progress is not None:
                progress(count)
        predictions = {
            name: predicted(training.logits(tokenise(encoder, *given, settings.max_tokens)))
            for name, given in (evaluate or {}).items()
        }
    facts = {"truncated_texts": rows.truncated, "training_loss": training.epoch_loss}
    dynamics, whole = (noted.dynamics(), noted.logits()) if log else (None, None)
    return Run(dynamics, tuple(kept), predictions, facts, whole)


class _Training:
    """The state of one training: encoder, head, optimiser, place in the schedule.

    total, per_epoch: steps; epoch_loss: mean loss per row of the present epoch so far, in nats.
    """

    def __init__(
        self,
        encoder: TextEncoder,
        rows: TokenRows,
        labels: Int64,
        n_classes: int,
        settings: TrainingConfig,
        seed: int,
        accelerator: Any,
    ) -> None:
        self.encoder, self.rows, self.settings, self.seed = encoder, rows, settings, seed
        self.accelerator = accelerator
        self.per_epoch = steps_per_epoch(len(rows), settings.batch_size)
        self.total = total_steps(len(rows), settings)
        head = make_head(settings.head, encoder.dim, n_classes, settings.hidden, settings.dropout, seed)
        self.head = head.to(encoder.device)
        self._labels = torch.from_numpy(labels).to(encoder.device)
        self._optimizer = torch.optim.AdamW(
            [
                {"params": list(encoder.model.parameters()), "lr": settings.encoder_rate},
                {"params": list(self.head.parameters()), "lr": settings.learning_rate},
            ],
            weight_decay=0.0,
            fused=True,
        )
        tokens = _CPU_TOKENS if encoder.device == "cpu" else _GPU_TOKENS
        slack = slack_of(encoder.device)
        self._budget = TokenBudget(tokens, slack, "training.max_tokens", encoder.device)
        self._done = 0
        self._losses: list[float] = []
        self._batches: list[Int64] = []

    @property
    def epoch_loss(self) -> float:
        sizes = [len(batch) for batch in self._batches[: len(self._losses)]]
        return float(np.average(self._losses, weights=sizes))

    def step(self) -> int:
        """One optimisation step; the rows of its batch."""
        place = self._done % self.per_epoch
        if place == 0:
            epoch = self._done // self.per_epoch
            self._batches = batches(len(self.rows), self.settings.batch_size, self.seed, epoch)
            self._losses = []
        index = self._batches[place]
        for group, rate in zip(self._optimizer.param_groups, self._rates(), strict=True):
            group["lr"] = rate
        self.encoder.model.train()
        self.head.train()
        self._optimizer.zero_grad(set_to_none=True)
        labels = self._labels[torch.from_numpy(index).to(self._labels.device)]
        loss = torch.nn.functional.cross_entropy(self._forward(self.rows, index), labels)
        self._losses.append(_finite(float(loss.detach())))
        self.accelerator.backward(loss)
        self._optimizer.step()
        self._done += 1
        return len(index)

    def _rates(self) -> tuple[float, float]:
        """Learning rates of encoder and head at the step to come."""
        share = rate_factor(self._done, self.total, self.settings.warmup)
        return self.settings.encoder_rate * share, self.settings.learning_rate * share

    def _forward(self, rows: TokenRows, index: Int64) -> torch.Tensor:
        with self.accelerator.autocast():
            pooled = self.encoder.pooled(rows.batch(index, self.encoder.device))
        logits: torch.Tensor = self.head(pooled.float())
        return logits

    @torch.no_grad()
    def logits(self, rows: TokenRows) -> Float32:
        """Logits [n, K] of `rows`, without dropout, in batches of like lengths."""
        self.encoder.model.eval()
        self.head.eval()
        out = np.empty((len(rows), layers_of(self.head)[-1][1].size), np.float32)

        def work(batch: Int64) -> None:
            out[batch] = self._forward(rows, batch).cpu().numpy()

        self._budget.run(rows.lengths(), work)
        return out

    def checkpoint(self, weights_dir: Path) -> Checkpoint:
        """What the last step left behind, the encoder written to `weights_dir`."""
        encoder_rate, rate = (group["lr"] for group in self._optimizer.param_groups)
        name = f"encoder-{self._done:06d}.safetensors"
        # Clones, since tied weights would be refused.
        state = {k: v.detach().cpu().contiguous().clone() for k, v in self.encoder.model.state_dict().items()}
        save_file(state, weights_dir / name)
        layers = layers_of(self.head)
        return Checkpoint(self._done, self._done / self.per_epoch, rate, layers, encoder_rate, name)


def _finite(loss: float) -> float:
    if not math.isfinite(loss):
        raise UserError(
            "training failed: its loss is not a finite number",
            field="training.encoder_rate",
            mend="Lower it (training.learning_rate too), or set training.warmup = 0.1.",
        )
    return loss


@contextmanager
def _seeded(seed: int, device: str) -> Iterator[None]:
    """Within, torch draws on the CPU and on `device` by `seed`; after, their random states are as before."""
    drawn = int63(f"dropout\x1f{seed}")
    gpus = [torch.device(device).index or 0] if device.startswith("cuda") else []
    with torch.random.fork_rng(devices=gpus):
        # Not torch.manual_seed, which seeds every other device as well.
        torch.default_generator.manual_seed(drawn)
        for gpu in gpus:
            torch.cuda.default_generators[gpu].manual_seed(drawn)
        if device == "mps":
            torch.mps.manual_seed(drawn)
        yield


@contextmanager
def _accelerator(device: str) -> Iterator[Any]:
    """accelerate for one process, in the precision of `device`; its process-wide state is put back after.

    Raises RunError under a launcher of several processes.
    """
    from accelerate import Accelerator  # type: ignore[import-untyped]
    from accelerate.state import AcceleratorState, PartialState  # type: ignore[import-untyped]

    states = (AcceleratorState._shared_state, PartialState._shared_state)
    before = [dict(state) for state in states]
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        half = device.startswith("cuda") and default_dtype([device]) == "bfloat16"
        accelerator = Accelerator(
            device_placement=False, cpu=device == "cpu", mixed_precision="bf16" if half else "no"
        )
        if accelerator.num_processes != 1:
            raise RunError(
                f"a launcher of {accelerator.num_processes} processes started this one: run nncift without it"
            )
        yield accelerator
    finally:
        for state, values in zip(states, before, strict=True):
            state.clear()
            state.update(values)


@contextmanager
def _memory(device: str) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as e:
        if not is_out_of_memory(e):
            raise
        raise RunError(
            f"training the encoder ran out of memory on {device}: lower training.batch_size or "
            "training.max_tokens, or take a smaller encoder"
        ) from e
