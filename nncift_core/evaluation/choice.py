"""Multiple-choice accuracy by the likelihood of the options, without generating an answer.

Options are lines of the prompt, "A. text", "A) text" or "(A) text", lettered from A on without a gap; where
there are several such lists the last one counts. The reference is a letter ("C", "(C)", "C."), the letter
with its text, or the text alone. The candidates are the options written as the reference is written, so that
a model is asked in the form it was trained on.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nncift_core.errors import RunError, UserError
from nncift_core.evaluation.exact import normalised
from nncift_core.evaluation.held_out import HeldOut
from nncift_core.language_models import LanguageModel
from nncift_core.sequences import encode_prompts, fit, plan_batches

Float64 = npt.NDArray[np.float64]
Progress = Callable[[int], None]

_OPTION = re.compile(r"^[ \t]*(\(?)([A-Z])([.)])[ \t]+(\S.*?)[ \t]*$", re.MULTILINE)
_LETTER = re.compile(r"(\s*\(?)([A-Z])([.)]*)(\s*)")
_LETTER_AND_TEXT = re.compile(r"(\s*\(?)([A-Z])([.)]+[ \t]+)(\S[\s\S]*)")


@dataclass(frozen=True)
class Choice:
    """candidates: how each option would be answered; right: index of the reference's."""

    candidates: tuple[str, ...]
    right: int


def options_of(prompt: str) -> list[str]:
    """Texts of the options that `prompt` lists last, in order of their letters; empty where it lists none."""
    lists: list[list[str]] = []
    style = None
    for match in _OPTION.finditer(prompt):
        opening, letter, closing, text = match.groups()
        if letter == "A":
            lists.append([])
            style = (opening, closing)
        if lists and (opening, closing) == style and letter == chr(ord("A") + len(lists[-1])):
            lists[-1].append(text)
    return next((found for found in reversed(lists) if len(found) > 1), [])


def choice_of(prompt: str, reference: str) -> Choice | None:
    """The candidates of a row; None where it is not multiple choice: no options, or a reference that is
    none of them."""
    options = options_of(prompt)
    if not options:
        return None
    letters = [chr(ord("A") + k) for k in range(len(options))]
    if (match := _LETTER.fullmatch(reference)) and match[2] in letters:
        found = tuple(f"{match[1]}{letter}{match[3]}{match[4]}" for letter in letters)
        return Choice(found, letters.index(match[2]))
    places = {normalised(text): k for k, text in reversed(list(enumerate(options)))}
    if (match := _LETTER_AND_TEXT.fullmatch(reference)) and match[2] in letters:
        right = letters.index(match[2])
        if normalised(match[4]) == normalised(options[right]):
            pairs = zip(letters, options, strict=True)
            return Choice(tuple(f"{match[1]}{letter}{match[3]}{text}" for letter, text in pairs), right)
    at = places.get(normalised(reference))
    return None if at is None else Choice(tuple(options), at)


def check_choices(rows: HeldOut) -> int:
    """How many rows are multiple choice; raises UserError where none of them is."""
    found = sum(choice_of(p, r) is not None for p, r in zip(rows.prompts, rows.responses, strict=True))
    if len(rows) and not found:
        raise UserError(
            f'metrics names "choice", but none of {len(rows):,} held-out rows is multiple choice',
            field="evaluation.metrics",
            mend='Options are lines like "A. text" or "(A) text" of the prompt, the response is a letter or '
            'the text of one; or leave "choice" out.',
        )
    return found


def choice_accuracy(
    model: LanguageModel,
    rows: HeldOut,
    template: str,
    batch_tokens: int,
    progress: Progress | None = None,
    prompts: Sequence[list[int]] | None = None,
) -> tuple[Float64, int]:
    """1 where the right option has the highest score, 0 where another has, NaN [n] for rows that are not
    multiple choice; and how many of those there are.

    The score of an option o is log p(o | prompt) / b(o): the log-probabilities of its tokens, without the
    end-of-sequence token, over its length in UTF-8 bytes. The division is for options of unequal length and
    does not depend on the tokenizer ("acc_norm" of the LM Evaluation Harness); between letters it changes
    nothing. k options that share the highest score, the right one among them, give 1 / k.
    prompts: as for `response_losses`. progress: called after every batch with the rows done since the last
    call, n in all; 0 where none became so. Raises UserError where no row is multiple
    choice, RunError for a score that is not finite.
    """
    check_choices(rows)
    before = encode_prompts(model, rows.prompts, template) if prompts is None else prompts
    choices = [choice_of(p, r) for p, r in zip(rows.prompts, rows.responses, strict=True)]
    asked = [(k, text) for k, c in enumerate(choices) if c is not None for text in c.candidates]
    told = None if progress is None else _RowsDone(progress, [c for c in choices if c is not None])
    if progress is not None:
        progress(sum(c is None for c in choices))
    scores = _scores(model, [before[k] for k, _ in asked], [text for _, text in asked], batch_tokens, told)
    out = np.full(len(rows), np.nan)
    start = 0
    for k, choice in enumerate(choices):
        if choice is not None:
            mine = scores[start : start + len(choice.candidates)]
            best = np.flatnonzero(mine == mine.max())
            out[k] = float(choice.right in best) / len(best)
            start += len(choice.candidates)
    return out, int(np.isnan(out).sum())


class _RowsDone:
    """Tells how many rows a batch of options ended: those of which no option is left."""

    def __init__(self, progress: Progress, choices: Sequence[Choice]) -> None:
        self._progress = progress
        self._left = np.array([len(c.candidates) for c in choices], np.int64)
        self._row = np.repeat(np.arange(len(choices)), self._left)

    def __call__(self, options: npt.NDArray[np.int64]) -> None:
        """`options`: indices of those that have a score now."""
        rows, counts = np.unique(self._row[options], return_counts=True)
        self._left[rows] -= counts
        self._progress(int((self._left[rows] == 0).sum()))


def _scores(
    model: LanguageModel,
    prompts: list[list[int]],
    texts: list[str],
    batch_tokens: int,
    told: _RowsDone | None,
) -> Float64:
    """log p(text | prompt) / bytes of text, for each of them."""
    ids = model.tokenize(texts)
    fitted = [fit(model, p, t, "finetune.template") for p, t in zip(prompts, ids, strict=True)]
    lengths = np.array([len(p) + len(t) for p, t, _ in fitted], np.int64)
    out = np.empty(len(texts), np.float64)
    for batch in plan_batches(lengths, batch_tokens):
        found = model.response_log_probs([fitted[k][0] for k in batch], [fitted[k][1] for k in batch])
        out[batch] = [values.sum(dtype=np.float64) for values in found]
        if told is not None:
            told(batch)
    out /= [max(1, len(text.encode("utf-8", "surrogatepass"))) for text in texts]
    if not np.isfinite(out).all():
        raise RunError("an option of a multiple-choice row has a likelihood that is not a finite number")
    return out
