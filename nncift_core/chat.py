"""Conversations in a model's own chat template, as token ids.

The template's markers become special tokens; the same markers in a user's text stay text (the tokenizer's
`sanitize_control_tokens`). Templates that write today's date get a fixed one, so that values do not depend on
the day.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from nncift_core.errors import UserError

if TYPE_CHECKING:
    from nncift_core.language_models import LanguageModel

Message = dict[str, str]

# Put before a template that asks for the date: what its `strftime_now` gives, always a Friday in July.
_DAY = {
    "%Y": "2024",
    "%y": "24",
    "%m": "07",
    "%B": "July",
    "%b": "Jul",
    "%d": "26",
    "%A": "Friday",
    "%a": "Fri",
}
_FIXED_DAY = (
    "{%- macro strftime_now(format) -%}{{ format"
    + "".join(f"|replace('{sign}', '{text}')" for sign, text in _DAY.items())
    + " }}{%- endmacro %}"
)
_ANSWER = "nncift0answer0nncift"


def user(text: str) -> Message:
    """What the user says."""
    return {"role": "user", "content": text}


def assistant(text: str) -> Message:
    """What the model answers."""
    return {"role": "assistant", "content": text}


def conversation_ids(model: LanguageModel, conversations: Sequence[Sequence[Message]]) -> list[list[int]]:
    """Ids of each conversation up to where the assistant's next answer begins.

    Without the BOS, which `sequences.fit` puts first: a template that writes it too would give two. Raises
    UserError for a tokenizer without a chat template and for conversations the template refuses.
    """
    if not conversations:
        return []
    with _template_errors(model.tokenizer, "the model"):
        found = model.tokenizer.apply_chat_template(
            [list(messages) for messages in conversations],
            add_generation_prompt=True,
            return_dict=False,
            sanitize_control_tokens=True,
            chat_template=_template(model.tokenizer),
        )
    bos = list(model.bos_ids)
    return [ids[len(bos) :] if bos and ids[: len(bos)] == bos else ids for ids in found]


def turn_end(tokenizer: Any, name: str) -> int:
    """The id that ends an assistant's turn.

    It is the added token that the chat template writes right after an answer, white space aside; where there
    is none, the tokenizer's end-of-sequence token.

    Raises UserError for a tokenizer without a chat template, naming the model `name`.
    """
    with _template_errors(tokenizer, f'"{name}"'):
        text: str = tokenizer.apply_chat_template([user("Hello"), assistant(_ANSWER)], tokenize=False)
    rest = text.rpartition(_ANSWER)[2] if _ANSWER in text else ""
    added = tokenizer.added_tokens_decoder
    for end in range(1, len(rest.lstrip()) + 1):
        ids = [id_ for id_, token in added.items() if token.content == rest.lstrip()[:end]]
        if ids:
            return int(ids[0])
    return int(tokenizer.eos_token_id)


def _template(tokenizer: Any) -> str:
    """The tokenizer's default chat template, on a fixed day."""
    text: str = tokenizer.get_chat_template()
    return _FIXED_DAY + text if "strftime_now" in text else text


@contextmanager
def _template_errors(tokenizer: Any, name: str) -> Iterator[None]:
    """Make what a template refuses an error about the setting."""
    from jinja2.exceptions import TemplateError

    if not tokenizer.chat_template:
        raise UserError(
            f"the tokenizer of {name} has no chat template",
            field="language_model.template",
            mend='Use template = "plain", or a model tuned to follow instructions.',
        )
    try:
        yield
    except (TemplateError, ValueError) as e:
        raise UserError(
            f"the chat template of {name} cannot be filled ({e})",
            field="language_model.template",
            mend='Use template = "plain", or another model.',
        ) from e
