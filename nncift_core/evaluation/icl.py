"""In-context learning: the most similar rows of a subset, put before a prompt."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nncift_core.chat import assistant, conversation_ids, user
from nncift_core.language_models import LanguageModel
from nncift_core.sequences import fill

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Progress = Callable[[int], None]

# Cosines at once: 256 x 4,096 float64 are 8 MiB, whatever the sizes of the pool and the test.
_QUERIES, _CANDIDATES = 256, 4096

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


def prompt_groups(*sides: Sequence[str]) -> tuple[Int64, ...]:
    """A number [n] for each prompt of each of `sides`; two have the same where their texts are equal in
    Unicode NFC with every run of white space as one space and none at the ends."""
    numbers: dict[str, int] = {}
    return tuple(
        np.array(
            [
                numbers.setdefault(" ".join(unicodedata.normalize("NFC", t).split()), len(numbers))
                for t in side
            ],
            np.int64,
        )
        for side in sides
    )


def nearest(
    queries: Float32,
    vectors: Float32,
    k: int,
    groups: tuple[Int64, Int64] | None = None,
    progress: Progress | None = None,
) -> Int64:
    """Indices [n, min(k, m)] of the rows of `vectors` [m, d] of highest cosine with each of `queries` [n, d],
    the most similar first, of equal ones the first; both are unit vectors.

    groups: of queries [n] and of vectors [m]; a row in a query's own group is none of its nearest, and where
    fewer than min(k, m) are left, -1 stands for the rest. Memory: n x k beside one block of cosines.
    progress: called with 0 after each block.
    """
    k = min(k, len(vectors))
    index = np.full((len(queries), k), -1, np.int64)
    if not index.size:
        return index
    value = np.full((len(queries), k), -np.inf)
    for first in range(0, len(vectors), _CANDIDATES):
        candidates = vectors[first : first + _CANDIDATES].astype(np.float64).T
        number = np.arange(first, first + candidates.shape[1])
        for start in range(0, len(queries), _QUERIES):
            here = slice(start, start + _QUERIES)
            cosines = queries[here].astype(np.float64) @ candidates
            if groups is not None:
                cosines[groups[0][here, None] == groups[1][None, number]] = -np.inf
            # Those found so far stand before the block, as their indices do.
            values = np.concatenate([value[here], cosines], axis=1)
            best = _highest(values, k)
            numbers = np.concatenate([index[here], np.broadcast_to(number, cosines.shape)], axis=1)
            value[here] = np.take_along_axis(values, best, axis=1)
            index[here] = np.take_along_axis(numbers, best, axis=1)
            if progress is not None:
                progress(0)
    index[np.isneginf(value)] = -1
    return index


def _highest(values: Float64, k: int) -> Int64:
    """Columns [n, k] of the k highest of `values` [n, m], m >= k, falling, of equal ones the first."""
    least = np.partition(values, values.shape[1] - k, axis=1)[:, -k]
    rows, columns = np.nonzero(values >= least[:, None])
    order = np.lexsort((columns, -values[rows, columns], rows))
    starts = np.searchsorted(rows, np.arange(len(values)))
    found: Int64 = columns[order][starts[:, None] + np.arange(k)]
    return found


def with_examples(
    model: LanguageModel,
    prompts: Sequence[str],
    examples: Sequence[Sequence[Pair]],
    template: str,
    reserve: int,
    progress: Progress | None = None,
) -> Shown:
    """Ids of n prompts behind their examples, examples[i] being those of prompt i, the most similar first.

    With the template "plain" an example is `template` filled with its prompt, then its response; blank lines
    part them. With "chat" they are turns of one conversation. The most similar stands last, next to the
    question. An example is kept if, beside those kept before it, from the most similar on, it leaves room for
    `reserve` tokens (an answer) in the context: room does not depend on the reference. A prompt too long
    even alone is cut later, by the rule of `sequences.fit`. progress: called with 0 as a sign of life.
    """
    if len(prompts) != len(examples):
        raise ValueError(f"{len(prompts)} prompts but examples of {len(examples)}")
    limit = model.context_length
    room = None if limit is None else limit - len(model.bos_ids) - reserve
    kept = [list(some) for some in examples]
    ids: list[list[int]] = []
    for start in range(0, len(prompts), _QUERIES):
        here = slice(start, start + _QUERIES)
        ids += _encode(model, prompts[here], kept[here], template)
        if progress is not None:
            progress(0)
    if room is not None:
        for i in [i for i, found in enumerate(ids) if len(found) > room]:
            kept[i], ids[i] = _fitting(model, prompts[i], examples[i], template, room)
            if progress is not None:
                progress(0)
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
