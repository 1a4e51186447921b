"""What a page is made of: sentences, tables, plots. Whatever comes from data carries its query."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from nncift_core.report.queries import Data
from nncift_core.text import clip, one_line, visible

NOTHING = "–"
SHORT, CELL, LONG = 24, 80, 400
GOOD = ("better", "beats every baseline", "trusted")
BAD = ("worse", "no better", "below a constant", "refused")


def _significant(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


_NUMBERS: dict[str, Callable[[Any], str]] = {
    "int": lambda v: f"{v:,.0f}",
    "score": _significant,
    "loss": lambda v: f"{v:.3f}",
    "gain": lambda v: f"{v:+.3f}",
    "rate": lambda v: f"{v:.2f}",
    "share": lambda v: f"{100 * v:.1f} %" if v >= 0.001 or v == 0 else "< 0.1 %",
    "seconds": lambda v: f"{v:,.1f}",
}


def shown(value: Any, how: str) -> str:
    """`value` as a person reads it. how: a name of `_NUMBERS`, "text" (one line) or "long" (clipped)."""
    if value is None:
        return NOTHING
    if how in _NUMBERS:
        return _NUMBERS[how](value)
    text = str(value)
    return visible(clip(text, LONG)) if how == "long" else one_line(text, CELL)


def exact(value: Any, how: str) -> str | None:
    """`value` with all its digits for a machine to compare; None for text, "" for a missing number."""
    if how not in _NUMBERS:
        return None
    return "" if value is None else repr(value)


def mood(verdict: Any) -> str:
    """Whether a verdict is good news, bad news or neither."""
    text = str(verdict or "")
    return "good" if text in GOOD else "bad" if text.startswith(BAD) else "open"


@dataclass(frozen=True)
class Value:
    """One value of a query's first row, inside a sentence, with the query that gives it alone."""

    sql: str
    shown: str
    exact: str | None
    kind: str = "value"


def value(data: Data, column: str, how: str = "text") -> Value:
    """The value in `column` of the first row of `data`."""
    found = data.first.get(column)
    return Value(f"SELECT {column} FROM ({data.sql}) LIMIT 1", shown(found, how), exact(found, how))


@dataclass(frozen=True)
class Code:
    """Something to type, or a name that is typed."""

    text: str
    kind: str = "code"


Part = str | Value | Code


@dataclass(frozen=True)
class Sentence:
    """Words and values in turn; mood: a verdict's; badge: the verdict itself, where it stands apart."""

    parts: tuple[Part, ...]
    mood: str = ""
    badge: Value | None = None
    kind: str = "sentence"


def say(text: str, *parts: Value | Code, mood: str = "", badge: Value | None = None) -> Sentence:
    """A sentence with `parts` in the places of its {}."""
    words = text.split("{}")
    assert len(words) == len(parts) + 1, text
    mixed: list[Part] = [words[0]]
    for part, after in zip(parts, words[1:], strict=True):
        mixed += [part, after]
    return Sentence(tuple(mixed), mood, badge)


@dataclass(frozen=True)
class Column:
    """A column of a table, in the query's order. how: see `shown`, or "verdict"."""

    label: str
    how: str = "text"

    @property
    def numeric(self) -> bool:
        """Whether it holds numbers."""
        return self.how in _NUMBERS


@dataclass(frozen=True)
class Cell:
    """One value of a table."""

    label: str
    shown: str
    exact: str | None
    style: str


@dataclass(frozen=True)
class Table:
    """Rows of a query. cards: one box per row, for long texts; folded: what to click to see it, or ""."""

    data: Data
    columns: tuple[Column, ...]
    cards: bool = False
    folded: str = ""
    kind: str = "table"

    @property
    def rows(self) -> list[list[Cell]]:
        """Cells in the order of the query."""
        return [[_cell(c, v) for c, v in zip(self.columns, r.values(), strict=True)] for r in self.data.rows]


def _cell(column: Column, found: Any) -> Cell:
    how = "text" if column.how == "verdict" else column.how
    text = shown(found, how)
    styles = {"long": "long", "verdict": f"verdict {mood(found)}"}
    style = (
        "number" if column.numeric else styles.get(column.how, "text short" if len(text) <= SHORT else "text")
    )
    return Cell(column.label, text, exact(found, how), style)


def table(data: Data, *columns: str, cards: bool = False, folded: str = "") -> Table:
    """A table with columns given as "label" or "label:how"."""
    parts = [c.partition(":") for c in columns]
    made = tuple(Column(label, how or "text") for label, _, how in parts)
    return Table(data, made, cards, folded)


@dataclass(frozen=True)
class Plot:
    """An image, with the numbers it was drawn from in a folded table."""

    image: str
    alt: str
    caption: str
    numbers: Table | None
    kind: str = "plot"


@dataclass(frozen=True)
class Pre:
    """Text that stands as it is, like a config; label: what a click unfolds, "" for always open."""

    text: str
    label: str = ""
    kind: str = "pre"


@dataclass(frozen=True)
class Title:
    """A heading inside a section."""

    text: str
    kind: str = "title"


@dataclass(frozen=True)
class Items:
    """Sentences as a list."""

    sentences: tuple[Sentence, ...]
    kind: str = "items"


@dataclass
class Section:
    """A part of the page that the table of contents names."""

    anchor: str
    title: str
    blocks: list[Sentence | Table | Plot | Pre | Title | Items] = field(default_factory=list)
