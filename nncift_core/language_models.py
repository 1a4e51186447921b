"""Causal language models: loading, tokens, and log-probabilities of a response given a prompt.

A sequence is ids = [bos where the model uses one] ++ tokens(prompt) ++ tokens(response) ++ [eos]:
prompt and response are tokenised apart and joined as ids (methods.md 1.1, token rule).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from nncift_core.chat import turn_end
from nncift_core.config import LanguageModelConfig
from nncift_core.devices import torch_dtype
from nncift_core.errors import UserError
from nncift_core.hashing import digest
from nncift_core.hub import quiet
from nncift_core.models import ModelSource, find_model, loading
from nncift_core.placement import device_map, spread

if TYPE_CHECKING:
    import torch

# torch and transformers are imported where a model is used: keys are asked for while planning, and
# the imports take seconds.

_ANY_LENGTH = 10**9

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class LanguageModel:
    """A causal language model in eval mode on a device, or spread over several.

    device: where its input goes and its output comes from: the first of several.
    context_length: most tokens in a sequence (None: no limit); eos_id ends every response (with the
    template "chat" what ends an assistant's turn); bos_ids: what the tokenizer puts before a text (often
    empty); key: see `language_model_key`; template: how prompts are wrapped, see `sequences.encode_prompts`.
    """

    model: Any
    tokenizer: Any
    device: str
    context_length: int | None
    eos_id: int
    bos_ids: tuple[int, ...]
    key: str
    template: Literal["plain", "chat"] = "plain"

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, no special tokens added, nothing cut.

        Text is text: "<|endoftext|>" in it does not become the special token. (A tokenizer whose ordinary
        vocabulary holds its special tokens' texts may still give them.)
        """
        if not texts:
            return []
        encoded = self.tokenizer(
            list(texts),
            add_special_tokens=False,
            split_special_tokens=True,
            truncation=False,
            padding=False,
            verbose=False,
        )
        ids: list[list[int]] = encoded["input_ids"]
        return ids

    def response_log_probs(
        self, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]
    ) -> list[Float32]:
        """log p(y_t | prompt, y_<t) of every response token; see `nncift_core.forward.response_log_probs`."""
        from nncift_core.forward import response_log_probs

        return response_log_probs(self, prompts, responses)


def language_model_key(config: LanguageModelConfig, base_dir: str = "") -> str:
    """Digest of the model's fingerprint, dtype, quantization and template; imports no torch.

    Loads no weights. A chat template's text is among the files that the fingerprint is of. Relative folders
    start from `base_dir`. Raises like `load_language_model`.
    """
    return _key(_source(config, base_dir), config)


def is_local(config: LanguageModelConfig, base_dir: str = "") -> bool:
    """Whether the model's files are here: builtin or a folder, not a hub id.

    Raises like `language_model_key`.
    """
    return _source(config, base_dir).path is not None


def load_language_model(
    config: LanguageModelConfig, device: str, base_dir: str = "", devices: Sequence[str] = ()
) -> LanguageModel:
    """Load the model of `[language_model]` on `device` ("cpu", "cuda:0", ...) in the config's dtype.

    devices: more than one are what the model is spread over (`placement`), `device` the first of them;
    weights go straight to their device. A device may stand there twice. Raises UserError: no such folder or
    hub model, no config or safetensors weights, weights that do not fit the config, a tokenizer without an
    end-of-sequence token or without the chat template asked for, a hub that cannot be reached, 4-bit weights
    where the device or a package does not allow them, a model that cannot be spread over so many devices.
    """
    dtype = torch_dtype(config.dtype)
    placed = _four_bit(device, dtype) if config.quantization == "4bit" else {}
    unloaded = load_tokenizer(config, base_dir)
    places = _places(config, base_dir, devices) if len(devices) > 1 else None
    if places is not None:
        placed["device_map"] = places
    from transformers import AutoModelForCausalLM

    with quiet(), loading("language_model", config.model, "a causal language model"):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            str(_source(config, base_dir).folder()),
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=config.trust_remote_code,
            local_files_only=True,
            output_loading_info=True,
            **placed,
        )
    model, info = loaded
    _check_complete(config.model, info)
    model = model if placed else model.to(device)
    if places is not None:
        spread(model, places, device)
    return replace(unloaded, model=model.eval(), device=device)


