"""From texts to token sequences: templates, the token rule, the context limit, batches by token budget.

Token rule (methods.md 1.1): ids = [bos] ++ tokens(filled prompt) ++ tokens(response) ++ [eos], prompt and
response tokenised apart. Where a sequence is longer than the context, the prompt loses its first tokens;
a response that does not fit even then loses its last.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from nncift_core.errors import UserError

if TYPE_CHECKING:
    from nncift_core.language_models import LanguageModel

Int64 = npt.NDArray[np.int64]

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


def plan_batches(lengths: Int64, budget: int) -> Iterator[Int64]:
    """Indices of `lengths` [n] in batches, longest first: longest length x size <= budget.

    A sequence longer than the budget is a batch of its own.
    """
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        size = max(1, budget // max(1, int(lengths[order[start]])))
        yield order[start : start + size]
        start += size
