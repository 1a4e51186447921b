"""ROUGE-1 and ROUGE-L F-measures of answers against references, safe for any text.

The numbers are those of the `rouge_score` package with its stemmer: words are runs of a-z and 0-9 in the
lower-cased text, words of more than three letters are stemmed (Porter). Two bounds keep hostile text
from stalling it: only the first 512 words of a text count (the longest common subsequence is quadratic),
and words of more than 64 letters are not stemmed (nltk before 3.10 recurses along runs of y).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]

MOST_WORDS = 512
_LONGEST_STEMMED = 64
_WORD = re.compile("[a-z0-9]+")


@dataclass(frozen=True)
class RougeScores:
    """rouge1, rougeL: F-measures [n], 0..1; empty_references: references without a word, whose rows
    score 0; clipped: rows whose answer or reference has more than 512 words."""

    rouge1: Float64
    rougeL: Float64
    empty_references: int
    clipped: int


def rouge_scores(
    references: Sequence[str], answers: Sequence[str], progress: Callable[[int], None] | None = None
) -> RougeScores:
    """Score answers[k] against references[k], n of each; raises ValueError for unequal numbers.

    progress: called with 1 after each of them.
    """
    from rouge_score.rouge_scorer import RougeScorer
    from rouge_score.tokenizers import DefaultTokenizer

    stem = DefaultTokenizer(use_stemmer=True).tokenize
    scorer = RougeScorer(["rouge1", "rougeL"], tokenizer=_Spaces())
    scores = np.zeros((2, len(references)))
    empty = clipped = 0
    for k, (reference, answer) in enumerate(zip(references, answers, strict=True)):
        wanted, wanted_clipped = _words(reference, stem)
        given, given_clipped = _words(answer, stem)
        empty += not wanted
        clipped += wanted_clipped or given_clipped
        found = scorer.score(" ".join(wanted), " ".join(given))
        scores[:, k] = found["rouge1"].fmeasure, found["rougeL"].fmeasure
        if progress is not None:
            progress(1)
    return RougeScores(scores[0], scores[1], empty, clipped)


class _Spaces:
    """Tokenizer for the scorer: its texts are words already, joined by spaces."""

    def tokenize(self, text: str) -> list[str]:
        return text.split()


def _words(text: str, stem: Callable[[str], list[str]]) -> tuple[list[str], bool]:
    """The first 512 words of `text`, stemmed, and whether there are more."""
    found = [match[0] for match in islice(_WORD.finditer(text.lower()), MOST_WORDS + 1)]
    words: list[str] = []
    for word in found[:MOST_WORDS]:
        words += stem(word) if len(word) <= _LONGEST_STEMMED else [word]
    return words, len(found) > MOST_WORDS
