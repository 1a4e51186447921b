"""Texts through an encoder that is trained: loading it, tokens, padded batches, mean over a text's tokens.

A row is one text, or a pair of texts with the tokenizer's own separators. pooled = mean of the last hidden
states over the row's tokens, special ones included, as MiniLM pools.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nncift_core.classification.contract import Int64
from nncift_core.errors import UserError
from nncift_core.hub import quiet
from nncift_core.models import loading

_TOKENISE_AT_ONCE = 2048
_FIELD = "encoder.model"


@dataclass(frozen=True, eq=False)
class TextEncoder:
    """A transformers encoder in float32 on a device, with its tokenizer; dim: length of a pooled vector."""

    model: Any
    tokenizer: Any
    device: str

    @property
    def dim(self) -> int:
        """Length of a hidden state."""
        return int(self.model.config.hidden_size)

    def pooled(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Mean hidden state of each row of `TokenRows.batch`, [n, dim]."""
        hidden: torch.Tensor = self.model(**batch).last_hidden_state
        mask = batch["attention_mask"].unsqueeze(-1).to(hidden.dtype)
        return (hidden * mask).sum(dim=1) / mask.sum(dim=1)


@dataclass(frozen=True, eq=False)
class TokenRows:
    """Token ids of n rows, cut to what is read; types: of pairs and the like, where the model knows them.

    truncated: rows that were longer than what is read.
    """

    ids: list[list[int]]
    types: list[list[int]] | None
    pad: int
    pad_type: int
    truncated: int

    def __len__(self) -> int:
        return len(self.ids)

    def lengths(self) -> Int64:
        """Tokens of each row, [n], at least 1."""
        return np.fromiter((len(row) for row in self.ids), np.int64, len(self.ids))

    def batch(self, index: Int64, device: str) -> dict[str, torch.Tensor]:
        """The model's inputs [k, longest] for the rows `index` [k], padded on the right."""
        chosen = index.tolist()
        longest = max(len(self.ids[i]) for i in chosen)
        inputs = {"input_ids": _padded([self.ids[i] for i in chosen], longest, self.pad)}
        ones = [[1] * len(self.ids[i]) for i in chosen]
        inputs["attention_mask"] = _padded(ones, longest, 0)
        if self.types is not None:
            inputs["token_type_ids"] = _padded([self.types[i] for i in chosen], longest, self.pad_type)
        return {name: values.to(device) for name, values in inputs.items()}


def load_text_encoder(folder: Path, device: str, trust_remote_code: bool = False) -> TextEncoder:
    """The encoder in `folder` on `device`, in eval mode; torch's random state stays as it was.

    Raises UserError for a folder without a usable model and tokenizer, for weights that leave part of the
    encoder at random values, and for a model that is no plain encoder.
    """
    from transformers import AutoModel, AutoTokenizer

    local = {"trust_remote_code": trust_remote_code, "local_files_only": True}
    # What the weights lack is drawn at random, say a pooler that is not used.
    with quiet(), torch.random.fork_rng(devices=[]), loading("encoder", folder.name, "an encoder"):
        tokenizer = AutoTokenizer.from_pretrained(str(folder), **local)
        model, info = AutoModel.from_pretrained(
            str(folder), dtype=torch.float32, use_safetensors=True, output_loading_info=True, **local
        )
    _check(folder.name, model, info)
    return TextEncoder(model.to(device).eval(), tokenizer, device)


