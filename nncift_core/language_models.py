"""Causal language models: loading, tokens, and log-probabilities of a response given a prompt.

A sequence is ids = [bos where the model uses one] ++ tokens(prompt) ++ tokens(response) ++ [eos]:
prompt and response are tokenised apart and joined as ids (methods.md 1.1, token rule).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nncift_core.config import LanguageModelConfig
from nncift_core.devices import torch_dtype
from nncift_core.errors import UserError
from nncift_core.hashing import digest
from nncift_core.hub import quiet
from nncift_core.models import ModelSource, find_model, loading

if TYPE_CHECKING:
    import torch

# torch and transformers are imported where a model is used: keys are asked for while planning, and
# the imports take seconds.

_ANY_LENGTH = 10**9
_LOGITS_AT_ONCE = 1 << 25

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class LanguageModel:
    """A causal language model in eval mode on a device.

    context_length: most tokens in a sequence (None: no limit); eos_id ends every response;
    bos_ids: what the tokenizer puts before a text (often empty); key: see `language_model_key`.
    """

    model: Any
    tokenizer: Any
    device: str
    context_length: int | None
    eos_id: int
    bos_ids: tuple[int, ...]
    key: str

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, no special tokens added, nothing cut."""
        if not texts:
            return []
        encoded = self.tokenizer(
            list(texts), add_special_tokens=False, truncation=False, padding=False, verbose=False
        )
        ids: list[list[int]] = encoded["input_ids"]
        return ids

    def response_log_probs(
        self, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]
    ) -> list[Float32]:
        """log p(y_t | prompt, y_<t) of every response token, teacher-forced, in one forward pass.

        prompts, responses: n sequences of ids, each at least one long; log-softmax in float32.
        Returns n arrays [T_k], T_k = len(responses[k]). Raises ValueError for an empty sequence.
        """
        import torch

        if not all(prompts) or not all(responses):
            raise ValueError("every prompt and every response needs at least one token")
        # The last response token is predicted and never read, so it is left out of the input.
        inputs = [[*p, *r[:-1]] for p, r in zip(prompts, responses, strict=True)]
        batch = self._padded(inputs)
        sizes = [len(r) for r in responses]
        row = np.repeat(np.arange(len(inputs)), sizes)
        column = np.concatenate(
            [np.arange(len(ids) - t, len(ids)) for ids, t in zip(inputs, sizes, strict=True)]
        )
        labels = torch.tensor([y for r in responses for y in r], device=self.device)
        where = (torch.from_numpy(row).to(self.device), torch.from_numpy(column).to(self.device))
        with torch.inference_mode():
            logits = self._logits_at(batch, where)
            log_probs = _label_log_probs(logits, labels).cpu().numpy()
        return np.split(log_probs, np.cumsum(sizes)[:-1])

    def _padded(self, inputs: list[list[int]]) -> dict[str, torch.Tensor]:
        """Right-padded `input_ids` [n, longest], with an `attention_mask` when anything is padded."""
        import torch

        pad = self.tokenizer.pad_token_id
        lengths = np.array([len(ids) for ids in inputs])
        ids = np.full((len(inputs), lengths.max()), self.eos_id if pad is None else pad, np.int64)
        for k, sequence in enumerate(inputs):
            ids[k, : len(sequence)] = sequence
        batch = {"input_ids": torch.from_numpy(ids).to(self.device)}
        if lengths.min() < lengths.max():
            mask = np.arange(ids.shape[1]) < lengths[:, None]
            batch["attention_mask"] = torch.from_numpy(mask.astype(np.int64)).to(self.device)
        return batch

    def _logits_at(
        self, batch: dict[str, torch.Tensor], where: tuple[torch.Tensor, torch.Tensor]
    ) -> torch.Tensor:
        """Logits [K, V] at the K (row, column) positions `where`.

        The hidden states are gathered just before the output layer, inside the model's own forward
        pass, so that whatever a model does to its logits (scaling, soft-capping) still happens.
        A model whose output layer is not called in the usual way gets full logits.
        """
        shape, count = batch["input_ids"].shape, len(where[0])
        gathered: list[bool] = []

        def gather(_module: Any, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
            hidden = args[0] if args else None
            if hidden is None or hidden.dim() != 3 or hidden.shape[:2] != shape:
                return None
            gathered.append(True)
            return (hidden[where].unsqueeze(0), *args[1:])

        head = self.model.get_output_embeddings()
        hook = None if head is None else head.register_forward_pre_hook(gather)
        try:
            logits = self.model(**batch, use_cache=False).logits
        finally:
            if hook is not None:
                hook.remove()
        if gathered and logits.shape[:2] == (1, count):
            found: torch.Tensor = logits[0]
            return found
        if gathered:
            logits = self.model(**batch, use_cache=False).logits
        return logits[where]  # type: ignore[no-any-return]


def _label_log_probs(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """log softmax(logits)[k, labels[k]] in float32: logits [K, V], labels [K] -> [K].

    Goes through the rows in pieces, so that float32 copies of a large vocabulary stay small.
    """
    import torch

    rows = max(1, _LOGITS_AT_ONCE // logits.shape[1])
    pieces = []
    for piece, label in zip(torch.split(logits, rows), torch.split(labels, rows), strict=True):
        scores = piece.float()
        chosen = scores.gather(1, label[:, None]).squeeze(1)
        pieces.append(chosen - torch.logsumexp(scores, dim=1))
    return torch.cat(pieces)


def language_model_key(config: LanguageModelConfig, base_dir: str = "") -> str:
    """Digest of the model's fingerprint and dtype; loads no weights, imports no torch.

    Relative folders start from `base_dir`. Raises like `load_language_model`.
    """
    return _key(_source(config, base_dir), config)


def is_local(config: LanguageModelConfig, base_dir: str = "") -> bool:
    """Whether the model's files are here: builtin or a folder, not a hub id.

    Raises like `language_model_key`.
    """
    return _source(config, base_dir).path is not None


def load_language_model(config: LanguageModelConfig, device: str, base_dir: str = "") -> LanguageModel:
    """Load the model of `[language_model]` on `device` ("cpu", "cuda:0", ...) in the config's dtype.

    Raises UserError: no such folder or hub model, no config or safetensors weights, weights that do
    not fit the config, a tokenizer without an end-of-sequence token, a hub that cannot be reached.
    """
    unloaded = load_tokenizer(config, base_dir)
    from transformers import AutoModelForCausalLM

    with quiet(), loading("language_model", config.model, "a causal language model"):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            str(_source(config, base_dir).folder()),
            dtype=torch_dtype(config.dtype),
            use_safetensors=True,
            trust_remote_code=config.trust_remote_code,
            local_files_only=True,
            output_loading_info=True,
        )
    model, info = loaded
    _check_complete(config.model, info)
    return replace(unloaded, model=model.to(device).eval(), device=device)


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
        eos_id=int(tokenizer.eos_token_id),
        bos_ids=_bos_ids(tokenizer),
        key=_key(source, config),
    )


def _source(config: LanguageModelConfig, base_dir: str) -> ModelSource:
    return find_model("language_model", config.model, config.revision, _builtin_folder, base_dir)


def _builtin_folder() -> Path:
    from nncift_core.builtin import lm_path

    return lm_path()


def _key(source: ModelSource, config: LanguageModelConfig) -> str:
    return digest({"model": source.fingerprint, "dtype": config.dtype})


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
