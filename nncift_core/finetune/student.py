"""The model that is trained: which one it is, what a fine-tune is a function of, and loading it again."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from nncift_core.config import Config, FinetuneConfig, LanguageModelConfig
from nncift_core.errors import UserError
from nncift_core.hashing import digest
from nncift_core.hub import quiet
from nncift_core.language_models import (
    LanguageModel,
    is_local,
    language_model_key,
    load_language_model,
    load_tokenizer,
)
from nncift_core.models import file_sha256

WEIGHTS, SHAPE = "adapter_model.safetensors", "adapter_config.json"

# Raise it when the same settings and rows give other adapters than before.
_VERSION = 3
# What the student's key holds already, and what changes memory or place only.
_NOT_IN_KEY = {"model", "revision", "dtype", "trust_remote_code", "device", "batch_tokens"}


def settings(config: Config) -> FinetuneConfig:
    """The `[finetune]` section; raises UserError when the config has none."""
    if config.finetune is None:
        raise UserError("is missing", field="finetune", mend="Add a section [finetune] to train a model.")
    return config.finetune


def student(config: Config) -> LanguageModelConfig:
    """The model of `[finetune]`, else that of `[language_model]`, on the device `[finetune]` names."""
    own = settings(config)
    if own.model is None:
        # The student reads `finetune.template`, and whole weights are trained on.
        apart = {"template": "plain", "quantization": "none"}
        where = {"device": own.device, "batch_tokens": own.batch_tokens}
        return config.language_model.model_copy(update=where | apart)
    return LanguageModelConfig(
        model=own.model,
        revision=own.revision,
        dtype=own.dtype,
        trust_remote_code=own.trust_remote_code,
        device=own.device,
        batch_tokens=own.batch_tokens,
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


def fine_tune_key(config: Config, content_hashes: Sequence[str], seed: int) -> str:
    """Digest of all that decides an adapter: student, `[finetune]` values, contents of the rows, seed.

    The order of `content_hashes` does not count, the number of copies does. Loads no weights.
    """
    own = settings(config)
    values = own.model_dump(mode="json", exclude=_NOT_IN_KEY)
    if own.dropout:
        # Another micro-batch draws other dropout masks.
        values["batch_tokens"] = own.batch_tokens
    if isinstance(values["targets"], list):
        values["targets"] = sorted(set(values["targets"]))
    return digest(
        ["fine-tune", _VERSION, student_key(config), values, sorted(content_hashes), seed],
    )


def load_fine_tuned(config: Config, folder: Path, device: str) -> LanguageModel:
    """The student with the adapter of `folder` on `device`, in eval mode; nothing is merged.

    Merging would round the adapter into low-precision weights. Raises like `load_student`.
    """
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
    return replace(base, model=model.to(device).eval(), key=key)


def student_name(config: Config) -> str:
    """The student's name to write beside an adapter: as configured, of a local folder its last part."""
    name = student(config).model
    folder = Path(config.base_dir or ".") / Path(name).expanduser()
    return folder.resolve().name if name != "builtin" and folder.is_dir() else name


@contextmanager
def _named_as_student(config: Config) -> Iterator[None]:
    """Make errors about a student of its own name the keys of `[finetune]`, where the user set them."""
    try:
        yield
    except UserError as e:
        own = config.finetune is not None and config.finetune.model is not None
        if not own or e.field is None or not e.field.startswith("language_model."):
            raise
        field = e.field.replace("language_model.", "finetune.", 1)
        raise type(e)(e.what, mend=e.mend, file=e.file, line=e.line, row=e.row, field=field) from e