def tokenise(
    encoder: TextEncoder, texts: Sequence[str], pairs: Sequence[str] | None, max_tokens: int
) -> TokenRows:
    """Tokens of texts [n], or of pairs (texts[i], pairs[i]), special ones included, at most `max_tokens`.

    Where the model reads fewer, that counts. Of a pair the longer text is cut first. A text without tokens
    ("" for a tokenizer that adds none) reads a single special one. Raises ValueError for pairs of another
    length, UserError for a tokenizer without any special token where one is needed.
    """
    if pairs is not None and len(pairs) != len(texts):
        raise ValueError(f"{len(texts)} texts and {len(pairs)} second texts")
    limit = min(max_tokens, _positions(encoder))
    ids: list[list[int]] = []
    types: list[list[int]] = []
    truncated = 0
    for start in range(0, len(texts), _TOKENISE_AT_ONCE):
        span = slice(start, start + _TOKENISE_AT_ONCE)
        sides = [list(texts[span])] if pairs is None else [list(texts[span]), list(pairs[span])]
        found = _encoded(encoder.tokenizer, sides, None)
        long = [i for i, row in enumerate(found["input_ids"]) if len(row) > limit]
        if long:
            cut = _encoded(encoder.tokenizer, [[side[i] for i in long] for side in sides], limit)
            for name, rows in cut.items():
                for i, row in zip(long, rows, strict=True):
                    found[name][i] = row
        truncated += len(long)
        ids += found["input_ids"]
        types += found.get("token_type_ids", [])
    _fill_empty(encoder.tokenizer, ids, types)
    tokenizer = encoder.tokenizer
    pad = tokenizer.pad_token_id
    return TokenRows(
        ids, types or None, 0 if pad is None else pad, int(tokenizer.pad_token_type_id or 0), truncated
    )


def _encoded(tokenizer: Any, sides: list[list[str]], limit: int | None) -> dict[str, list[list[int]]]:
    cut = {"truncation": False} if limit is None else {"truncation": True, "max_length": limit}
    found = tokenizer(*sides, padding=False, verbose=False, return_attention_mask=False, **cut)
    return {name: list(found[name]) for name in ("input_ids", "token_type_ids") if name in found}


def _fill_empty(tokenizer: Any, ids: list[list[int]], types: list[list[int]]) -> None:
    empty = [i for i, row in enumerate(ids) if not row]
    if not empty:
        return
    names = ("cls_token_id", "bos_token_id", "eos_token_id", "unk_token_id", "pad_token_id")
    known = [x for x in (getattr(tokenizer, name) for name in names) if x is not None]
    if not known:
        raise UserError(
            "a text has no tokens, and the tokenizer has no special token to stand for it",
            field=_FIELD,
            mend="Leave out empty texts, or take an encoder whose tokenizer has such a token.",
        )
    for i in empty:
        ids[i] = [known[0]]
        if types:
            types[i] = [0]


def _positions(encoder: TextEncoder) -> int:
    """Most tokens that the encoder reads."""
    stated = int(encoder.tokenizer.model_max_length)
    positions = getattr(encoder.model.config, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions <= 0:
        return stated
    # RoBERTa and its kin count positions from behind the padding's.
    embeddings = getattr(getattr(encoder.model, "embeddings", None), "position_embeddings", None)
    padding = getattr(embeddings, "padding_idx", None)
    return min(stated, positions if padding is None else positions - padding - 1)


def _padded(rows: list[list[int]], longest: int, value: int) -> torch.Tensor:
    return torch.tensor([row + [value] * (longest - len(row)) for row in rows], dtype=torch.int64)


def _check(name: str, model: Any, info: dict[str, Any]) -> None:
    if getattr(model.config, "is_encoder_decoder", False):
        raise UserError(
            f'"{name}" is an encoder with a decoder',
            field=_FIELD,
            mend='Give a plain encoder (BERT, RoBERTa and the like), or set training.mode = "frozen".',
        )
    absent = sorted(str(k) for k in info.get("missing_keys") or () if not str(k).startswith("pooler."))
    misfits = sorted(str(k) for k in info.get("mismatched_keys") or ())
    if absent or misfits:
        what = f"lack {absent[0]}" if absent else f"have another shape at {misfits[0]}"
        raise UserError(
            f'the weights of "{name}" {what} ({len(absent) + len(misfits)} such in all)',
            field=_FIELD,
            mend="Give a complete encoder whose weights belong to its config.json.",
        )
