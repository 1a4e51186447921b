"""One fine-tune in this process: load the student, put LoRA adapters on it, train them, write them."""

from __future__ import annotations

import json
import random
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from nncift_core.config import Config, FinetuneConfig
from nncift_core.errors import RunError, UserError
from nncift_core.finetune.rows import TrainingRows, encode
from nncift_core.finetune.student import SHAPE, WEIGHTS, load_student, settings, student, student_name
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
    token in each epoch, in nats, taken before each step's update; trainable_parameters: of the adapters.
    """

    rows: int
    tokens: int
    response_tokens: int
    truncated: int
    steps: int
    losses: tuple[float, ...]
    trainable_parameters: int


def fine_tune_here(
    config: Config, rows: TrainingRows, seed: int, device: str, folder: Path, progress: Progress | None = None
) -> FineTuned:
    """`fine_tune` in this process, on "cpu", "mps", or on "cuda:0" when that is the only one visible.

    Waits for another fine-tune of this process to end. The process's random state is as before.
    """
    own = settings(config)
    with _ONE_AT_A_TIME, quiet(), warnings.catch_warnings(), _random_state(), _memory(device):
        warnings.simplefilter("ignore")
        model = load_student(config, device)
        encoded = encode(model, rows.by_content(), own.template)
        from nncift_core.finetune.loop import train

        draw = int63(f"fine-tune\x1f{seed}") % 2**32
        adapted = _with_adapters(model.model, own, draw)
        learner = replace(model, model=adapted)
        steps, losses = train(learner, own, encoded, draw, student(config).dtype == "float16", progress)
        _save(adapted, config, folder)
    return FineTuned(
        rows=len(rows),
        tokens=encoded.tokens,
        response_tokens=encoded.response_tokens,
        truncated=encoded.truncated,
        steps=steps,
        losses=losses,
        trainable_parameters=sum(p.numel() for p in adapted.parameters() if p.requires_grad),
    )


def _with_adapters(model: Any, own: FinetuneConfig, seed: int) -> Any:
    """`model` with fresh LoRA adapters in float32, its own weights frozen; raises UserError for targets."""
    import torch
    from peft import LoraConfig, TaskType, get_peft_model

    if own.targets != "all-linear":
        _check_targets(model, own.targets)
    shape = LoraConfig(
        r=own.rank,
        lora_alpha=own.alpha,  # type: ignore[arg-type]
        lora_dropout=own.dropout,
        target_modules=own.targets,
        bias="none",
        task_type=TaskType.CAUSAL_LM,
    )
    torch.manual_seed(seed)
    try:
        return get_peft_model(model, shape)
    except ValueError as e:
        raise _no_such_targets(model, str(e)) from e


def _check_targets(model: Any, targets: list[str]) -> None:
    """Refuse a name that stands for no module: the library only looks whether any name does."""
    names = [name for name, _ in model.named_modules()]
    absent = [t for t in targets if not t or not any(n == t or n.endswith(f".{t}") for n in names)]
    if absent or not targets:
        raise _no_such_targets(model, f'the student has no module "{absent[0]}"' if absent else "is empty")


def _no_such_targets(model: Any, what: str) -> UserError:
    import torch
    from transformers.pytorch_utils import Conv1D

    linear = {n.split(".")[-1] for n, m in model.named_modules() if isinstance(m, torch.nn.Linear | Conv1D)}
    known = ", ".join(sorted(linear))
    return UserError(
        what, field="finetune.targets", mend=f'Use "all-linear", or some of its linear modules: {known}.'
    )


def _save(adapted: Any, config: Config, folder: Path) -> None:
    """Write the adapter's two files into the empty `folder`, free of machine paths and of chance."""
    import torch

    if not all(bool(torch.isfinite(p).all()) for p in adapted.parameters() if p.requires_grad):
        raise not_finite("an adapter weight")
    # peft's "auto" would ask the model hub for the student's vocabulary.
    adapted.save_pretrained(str(folder), safe_serialization=True, save_embedding_layers=False)
    for path in folder.iterdir():
        if path.name not in (WEIGHTS, SHAPE):
            path.unlink()
    shape = json.loads((folder / SHAPE).read_text(encoding="utf-8"))
    shape["base_model_name_or_path"] = student_name(config)
    shape["revision"] = student(config).revision
    # A set in peft, so written in another order by every process.
    if isinstance(shape["target_modules"], list):
        shape["target_modules"].sort()
    text = json.dumps(shape, indent=2, sort_keys=True, ensure_ascii=False)
    (folder / SHAPE).write_text(text + "\n", encoding="utf-8")


def not_finite(what: str) -> UserError:
    """Training has left the numbers."""
    return UserError(
        f"fine-tuning failed: {what} is not a finite number",
        field="finetune.learning_rate",
        mend='Lower it, or use dtype = "float32" or "bfloat16".',
    )


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
