"""The rows a student is trained on, and their tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields

from nncift_core.errors import UserError
from nncift_core.language_models import LanguageModel
from nncift_core.sequences import encode_prompts, fit
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

    def first(self, k: int) -> TrainingRows:
        """The first k rows, or all of them."""
        return TrainingRows(**{f.name: getattr(self, f.name)[:k] for f in fields(self)})

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

    Under the template "chat" the prompt is the conversation up to where the answer begins, and eos what ends
    the assistant's turn.

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


def prompt_ids(model: LanguageModel, prompts: Sequence[str], template: str) -> list[list[int]]:
    """Ids of what stands before each response, without BOS (`sequences.fit` puts it first).

    template: `finetune.template`; a student under "chat" (`load_student` gives one) reads each prompt as the
    user's message in its own chat template. For training, evaluation and generation alike. Raises UserError
    naming `finetune.template` for a chat template that is missing or cannot be filled.
    """
    with naming_template():
        return encode_prompts(model, prompts, template)


@contextmanager
def naming_template() -> Iterator[None]:
    """Make errors about the chat template errors about `finetune.template`."""
    try:
        yield
    except UserError as e:
        if e.field != "language_model.template":
            raise
        mend = e.mend.replace('template = "plain"', 'a template with {prompt} instead of "chat"')
        raise UserError(e.what, mend=mend, field="finetune.template") from e


def encode(model: LanguageModel, rows: TrainingRows, template: str) -> Encoded:
    """Tokens of `rows`, prompts as `prompt_ids` gives them; needs the model's tokenizer only.

    Raises UserError for rows without a token to learn, the response being empty or the context too short for
    any of it, naming the first of them, and like `nncift_core.sequences.fit`.
    """
    responses = model.tokenize(rows.responses)
    _refuse(
        rows,
        [k for k, ids in enumerate(responses) if not ids],
        "have a response without tokens, so nothing to learn",
        "Give these rows a response, or leave them out of the pool.",
    )
    fitted = [
        fit(model, prompt, [*response, model.eos_id], "finetune.template")
        for prompt, response in zip(prompt_ids(model, rows.prompts, template), responses, strict=True)
    ]
    _refuse(
        rows,
        [k for k, (_, response, _) in enumerate(fitted) if not response],
        f"lose their whole response to the model's context of {model.context_length} tokens",
        "Take a student with a longer context.",
    )
    return Encoded(
        sequences=tuple(prompt + response for prompt, response, _ in fitted),
        n_prompt=tuple(len(prompt) for prompt, _, _ in fitted),
        truncated=sum(cut for _, _, cut in fitted),
    )


def _refuse(rows: TrainingRows, found: Sequence[int], why: str, mend: str) -> None:
    """Raise UserError naming the first of the rows `found`, if there are any."""
    if not found:
        return
    shown = "; ".join(
        f"example {rows.example_ids[k]}, {one_line(rows.places[k], 120)}" for k in found[:_NAMED]
    )
    more = f"; and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    raise UserError(f"{len(found)} of {len(rows)} training rows {why}: {shown}{more}", mend=mend)
