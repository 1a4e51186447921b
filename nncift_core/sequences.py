"""From texts to token sequences: templates, the token rule, the context limit, batches by token budget.

Token rule (methods.md 1.1): ids = [bos] ++ tokens(filled prompt) ++ tokens(response) ++ [eos], prompt and
response tokenised apart. Where a sequence is longer than the context, the prompt loses its first tokens;
a response that does not fit even then loses its last.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nncift_core.batching import plan_batches as plan_batches
from nncift_core.chat import conversation_ids, user
from nncift_core.errors import UserError

if TYPE_CHECKING:
    from nncift_core.language_models import LanguageModel

_PLACEHOLDER = re.compile(r"\{(prompt|example_prompt|example_response)\}")


def fill(template: str, **fields: str) -> str:
    """`template` with its placeholders replaced in one pass; braces inside a field stay as they are."""
    return _PLACEHOLDER.sub(lambda match: fields.get(match[1], match[0]), template)


def fit(
    model: LanguageModel, tokens: list[int], response: list[int], field: str
) -> tuple[list[int], list[int], bool]:
    """[bos] ++ tokens, and response, cut to the model's context by the rule above; and whether it was cut.

    tokens: of a filled prompt; response: its ids with eos. One token at least stands before the
    response, to predict its first; raises UserError naming `field` when there is none.
    """
    bos, limit = list(model.bos_ids), model.context_length
    if not bos and not tokens:
        raise UserError(
            "a filled prompt has no tokens, so nothing predicts the response's first token",
            field=field,
            mend="Put some text around {prompt} in the templates.",
        )
    if limit is None or len(bos) + len(tokens) + len(response) <= limit:
        return bos + tokens, response, False
    response = response[: limit - max(1, len(bos))]
    room = limit - len(bos) - len(response)
    return bos + (tokens[-room:] if room else []), response, True


def encode_prompts(model: LanguageModel, texts: Sequence[str], template: str) -> list[list[int]]:
    """Prompt ids of each text, without BOS (`fit` puts it first).

    A model with the template "plain" reads `template` with {prompt} replaced by the text; one with "chat" reads
    the text as the user's only message in its own chat template, up to where the answer begins.
    """
    if model.template == "chat":
        return conversation_ids(model, [[user(text)] for text in texts])
    return model.tokenize([fill(template, prompt=text) for text in texts])