def load_tokenizer(config: LanguageModelConfig, base_dir: str = "") -> LanguageModel:
    """The language model without its weights (`model` is None): enough to count and cut tokens.

    Raises like `load_language_model` for what is wrong with config.json or the tokenizer.
    """
    source = _source(config, base_dir)
    folder = str(source.folder())
    from transformers import AutoConfig, AutoTokenizer

    local = {"trust_remote_code": config.trust_remote_code, "local_files_only": True}
    with quiet(), loading("language_model", config.model, "a causal language model"):
        tokenizer = AutoTokenizer.from_pretrained(folder, **local)
        shape = AutoConfig.from_pretrained(folder, **local)
    if tokenizer.eos_token_id is None:
        raise UserError(
            f'the tokenizer of "{config.model}" has no end-of-sequence token',
            field="language_model.model",
            mend="Set eos_token in its tokenizer_config.json.",
        )
    return LanguageModel(
        model=None,
        tokenizer=tokenizer,
        device="cpu",
        context_length=_context_length(shape, tokenizer),
        eos_id=turn_end(tokenizer, config.model) if config.template == "chat" else tokenizer.eos_token_id,
        bos_ids=_bos_ids(tokenizer),
        key=_key(source, config),
        template=config.template,
    )


def _places(config: LanguageModelConfig, base_dir: str, devices: Sequence[str]) -> dict[str, str]:
    """Which module of the model lies on which of `devices`; loads no weights."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    local = {"trust_remote_code": config.trust_remote_code}
    with quiet(), loading("language_model", config.model, "a causal language model"), torch.device("meta"):
        folder = str(_source(config, base_dir).folder())
        shape = AutoConfig.from_pretrained(folder, local_files_only=True, **local)
        make: Any = AutoModelForCausalLM.from_config
        empty = make(shape, dtype=torch_dtype(config.dtype), **local)
    return device_map(empty, devices, four_bit=config.quantization == "4bit")


def _source(config: LanguageModelConfig, base_dir: str) -> ModelSource:
    return find_model("language_model", config.model, config.revision, _builtin_folder, base_dir)


def _builtin_folder() -> Path:
    from nncift_core.builtin import lm_path

    return lm_path()


def _key(source: ModelSource, config: LanguageModelConfig) -> str:
    settings = {"quantization": config.quantization, "template": config.template}
    defaults = {"quantization": "none", "template": "plain"}
    changed = {name: value for name, value in settings.items() if value != defaults[name]}
    return digest({"model": source.fingerprint, "dtype": config.dtype} | changed)


def _four_bit(device: str, dtype: torch.dtype) -> dict[str, Any]:
    """What `from_pretrained` is told to load NF4 weights on `device`, computing in `dtype`."""
    from importlib.util import find_spec

    wrong = None
    if not device.startswith("cuda"):
        wrong = f'"4bit" needs a CUDA GPU, and the model\'s device is "{device}"'
    elif find_spec("bitsandbytes") is None:
        wrong = '"4bit" needs the package bitsandbytes, which is not installed'
    if wrong is not None:
        raise UserError(
            wrong,
            field="language_model.quantization",
            mend='On a machine with a GPU: pip install "nncift[4bit]". Elsewhere: quantization = "none".',
        )
    from transformers import BitsAndBytesConfig

    how = BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    return {"quantization_config": how, "device_map": {"": device}}


def check_language_model(
    config: LanguageModelConfig, device: str, base_dir: str = "", devices: Sequence[str] = ()
) -> None:
    """Raise now what `load_language_model` would raise hours later: 4-bit weights or a chat template that
    cannot be had, a model (of this machine) that cannot be spread over `devices`. Loads no weights; downloads
    nothing of a hub model but asks for its tokenizer's files."""
    if config.quantization == "4bit":
        _four_bit(device, torch_dtype(config.dtype))
    if config.template == "chat":
        load_tokenizer(config, base_dir)
    if len(devices) > 1 and is_local(config, base_dir):
        _places(config, base_dir, devices)


def _check_complete(name: str, info: dict[str, Any]) -> None:
    """Refuse weights that leave part of the model at random values (the library only warns)."""
    absent = sorted(str(key) for key in info.get("missing_keys") or ())
    misfits = sorted(str(key) for key in info.get("mismatched_keys") or ())
    if absent or misfits:
        what = f"lack {absent[0]}" if absent else f"have another shape at {misfits[0]}"
        raise UserError(
            f'the weights of "{name}" {what} ({len(absent) + len(misfits)} such in all)',
            field="language_model.model",
            mend="Give a complete causal language model whose weights belong to its config.json.",
        )


def _context_length(config: Any, tokenizer: Any) -> int | None:
    """The model's number of positions, else the tokenizer's stated limit, else None."""
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    if isinstance(positions, int) and positions > 0:
        return positions
    stated = tokenizer.model_max_length
    return int(stated) if stated is not None and stated < _ANY_LENGTH else None


def _bos_ids(tokenizer: Any) -> tuple[int, ...]:
    """The special ids the tokenizer puts before a text when it is let to."""
    plain: list[int] = tokenizer("a", add_special_tokens=False)["input_ids"]
    full: list[int] = tokenizer("a", add_special_tokens=True)["input_ids"]
    special = set(tokenizer.all_special_ids)
    for k in range(len(full) - len(plain) + 1):
        if full[k : k + len(plain)] == plain and special.issuperset(full[:k]):
            return tuple(full[:k])
    return ()
