"""What a run has cut, dropped or kept is said, in the terminal and in the report alike."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from report.checks import alone
from report.made import RUN, Maker

from nncift_core.report import record
from nncift_core.report.notes import FLAGS, NOTES, notes_of

ROOT = Path(__file__).parents[2]
COUNTED = re.compile(
    r"(truncated|dropped|unfinished|empty)_\w+|\w+_(gone|clipped|repeated|not_read)|duplicates"
)


def names_in(path: Path) -> set[str]:
    """Strings of a module that name something cut, dropped or passed over."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    strings = (n.value for n in ast.walk(tree) if isinstance(n, ast.Constant))
    return {s for s in strings if isinstance(s, str) and COUNTED.fullmatch(s)}


def test_every_count_that_the_program_keeps_has_a_note() -> None:
    found: set[str] = set()
    for room in ("nncift_core", "tasks", "flows"):
        for path in (ROOT / room).rglob("*.py"):
            found |= names_in(path) if path.name != "notes.py" else set()
    assert {"truncated_feature_rows", "label_pairs_gone", "rouge_clipped", "dropped_rows"} <= found
    assert found - NOTES.keys() == set()


def test_the_terminal_says_counts_and_flags_that_are_not_zero() -> None:
    facts = {"truncated_feature_rows": 1200, "label_pairs_gone": 0, "exact_is_cheap": True, "label_pairs": 9}
    assert notes_of(facts) == [f"1,200 {NOTES['truncated_feature_rows']}", FLAGS["exact_is_cheap"]]


@pytest.mark.parametrize("fact", NOTES)
def test_the_report_says_each_count(fact: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ws = Maker(tmp_path).make(exact=True, idle=0, evaluated=False, facts={fact: 1234}).ws
    lines = [li.text for li in alone(record.warnings, ws, RUN, monkeypatch).all("li")]
    assert lines == [f"1,234 {NOTES[fact]}."]


@pytest.mark.parametrize("fact", FLAGS)
def test_the_report_says_each_flag(fact: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ws = Maker(tmp_path).make(exact=True, idle=0, evaluated=False, facts={fact: True}).ws
    lines = [li.text for li in alone(record.warnings, ws, RUN, monkeypatch).all("li")]
    assert lines == [f"{FLAGS[fact][0].upper()}{FLAGS[fact][1:]}."]
