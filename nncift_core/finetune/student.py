"""The model that is trained: which one it is, what a fine-tune is a function of, and loading it again."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from nncift_core.config import Config, FinetuneConfig, LanguageModelConfig
from nncift_core.config_training import CHAT
from nncift_core.errors import UserError
from nncift_core.finetune.rows import naming_template
from nncift_core.hashing import digest
from nncift_core.hub import quiet
from nncift_core.language_models import (
    LanguageModel,
    check_language_model,
    is_local,
    language_model_key,
    load_language_model,
    load_tokenizer,
)
from nncift_core.models import file_sha256

# The two files that make an adapter, and those that make a model trained whole.
WEIGHTS, SHAPE = "adapter_model.safetensors", "adapter_config.json"
MODEL_WEIGHTS, MODEL_SHAPE = "model.safetensors", "config.json"

# Raise it when the same settings and rows give other weights than before.
_VERSION = 3


def settings(config: Config) -> FinetuneConfig:
    """The `[finetune]` section; raises UserError when the config has none."""
    if config.finetune is None:
        raise UserError("is missing", field="finetune", mend="Add a section [finetune] to train a model.")
    return config.finetune


def student(config: Config) -> LanguageModelConfig:
    """The model of `[finetune]`, else that of `[language_model]`, on the device `[finetune]` names.

    Its template is "chat" where `finetune.template` is, and its weights have 4 bits under "qlora".
    """
    own = settings(config)
    # The student reads `finetune.template`, whatever the teacher does.
    told: dict[str, Any] = {
        "template": "chat" if own.template == CHAT else "plain",
        "quantization": "4bit" if own.method == "qlora" else "none",
        "device": own.device,
        "batch_tokens": own.batch_tokens,
    }
    if own.model is None:
        return config.language_model.model_copy(update=told)
    return LanguageModelConfig(
        model=own.model,
        revision=own.revision,
        dtype=own.dtype,
        trust_remote_code=own.trust_remote_code,
        **told,
    )


def student_key(config: Config) -> str:
    """`language_model_key` of the student; loads no weights. Raises like it, naming `[finetune]` keys."""
    with _named_as_student(config):
        return language_model_key(student(config), config.base_dir)


def load_student(config: Config, device: str) -> LanguageModel:
    """The untrained student on `device`. Raises like `load_language_model`, naming `[finetune]` keys."""
    with _named_as_student(config):
        return load_language_model(student(config), device, config.base_dir)


def student_is_local(config: Config) -> bool:
    """Whether the student's files are here: builtin or a folder, not a hub id. Raises like `student_key`."""
    with _named_as_student(config):
        return is_local(student(config), config.base_dir)


def load_student_tokenizer(config: Config) -> LanguageModel:
    """The student without its weights, to count and cut tokens. Raises like `load_student`."""
    with _named_as_student(config):
        return load_tokenizer(student(config), config.base_dir)


def load_to_train(config: Config, device: str) -> LanguageModel:
    """The student as training starts from it: weights that are trained themselves are float32.

    Their updates are lost in the rounding of 16 bits. Raises like `load_student`.
    """
    wanted = student(config)
    if settings(config).method == "full":
        wanted = wanted.model_copy(update={"dtype": "float32"})
    with _named_as_student(config):
        return load_language_model(wanted, device, config.base_dir)


def check_method(config: Config, device: str | None = None) -> None:
    """Raise UserError now for what `load_student` would refuse later: 4-bit weights that cannot be had here.

    device: where the student is to run; None: on whichever GPU there is.
    """
    if settings(config).method != "qlora":
        return
    from nncift_core.devices import available_devices

    where = device or available_devices()[0]
    weights_alone = student(config).model_copy(update={"template": "plain"})
    with _named_as_student(config):
        check_language_model(weights_alone, where, config.base_dir)


def fine_tune_key(config: Config, content_hashes: Sequence[str], seed: int) -> str:
    """Digest of all that decides the weights: student, `[finetune]` values, contents of the rows, seed.

    The order of `content_hashes` does not count, the number of copies does. Loads no weights.
    """
    values = settings(config).values()
    return digest(
        ["fine-tune", _VERSION, student_key(config), values, sorted(content_hashes), seed],
    )


def load_fine_tuned(config: Config, folder: Path, device: str) -> LanguageModel:
    """The model of `folder` on `device`, in eval mode: the student with its adapter, or the whole model.

    Nothing is merged: that would round the adapter into low-precision weights. Raises like `load_student`.
    """
    if settings(config).method == "full":
        whole = student(config).model_copy(update={"model": str(folder.resolve()), "revision": None})
        return load_language_model(whole, device)
    base = load_student(config, device)
    from peft import PeftModel

    with quiet(), warnings.catch_warnings():
        # peft asks transformers for a property by its former name.
        warnings.simplefilter("ignore", FutureWarning)
        # Without torch_device the weights take a detour over the first GPU, whichever `device` is.
        model = PeftModel.from_pretrained(
            base.model, str(folder), is_trainable=False, torch_device=device, local_files_only=True
        )
    key = digest([base.key, file_sha256(folder / WEIGHTS), file_sha256(folder / SHAPE)])
    # Weights of 4 bits cannot be moved, and are there already.
    placed = model if settings(config).method == "qlora" else model.to(device)
    return replace(base, model=placed.eval(), key=key)


def student_name(config: Config) -> str:
    """The student's name to write beside an adapter: as configured, of a local folder its last part."""
    name = student(config).model
    folder = Path(config.base_dir or ".") / Path(name).expanduser()
    return folder.resolve().name if name != "builtin" and folder.is_dir() else name


@contextmanager
def _named_as_student(config: Config) -> Iterator[None]:
    """Make errors about a student the keys of `[finetune]`, where the user set them."""
    try:
        with naming_template():
            yield
    except UserError as e:
        if e.field == "language_model.quantization":
            what = e.what.replace('"4bit"', 'method = "qlora"')
            mend = 'On a machine with a GPU: pip install "nncift[gpu]". Elsewhere: method = "lora".'
            raise UserError(what, mend=mend, field="finetune.method") from e
        own = config.finetune is not None and config.finetune.model is not None
        if not own or e.field is None or not e.field.startswith("language_model."):
            raise
        field = e.field.replace("language_model.", "finetune.", 1)
        raise type(e)(e.what, mend=e.mend, file=e.file, line=e.line, row=e.row, field=field) from e
