"""Exact match: what the normalisation lets pass and what it does not."""

from __future__ import annotations

import pytest

from nncift_core.evaluation import exact_matches


@pytest.mark.parametrize(
    ("reference", "answer", "matches"),
    [
        ("The cat sat.", "  the CAT\n sat ", True),
        ("The cat sat.", "The cat sat!?", True),
        ("The cat sat", "The, cat sat", False),
        ("Straße", "STRASSE", True),
        ("ﬁne…", "fine", True),
        ("(C)", "C", False),
        ("", "", True),
        ("", "no", False),
        ("9", "9.", True),
        ("9", "9.0", False),
        ("So 5 + 5.\n#### 10", "Whatever\n#### 10", True),
        ("So.\n#### 1,250", "#### $1250.00", True),
        ("So.\n#### 10", "The answer is 10", False),
        ("So.\n#### 10", "#### 10\n#### 11", True),
        ("So.\n#### 10", "#### 11\n#### 10", False),
        ("So.\n#### 10", "#### ten", False),
        ("So.\n#### ten", "#### Ten.", True),
        ("So.\n#### -0.5", "####-.50", True),
        ("So.\n#### 50%", "#### 50", True),
        ("So.\n#### 1", f"#### {'1' * 5000}", False),
    ],
)
def test_what_matches(reference: str, answer: str, matches: bool) -> None:
    assert exact_matches([reference], [answer]).tolist() == [float(matches)]


def test_unequal_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        exact_matches(["a", "b"], ["a"])
