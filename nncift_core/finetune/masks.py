"""What a student learns of a training row: its first rows token by token, for a person to check."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nncift_core.config import Config
from nncift_core.finetune.rows import Encoded, TrainingRows, encode
from nncift_core.finetune.student import load_student_tokenizer, settings
from nncift_core.language_models import LanguageModel

# Tokens shown on either side of where the response begins, and at a row's end.
_AROUND, _END = 48, 16


@dataclass(frozen=True)
class MaskToken:
    """A token of a training row. position: from 0; text: as the tokenizer writes it; learned: whether a loss
    is taken of it."""

    position: int
    text: str
    learned: bool


@dataclass(frozen=True)
class MaskedRow:
    """A training row as the student reads it: n_tokens of them, n_learned learned; `tokens` are those around
    the response's beginning and at its end, n_tokens - len(tokens) are left out."""

    example_id: int
    n_tokens: int
    n_learned: int
    tokens: tuple[MaskToken, ...]

    def to_json(self) -> dict[str, Any]:
        """As `training.json` holds it: tokens are [position, text, learned]."""
        tokens = [[t.position, t.text, t.learned] for t in self.tokens]
        return {
            "example_id": self.example_id,
            "n_tokens": self.n_tokens,
            "n_learned": self.n_learned,
            "tokens": tokens,
        }


def mask_preview(config: Config, rows: TrainingRows, k: int = 3) -> list[MaskedRow]:
    """The first k of `rows` as the student is trained on them; loads its tokenizer, no weights.

    Raises like `encode`, of these rows alone, and like `load_student_tokenizer`.
    """
    model = load_student_tokenizer(config)
    first = rows.first(k)
    encoded = encode(model, first, settings(config).template)
    return [_row(model, encoded, n, example_id) for n, example_id in enumerate(first.example_ids)]


def _row(model: LanguageModel, encoded: Encoded, n: int, example_id: int) -> MaskedRow:
    ids, border = encoded.sequences[n], encoded.n_prompt[n]
    near = range(max(0, border - _AROUND), min(len(ids), border + _AROUND))
    shown = sorted({*near, *range(max(border, len(ids) - _END), len(ids))})
    tokens = tuple(MaskToken(k, _text(model, ids[k]), k >= border) for k in shown)
    return MaskedRow(example_id, len(ids), len(ids) - border, tokens)


def _text(model: LanguageModel, token: int) -> str:
    """A token alone, special ones by name; part of a character stands as the replacement character."""
    text: str = model.tokenizer.decode([token], skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text
