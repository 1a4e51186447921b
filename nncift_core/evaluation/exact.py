"""Exact match of answers and references, after a normalisation that meaning survives."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]

_FINAL = ".,;:!?…。、！？ "
# The line that ends a worked solution (GSM8K): "#### 1,250".
_RESULT = re.compile(r"^####[ \t]*(.*)$", re.MULTILINE)
_NUMBER = re.compile(r"[-+]?\d+(\.\d+)?|[-+]?\.\d+")


def exact_matches(references: Sequence[str], answers: Sequence[str]) -> Float64:
    """1 where n(answer) = n(reference), else 0 [n].

    n(t): Unicode NFKC, lower case (case-folded), runs of white space as one space, none at the ends, and no
    punctuation (. , ; : ! ? and their like) at the end. Where the reference has a line "#### R", its last
    one is all that counts: the answer matches when its first such line says the same number (1,250 = $1250.0)
    or, where R is no number, the same n(R). An answer without such a line does not match: the reference
    shows the form. Raises ValueError for unequal numbers.
    """
    return np.array([_match(r, a) for r, a in zip(references, answers, strict=True)], np.float64)


def normalised(text: str) -> str:
    """n(t) of `exact_matches`."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(folded.split()).rstrip(_FINAL)


def _match(reference: str, answer: str) -> bool:
    wanted = _RESULT.findall(reference)
    if not wanted:
        return normalised(answer) == normalised(reference)
    given = _RESULT.findall(answer)
    if not given:
        return False
    numbers = _number(wanted[-1]), _number(given[0])
    if numbers[0] is None:
        return normalised(given[0]) == normalised(wanted[-1])
    return numbers[0] == numbers[1]


def _number(text: str) -> Decimal | None:
    """The number that `text` is, without thousands separators, currency and percent signs; else None."""
    plain = normalised(text).replace(",", "").strip("$€£% ")
    if len(plain) > 64 or not _NUMBER.fullmatch(plain):
        return None
    try:
        return Decimal(plain)
    except InvalidOperation:
        return None
