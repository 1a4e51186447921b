"""One fine-tune in this process: load the student, make it trainable, train, write what was trained."""

from __future__ import annotations

import random
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from nncift_core.config import Config
from nncift_core.devices import torch_dtype
from nncift_core.errors import RunError
from nncift_core.finetune.methods import save, trainable
from nncift_core.finetune.rows import TrainingRows, encode
from nncift_core.finetune.student import fine_tune_key, load_to_train, settings, student
from nncift_core.hashing import int63
from nncift_core.hub import quiet

Progress = Callable[[int, int], None]

# The training library keeps its devices and the seeds process-wide.
_ONE_AT_A_TIME = threading.Lock()


@dataclass(frozen=True)
class FineTuned:
    """What a fine-tune did.

    rows; tokens: of one epoch, no padding; response_tokens: those of them that are learned; truncated:
    rows cut to the context; steps: of the optimiser, all epochs; losses: mean training loss of a response
    token in each epoch, in nats, taken before each step's update; trainable_parameters: of the adapters, or
    of the whole model; seen_rows, seen_tokens: over all epochs, no padding; resumed_at: steps that had been
    done by a process that was killed.
    """

    rows: int
    tokens: int
    response_tokens: int
    truncated: int
    steps: int
    losses: tuple[float, ...]
    trainable_parameters: int
    seen_rows: int
    seen_tokens: int
    resumed_at: int = 0


def fine_tune_here(
    config: Config,
    rows: TrainingRows,
    seed: int,
    device: str,
    folder: Path,
    progress: Progress | None = None,
    checkpoints: Path | None = None,
    *,
    alone: bool = True,
    writes: bool = True,
) -> FineTuned:
    """`fine_tune` in this process, on "cpu", "mps", or a GPU that is its own.

    Waits for another fine-tune of this process to end. The process's random state is as before. Not `alone`,
    it is one of several processes of a launcher and trains its share; one of them `writes`.
    """
    own = settings(config)
    with _ONE_AT_A_TIME, quiet(), warnings.catch_warnings(), _random_state(), _memory(device):
        warnings.simplefilter("ignore")
        from nncift_core.finetune.checkpoints import Checkpoints
        from nncift_core.finetune.loop import Place, train
        from nncift_core.finetune.world import World, joined

        model = load_to_train(config, device)
        encoded = encode(model, rows.by_content(), own.template)
        draw = int63(f"fine-tune\x1f{seed}") % 2**32
        learning = trainable(model.model, own, draw)
        place = Place(
            float16=student(config).dtype == "float16",
            autocast=_autocast(config),
            checkpoints=Checkpoints(
                checkpoints, own.checkpoint_minutes, fine_tune_key(config, rows.content_hashes, seed)
            ),
            world=World() if alone else joined(device, writes),
        )
        done = train(replace(model, model=learning), own, encoded, draw, place, progress)
        count = sum(p.numel() for p in learning.parameters() if p.requires_grad)
        if place.world.writes:
            save(learning, model, config, folder)
    return FineTuned(
        rows=len(rows),
        tokens=encoded.tokens,
        response_tokens=encoded.response_tokens,
        truncated=encoded.truncated,
        steps=done.steps,
        losses=done.losses,
        trainable_parameters=count,
        seen_rows=done.seen_rows,
        seen_tokens=done.seen_tokens,
        resumed_at=done.resumed_at,
    )


def _autocast(config: Config) -> Any:
    """The dtype of forward passes over float32 weights that are all trained; None for adapters."""
    import torch

    wanted = torch_dtype(student(config).dtype)
    return wanted if settings(config).method == "full" and wanted != torch.float32 else None


@contextmanager
def _random_state() -> Iterator[None]:
    """Put the random state of Python, numpy and torch back as it was."""
    import torch

    plain, arrays = random.getstate(), np.random.get_state()
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=gpus):
        try:
            yield
        finally:
            random.setstate(plain)
            np.random.set_state(arrays)


@contextmanager
def _memory(device: str) -> Iterator[None]:
    import torch

    try:
        yield
    except torch.OutOfMemoryError as e:
        raise RunError(
            f"fine-tuning ran out of memory on {device}: lower finetune.batch_tokens, which changes no "
            "result, or take a smaller student"
        ) from e
