"""In-context learning: the most similar rows of a subset, put before a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nncift_core.chat import assistant, conversation_ids, user
from nncift_core.language_models import LanguageModel
from nncift_core.sequences import fill

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]

# Between two examples, and between the last one and the prompt.
BETWEEN = "\n\n"

# Prompt and response of one example.
Pair = tuple[str, str]


@dataclass(frozen=True)
class Shown:
    """prompts: n sequences of ids, examples first; dropped: examples left out for want of room, over all
    rows; bare: rows that were left without any."""

    prompts: list[list[int]]
    dropped: int
    bare: int


def nearest(queries: Float32, vectors: Float32, k: int) -> Int64:
    """Indices [n, min(k, m)] of the rows of `vectors` [m, d] of highest cosine with each of `queries` [n, d],
    the most similar first, of equal ones the first; both are unit vectors."""
    cosines = queries.astype(np.float64) @ vectors.astype(np.float64).T
    order: Int64 = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
    return order


def with_examples(
    model: LanguageModel,
    prompts: Sequence[str],
    examples: Sequence[Sequence[Pair]],
    template: str,
    reserve: int,
) -> Shown:
    """Ids of n prompts behind their examples, examples[i] being those of prompt i, the most similar first.

    With the template "plain" an example is `template` filled with its prompt, then its response; blank lines
    part them. With "chat" they are turns of one conversation. The most similar stands last, next to the
    question. An example is kept if, beside those kept before it, from the most similar on, it leaves room for
    `reserve` tokens (an answer) in the context: room does not depend on the reference. A prompt too long
    even alone is cut later, by the rule of `sequences.fit`.
    """
    if len(prompts) != len(examples):
        raise ValueError(f"{len(prompts)} prompts but examples of {len(examples)}")
    limit = model.context_length
    room = None if limit is None else limit - len(model.bos_ids) - reserve
    kept = [list(some) for some in examples]
    ids = _encode(model, prompts, kept, template)
    if room is not None:
        for i in [i for i, found in enumerate(ids) if len(found) > room]:
            kept[i], ids[i] = _fitting(model, prompts[i], examples[i], template, room)
    dropped = sum(len(some) for some in examples) - sum(len(some) for some in kept)
    bare = sum(1 for some, left in zip(examples, kept, strict=True) if some and not left)
    return Shown(ids, dropped, bare)


def _fitting(
    model: LanguageModel, prompt: str, examples: Sequence[Pair], template: str, room: int
) -> tuple[list[Pair], list[int]]:
    """The examples that fit, tried from the most similar on, and the ids with them."""
    kept: list[Pair] = []
    best = _encode(model, [prompt], [kept], template)[0]
    for example in examples:
        tried = _encode(model, [prompt], [[*kept, example]], template)[0]
        if len(tried) <= room:
            kept, best = [*kept, example], tried
    return kept, best


def _encode(
    model: LanguageModel, prompts: Sequence[str], examples: Sequence[Sequence[Pair]], template: str
) -> list[list[int]]:
    """Ids, without BOS, of each prompt behind its examples, the first of which stands last."""
    if model.template == "chat":
        turns = [[t for x, y in reversed(some) for t in (user(x), assistant(y))] for some in examples]
        return conversation_ids(model, [[*before, user(p)] for before, p in zip(turns, prompts, strict=True)])
    blocks = [[fill(template, prompt=x) + y for x, y in reversed(some)] for some in examples]
    filled = [
        BETWEEN.join([*before, fill(template, prompt=p)]) for before, p in zip(blocks, prompts, strict=True)
    ]
    return model.tokenize(filled)
