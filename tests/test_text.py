"""Text from data never steers a terminal or a page, and never outgrows its place."""

from __future__ import annotations

import json
import unicodedata

import pytest
from conftest import Project

from nncift_core.text import clip, one_line, visible

TITLE, CLEAR = "\x1b]0;x\x07", "\x1b[2J"


def test_controls_become_signs() -> None:
    assert visible(f"a{TITLE}b{CLEAR}") == "a␛]0;x␇b␛[2J"
    assert visible("\r\x00\x08\x7f\x9b31m") == "␍␀␈␡␦31m"


def test_overrides_and_lone_surrogates_are_replaced() -> None:
    assert visible("user\u202etxt.exe") == "user\ufffdtxt.exe"
    assert visible("\u2066\u200b\ufeff\ud800\U000e0041") == "\ufffd" * 5


@pytest.mark.parametrize(
    "text",
    [
        "two\nlines\tand a tab",
        "नमस्ते क्\u200dष",
        "👩\u200d👩\u200d👧",
        "میخواهم\u200c",
        "nb\u00a0sp\u3000",
        "e\u0301 ñ 漢",
    ],
)
def test_scripts_and_breaks_stay(text: str) -> None:
    assert visible(text) == text


def test_unicode_line_separators_become_breaks() -> None:
    assert visible("a\u2028b\u2029c") == "a\nb\nc"


def test_no_character_at_all_steers_after_visible() -> None:
    shown = visible("".join(map(chr, range(0x110000))))
    left = {ch for ch in shown if unicodedata.category(ch) in ("Cc", "Cf", "Cs", "Zl", "Zp")}
    assert left == {"\n", "\t", "\u200c", "\u200d"}
    shown.encode("utf-8")


def test_clip_says_how_much_there_is() -> None:
    assert clip("abc", 3) == "abc"
    assert clip("x" * 1500, 4) == "xxxx… (1,500 characters in all)"


def test_one_line_is_one_line_of_its_length() -> None:
    assert one_line("a\nb\tc\u2028d", 10) == "a⏎b c⏎d"
    assert one_line("abcd", 4) == "abcd"
    assert one_line("abcde", 4) == "abc…"
    assert one_line("\x1b" * 9, 4) == "␛␛␛…"


def test_a_query_result_cannot_steer_the_terminal(offline_project: Project) -> None:
    p = offline_project
    p.workspace.mkdir()
    (p.workspace / "nncift.json").write_text('{"format": 1}')
    value = "'a' || chr(27) || ']0;x' || chr(7) || chr(27) || '[2J' || chr(10) || 'b'"
    sql = f'SELECT {value} AS "name{CLEAR}{TITLE}", [chr(155)] AS listed, NULL AS empty'
    shown = p.call("query", sql, "--workspace", str(p.workspace)).stdout
    assert "a␛]0;x␇␛[2J⏎b" in shown
    assert "name␛[2J␛]0;x␇" in shown
    assert "NULL" in shown
    assert not {ch for ch in shown if unicodedata.category(ch) == "Cc"} - {"\n"}
    # JSON is for programs: the value stays as it is, escaped by JSON itself.
    (row,) = json.loads(p.call("query", sql, "--workspace", str(p.workspace), "--json").stdout)
    assert row[f"name{CLEAR}{TITLE}"] == f"a{TITLE}{CLEAR}\nb"
