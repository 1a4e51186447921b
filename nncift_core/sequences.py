"""From texts to token sequences: templates, the token rule, the context limit, what prompts share.

Token rule (methods.md 1.1): ids = [bos] ++ tokens(filled prompt) ++ tokens(response) ++ [eos], prompt and
response tokenised apart. Where a sequence is longer than the context, the prompt loses its first tokens;
a response that does not fit even then loses its last.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from nncift_core.batching import plan_batches as plan_batches
from nncift_core.chat import conversation_ids, user
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


def encode_prompts(model: LanguageModel, texts: Sequence[str], template: str) -> list[list[int]]:
    """Prompt ids of each text, without BOS (`fit` puts it first).

    A model with the template "plain" reads `template` with {prompt} replaced by the text; one with "chat"
    reads the text as the user's only message in its own chat template, up to where the answer begins.
    """
    if model.template == "chat":
        return conversation_ids(model, [[user(text)] for text in texts])
    return model.tokenize([fill(template, prompt=text) for text in texts])


@dataclass(frozen=True)
class Halves:
    """Ids of M x N filled prompts in two halves: those of prompt (i, j) are prefixes[i] ++ suffixes[j]."""

    prefixes: list[list[int]]
    suffixes: list[list[int]]


def halves(encode: Callable[[Int64, Int64], list[list[int]]], m: int, n: int) -> Halves | None:
    """The halves of m x n prompts, m, n >= 1, every suffix at least one token long.

    encode(i, j): ids of the whole prompts (i[k], j[k]). Only m + n + max(m, n) of them are asked for: every
    row with the first column and every column with the first row, which the halves are made of, and each row
    and column once more to check them. None where no cut suits them all: then a token reaches across the
    border between what belongs to a row and what belongs to a column.
    """
    rows = encode(np.arange(m), np.zeros(m, np.int64))
    columns = encode(np.zeros(n, np.int64), np.arange(n))
    cut = min(common_prefix(columns), min(map(len, columns)) - 1)
    first = len(rows[0]) - common_prefix([ids[::-1] for ids in rows])
    # A token that all rows and all columns share keeps the two sides from touching each other.
    if cut - first < (1 if m > 1 and n > 1 else 0) or cut < 0:
        return None
    rest = len(rows[0]) - cut
    found = Halves([ids[: len(ids) - rest] for ids in rows], [ids[cut:] for ids in columns])
    k = np.arange(max(m, n))
    i, j = k % m, (k + k // m) % n if m < n else k % n
    for whole, a, b in zip(encode(i, j), i.tolist(), j.tolist(), strict=True):
        if whole != found.prefixes[a] + found.suffixes[b]:
            return None
    return found


def common_prefix(sequences: Sequence[list[int]]) -> int:
    """How many first tokens all of `sequences` (one at least) have in common."""
    # The least and the greatest in dictionary order differ no later than any other two.
    low, high = min(sequences), max(sequences)
    return next(
        (k for k, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high))
    )
