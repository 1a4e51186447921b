"""What of the student is trained: adapters on whole or on 4-bit weights, or every weight; and saving it.

Imports neither torch nor peft before it is used.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nncift_core.config import Config, FinetuneConfig
from nncift_core.devices import torch_dtype
from nncift_core.errors import RunError, UserError
from nncift_core.finetune.student import MODEL_SHAPE, SHAPE, WEIGHTS, settings, student, student_name
from nncift_core.language_models import LanguageModel


def trainable(model: Any, own: FinetuneConfig, seed: int) -> Any:
    """`model` ready for training: with fresh adapters, its own weights frozen, or with every weight free.

    `seed` decides the adapters. Raises UserError for `finetune.targets` that match nothing.
    """
    import torch

    if own.method == "full":
        torch.manual_seed(seed)
        return model.requires_grad_(True)
    if own.method == "qlora":
        from peft import prepare_model_for_kbit_training

        # Passes are computed twice rather than kept, which changes no value.
        model = prepare_model_for_kbit_training(  # type: ignore[no-untyped-call]
            model, use_gradient_checkpointing=True, gradient_checkpointing_kwargs={"use_reentrant": False}
        )
    return with_adapters(model, own, seed)


def with_adapters(model: Any, own: FinetuneConfig, seed: int) -> Any:
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


def save(trained: Any, tokenizer: LanguageModel, config: Config, folder: Path) -> None:
    """Write what was trained and the tokenizer into the empty `folder`, free of machine paths and of chance.

    Raises Diverged for weights that are not finite.
    """
    import torch

    if not all(bool(torch.isfinite(p).all()) for p in trained.parameters() if p.requires_grad):
        raise Diverged("a trained weight")
    if settings(config).method == "full":
        save_model(trained.to(torch_dtype(student(config).dtype)), folder)
    else:
        _save_adapter(trained, config, folder)
    save_tokenizer(tokenizer, folder)


def save_tokenizer(model: LanguageModel, folder: Path) -> None:
    """Write the tokenizer's files, its chat template among them."""
    with _nameless(model.tokenizer):
        model.tokenizer.save_pretrained(str(folder))


def save_model(model: Any, folder: Path) -> None:
    """Write a whole model: its weights in one safetensors file, its config, its generation settings."""
    model.save_pretrained(str(folder), safe_serialization=True, max_shard_size="100TB")
    path = folder / MODEL_SHAPE
    shape = json.loads(path.read_text(encoding="utf-8"))
    shape.pop("_name_or_path", None)
    path.write_text(json.dumps(shape, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def _save_adapter(adapted: Any, config: Config, folder: Path) -> None:
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


@contextmanager
def _nameless(tokenizer: Any) -> Iterator[None]:
    """Let a tokenizer forget which folder it was read from while it is written."""
    name = tokenizer.name_or_path
    tokenizer.name_or_path = ""
    try:
        yield
    finally:
        tokenizer.name_or_path = name


class Diverged(RunError):
    """Training has left the numbers, and another try would, too.

    what: that is no finite number; as_input: the same as a fault of the config, which it is where the config
    trains this model alone.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self.as_input = UserError(
            f"fine-tuning failed: {what} is not a finite number",
            field="finetune.learning_rate",
            mend='Lower it, or use dtype = "float32" or "bfloat16".',
        )
        super().__init__(str(self.as_input))
