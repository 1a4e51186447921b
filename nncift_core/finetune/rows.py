"""The rows a student is trained on, and their tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from nncift_core.errors import UserError
from nncift_core.language_models import LanguageModel
from nncift_core.sequences import fill, fit
from nncift_core.text import one_line

_NAMED = 5


@dataclass(frozen=True)
class TrainingRows:
    """n rows: `example_ids` name them in the product, `places` for the user ('pool row 12 (id "abc")').

    content_hashes: what a row is to a key. Raises ValueError for columns of unequal length.
    """

    example_ids: tuple[int, ...]
    places: tuple[str, ...]
    content_hashes: tuple[str, ...]
    prompts: tuple[str, ...]
    responses: tuple[str, ...]

    def __post_init__(self) -> None:
        lengths = [len(getattr(self, field.name)) for field in fields(self)]
        if len(set(lengths)) > 1:
            raise ValueError(f"columns of unequal length: {lengths}")

    def __len__(self) -> int:
        return len(self.example_ids)

    def by_content(self) -> TrainingRows:
        """The same rows in an order that depends on their contents only; copies stay."""
        # Equal hashes may stand for texts that differ in their Unicode form, so the texts decide last.
        order = sorted(
            range(len(self)), key=lambda k: (self.content_hashes[k], self.prompts[k], self.responses[k])
        )
        columns = {f.name: tuple(getattr(self, f.name)[k] for k in order) for f in fields(self)}
        return TrainingRows(**columns)


@dataclass(frozen=True)
class Encoded:
    """n token sequences under the token rule: bos ++ prompt ++ response ++ eos, cut to the context.

    n_prompt: tokens before the response in each (they are read, not learned); truncated: rows cut.
    """

    sequences: tuple[list[int], ...]
    n_prompt: tuple[int, ...]
    truncated: int

    @property
    def tokens(self) -> int:
        """All tokens, no padding."""
        return sum(map(len, self.sequences))

    @property
    def response_tokens(self) -> int:
        """Tokens that a loss is taken of: responses with their end-of-sequence tokens."""
        return self.tokens - sum(self.n_prompt)


def encode(model: LanguageModel, rows: TrainingRows, template: str) -> Encoded:
    """Tokens of `rows`, prompts filled into `template`; needs the model's tokenizer only.

    Raises UserError for responses that have no tokens, naming the first of them, and like
    `nncift_core.sequences.fit`.
    """
    responses = model.tokenize(rows.responses)
    _refuse_empty(rows, responses)
    prompts = model.tokenize([fill(template, prompt=prompt) for prompt in rows.prompts])
    fitted = [
        fit(model, prompt, [*response, model.eos_id], "finetune.template")
        for prompt, response in zip(prompts, responses, strict=True)
    ]
    return Encoded(
        sequences=tuple(prompt + response for prompt, response, _ in fitted),
        n_prompt=tuple(len(prompt) for prompt, _, _ in fitted),
        truncated=sum(cut for _, _, cut in fitted),
    )


def _refuse_empty(rows: TrainingRows, responses: Sequence[list[int]]) -> None:
    empty = [k for k, ids in enumerate(responses) if not ids]
    if not empty:
        return
    shown = "; ".join(
        f"example {rows.example_ids[k]}, {one_line(rows.places[k], 120)}" for k in empty[:_NAMED]
    )
    more = f"; and {len(empty) - _NAMED} more" if len(empty) > _NAMED else ""
    raise UserError(
        f"{len(empty)} of {len(rows)} training rows have a response without tokens, so nothing to learn: "
        f"{shown}{more}",
        mend="Give these rows a response, or leave them out of the pool.",
    )
