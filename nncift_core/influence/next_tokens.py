"""Next-token log-probabilities after K prompts of each of n rows, with what prompts share computed once; and
which tokens are digits.

Three ways to share, by the tokens they leave to compute: the start that all K prompts of a row have in common
serves these K; the start that prompt k has in common in every row serves the n of them; or nothing is shared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from nncift_core.batching import TokenBudget, is_out_of_memory
from nncift_core.errors import UserError
from nncift_core.forward import (
    Prefix,
    can_share,
    encode_prefixes,
    next_token_log_probs,
    one_at_a_time,
)
from nncift_core.language_models import LanguageModel
from nncift_core.sequences import common_prefix

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]
Ids = list[int]

DIGITS = "12345"

# A way that saves less than this share of the tokens is not worth its extra forward passes.
_WORTHWHILE = 0.05


def prompt_log_probs(
    model: LanguageModel,
    prompts: Sequence[Sequence[Ids]],
    token_ids: Ids,
    budget: TokenBudget,
    alone: npt.NDArray[np.bool_] | None = None,
    done: Callable[[Int64], None] | None = None,
) -> Float32:
    """log p(token | prompts[r][k]) over the whole vocabulary, [n, K, len(token_ids)].

    prompts: n rows of K sequences of ids, each at least one long and within the context; alone [n]: rows
    that share nothing (those cut at their start); done(rows) is called with the row of every prompt just
    finished. The order of rows and the batches change values by rounding only. The budget becomes `single`
    for a model that wants its sequences `one_at_a_time`.
    """
    budget.single = budget.single or one_at_a_time(model)
    rows, count = len(prompts), len(prompts[0]) if prompts else 0
    out = np.empty((rows, count, len(token_ids)), np.float32)
    if not rows:
        return out
    work = _Work(model, prompts, token_ids, budget, out, done or (lambda finished: None))
    sharing = np.flatnonzero(~alone) if alone is not None else np.arange(rows)
    way = way_to_share(prompts, sharing)
    if way == "none" or not can_share(model):
        sharing = sharing[:0]
    rest = np.setdiff1d(np.arange(rows), sharing)
    if len(sharing) and way == "row":
        rest = np.concatenate([rest, work.by_row(sharing)])
    elif len(sharing):
        for k in range(count):
            work.by_prompt(sharing, k)
    work.apart(rest)
    return out


def digit_forms(model: LanguageModel, name: str = "") -> dict[str, tuple[int, ...]]:
    """Token ids of "1".."5" by form, "bare" and "spaced" (a space before): the forms in which every digit is
    one token. They are looked up behind another sign, for some tokenizers put a space before a text.

    Raises UserError, naming the model `name`, when there is no such form.
    """
    found: dict[str, tuple[int, ...]] = {}
    for form, space in (("bare", ""), ("spaced", " ")):
        for sign in (":", "\n", ""):
            before, *after = model.tokenize([sign, *(f"{sign}{space}{k}" for k in DIGITS)])
            if all(len(ids) == len(before) + 1 and ids[:-1] == before for ids in after):
                ids = tuple(ids[-1] for ids in after)
                shown = [model.tokenizer.decode([k]).strip() for k in ids]
                if shown == list(DIGITS) and ids not in found.values():
                    found[form] = ids
                break
    if not found:
        raise UserError(
            f'the tokenizer of "{name}" has no single tokens for the grades 1 to 5',
            field="language_model.model",
            mend="SelectIT reads the probability of such a token: choose another model.",
        )
    return found


def way_to_share(prompts: Sequence[Sequence[Ids]], rows: Int64) -> Literal["row", "prompt", "none"]:
    """What saves most of the tokens of `rows`: sharing within a row, within a prompt, or neither."""
    if not len(rows):
        return "none"
    own = [prompts[r] for r in rows]
    count = len(own[0])
    tokens = sum(len(ids) for row in own for ids in row)
    by_row = (count - 1) * sum(common_start(row) for row in own)
    by_prompt = (len(own) - 1) * sum(common_start([row[k] for row in own]) for k in range(count))
    if max(by_row, by_prompt) < _WORTHWHILE * tokens:
        return "none"
    return "row" if by_row >= by_prompt else "prompt"


def common_start(sequences: Sequence[Ids]) -> int:
    """How many first ids all `sequences` have in common, at least one id of each left over."""
    return min(common_prefix(sequences), min(map(len, sequences)) - 1)


class _Work:
    """The forward passes of one call; every batch writes its part of `out` last."""

    def __init__(
        self,
        model: LanguageModel,
        prompts: Sequence[Sequence[Ids]],
        token_ids: Ids,
        budget: TokenBudget,
        out: Float32,
        done: Callable[[Int64], None],
    ) -> None:
        self.model, self.prompts, self.token_ids = model, prompts, token_ids
        self.budget, self.out, self.done = budget, out, done

    def by_row(self, rows: Int64) -> Int64:
        """All prompts of whole rows at once; returns the rows whose prompts memory does not hold together.

        The rows of a batch share as many tokens as the one that shares fewest, so that their starts are
        equally long and need no mask: lengths in a batch are close, and so are these.
        """
        starts = np.array([common_start(self.prompts[r]) for r in rows])
        count = self.out.shape[1]
        lengths = np.array([count * max(map(len, self.prompts[r])) for r in rows], np.int64)
        too_large: list[int] = []

        def work(batch: Int64) -> None:
            try:
                found = self._shared(rows[batch], int(starts[batch].min()))
            except (RuntimeError, MemoryError) as e:
                if len(batch) > 1 or not is_out_of_memory(e):
                    raise
                too_large.append(int(rows[batch[0]]))
                return
            self.out[rows[batch]] = found
            self.done(np.repeat(rows[batch], count))

        self.budget.run(lengths, work)
        return np.array(too_large, np.int64)

    def _shared(self, rows: Int64, start: int) -> Float32:
        """[len(rows), K, tokens], from `start` ids of each row computed once."""
        count = self.out.shape[1]
        tails = [ids[start:] for r in rows for ids in self.prompts[r]]
        prefix = None
        if start:
            prefixes = encode_prefixes(self.model, [self.prompts[r][0][:start] for r in rows])
            prefix = _repeated(prefixes, count)
        found = next_token_log_probs(self.model, tails, self.token_ids, prefix)
        return found.reshape(len(rows), count, -1)

    def by_prompt(self, rows: Int64, k: int) -> None:
        """Prompt k of every row, its common start computed once where memory holds it."""
        start = common_start([self.prompts[r][k] for r in rows])
        tokens = self.budget.tokens
        left = self._after_start(rows, k, start)
        if len(left):
            # What the start took is free again.
            self.budget.tokens = tokens
            self._after_start(left, k, 0)

    def _after_start(self, rows: Int64, k: int, start: int) -> Int64:
        """Prompt k of `rows`, its first `start` ids computed once; returns the rows without an answer because
        memory does not hold these ids, or one row after them."""
        sequences = [self.prompts[r][k] for r in rows]
        prefix = None
        if start:
            prefix = self._start(sequences[0][:start])
            if prefix is None:
                return rows
        too_large: list[int] = []

        def work(batch: Int64) -> None:
            tails = [sequences[b][start:] for b in batch]
            try:
                found = next_token_log_probs(self.model, tails, self.token_ids, prefix)
            except (RuntimeError, MemoryError) as e:
                if prefix is None or len(batch) > 1 or not is_out_of_memory(e):
                    raise
                too_large.append(int(rows[batch[0]]))
                return
            self.out[rows[batch], k] = found
            self.done(rows[batch])

        self.budget.run(np.array([len(ids) for ids in sequences], np.int64), work)
        return np.array(too_large, np.int64)

    def _start(self, ids: Ids) -> Prefix | None:
        """A common start, or None where memory does not hold it."""
        try:
            return encode_prefixes(self.model, [ids])[0]
        except (RuntimeError, MemoryError) as e:
            if not is_out_of_memory(e):
                raise
        return None

    def apart(self, rows: Int64) -> None:
        """Every prompt of `rows` by itself, in common batches."""
        count = self.out.shape[1]
        row, k = np.repeat(rows, count), np.tile(np.arange(count), len(rows))

        def work(batch: Int64) -> None:
            sequences = [self.prompts[r][c] for r, c in zip(row[batch], k[batch], strict=True)]
            self.out[row[batch], k[batch]] = next_token_log_probs(self.model, sequences, self.token_ids)
            self.done(row[batch])

        lengths = [len(ids) for r in rows.tolist() for ids in self.prompts[r]]
        self.budget.run(np.array(lengths, np.int64), work)


def _repeated(prefixes: list[Prefix], times: int) -> Prefix:
    """Prefixes of one length as one for a batch: each stands for `times` rows that follow one another."""
    with torch.inference_mode():
        layers = tuple(
            tuple(torch.cat(parts).repeat_interleave(times, dim=0) for parts in zip(*layer, strict=True))
            for layer in zip(*(prefix.layers for prefix in prefixes), strict=True)
        )
    return Prefix(prefixes[0].length, tuple((keys, values) for keys, values in layers))
