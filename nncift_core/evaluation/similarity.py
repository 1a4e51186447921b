"""Embedding similarity of answers and references (methods.md: "embedding similarity (BGE)")."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
Progress = Callable[[int], None]


class Embeds(Protocol):
    """An encoder: unit vectors [n, d] of n texts; `truncated` counts texts that it could not read whole."""

    truncated: int

    def embed(
        self, texts: Sequence[str], progress: Progress | None = None, prefix: str = ""
    ) -> npt.NDArray[np.float32]:
        """Embeddings of `texts`, each behind `prefix`; progress(k): k more are done."""


def similarities(
    encoder: Embeds,
    references: Sequence[str],
    answers: Sequence[str],
    prefix: str = "",
    progress: Progress | None = None,
) -> tuple[Float64, int]:
    """cos(f(p + answer), f(p + reference)) [n], -1..1, f being the encoder and p the prefix; and how many
    distinct texts were longer than the encoder reads.

    Both texts stand behind the same prefix, since the question is whether they say the same. A text that
    occurs often is embedded once. progress: as for `Embeds.embed`, of the distinct texts. Raises ValueError
    for unequal numbers.
    """
    if len(references) != len(answers):
        raise ValueError(f"{len(references)} references but {len(answers)} answers")
    if not len(references):
        return np.empty(0), 0
    texts = list(dict.fromkeys([*references, *answers]))
    place = {text: k for k, text in enumerate(texts)}
    before = encoder.truncated
    vectors = encoder.embed(texts, progress, prefix).astype(np.float64)
    given, wanted = ([place[t] for t in some] for some in (answers, references))
    return np.einsum("nd,nd->n", vectors[given], vectors[wanted]), encoder.truncated - before
