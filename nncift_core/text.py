"""Text of the user's data made safe to show: nothing that steers, nothing longer than its place."""

from __future__ import annotations

import unicodedata

# Line breaks and tabs are visible where text is shown as it stands; joiners make letters of some scripts.
_KEPT = frozenset("\n\t\u200c\u200d")
_SIGNS = {"Cc": "\u2426", "Cf": "\ufffd", "Cs": "\ufffd", "Zl": "\n", "Zp": "\n"}


def visible(text: str) -> str:
    """`text` with every character that steers a terminal or a page replaced by a visible sign.

    Control characters become their Unicode pictures (U+2400 on, U+2426 for C1), format characters
    such as direction overrides and lone surrogates become U+FFFD; line breaks and tabs stay.
    """
    return "".join(ch if ch.isprintable() or ch in _KEPT else _sign(ch) for ch in text)


def clip(text: str, characters: int) -> str:
    """`text`, or its first `characters` with a note of how long it is in all."""
    if len(text) <= characters:
        return text
    return f"{text[:characters]}… ({len(text):,} characters in all)"


def one_line(text: str, characters: int) -> str:
    """`visible` text on one line of at most `characters` (>= 1): breaks as signs, the end as an ellipsis."""
    shown = visible(text[: characters + 1]).replace("\n", "⏎").replace("\t", " ")
    return shown if len(shown) <= characters else f"{shown[: characters - 1]}…"


def _sign(ch: str) -> str:
    code = ord(ch)
    if code < 0x20 or code == 0x7F:
        return chr(0x2400 + code) if code < 0x20 else "\u2421"
    return _SIGNS.get(unicodedata.category(ch), ch)
