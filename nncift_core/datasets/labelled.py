"""Labelled text, single or in pairs, as examples: the text is the prompt, a pair's second the response."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nncift_core.config_prune import LabelledRows
from nncift_core.datasets.reading import read_dataset
from nncift_core.datasets.values import BadRow, check_utf8, shown
from nncift_core.errors import UserError
from nncift_core.records import Example, ReadReport

TEXTS = ("text", "sentence", "content", "utterance", "review")
PAIRS = (
    ("premise", "hypothesis"),
    ("text", "text_pair"),
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("question", "sentence"),
)
LABELS = ("label", "intent", "category", "class", "target")
_OPTIONAL = ("id", "group", "split")


@dataclass(frozen=True)
class LabelledShape:
    """The columns of a file by role; text_pair: "" for single texts."""

    name: str
    text: str
    text_pair: str
    label: str
    optional: dict[str, str]


class LabelledText:
    """The reading of labelled rows (`datasets.reading.Kind`).

    unlabelled: labels which say that there is none. Whitespace around a label is no part of it: "a" and "a "
    are one class.
    """

    def __init__(self, unlabelled: Collection[str] = ()) -> None:
        self._unlabelled = frozenset(name.strip() for name in unlabelled)

    def shape(
        self, columns: Sequence[str], mapping: Mapping[str, str], file: str, line: int | None
    ) -> LabelledShape:
        """Which column is what: `mapping` (role -> column) wins, then the usual names.

        Raises UserError naming the columns found and wanted when a role has no column, or more than one.
        """
        for role, name in mapping.items():
            if name not in columns:
                raise _error(columns, f'wanted "{name}" (as {role})', file, line, "Mend `columns`.")
        text, pair = _texts(columns, mapping, file, line)
        taken = {text, pair, *mapping.values()}
        labels = [c for c in LABELS if c in columns and c not in taken]
        label = mapping.get("label") or (labels[0] if len(labels) == 1 else "")
        if not label:
            several = f"more than one may be the label: {', '.join(labels)}"
            what = several if labels else "no column of labels"
            raise _error(columns, what, file, line, 'Name it: columns = {label = "..."}.')
        optional = {role: role for role in _OPTIONAL if role in columns}
        optional.update({role: name for role, name in mapping.items() if role in _OPTIONAL})
        return LabelledShape("text pair" if pair else "text", text, pair, label, optional)

    def example(
        self, row: dict[str, Any], shape: LabelledShape, number: int, split: str | None
    ) -> tuple[Example, int]:
        """One row; raises BadRow for a text that is missing, blank or no text, and for a label that is
        missing or says that there is none."""
        text = _text(row, shape.text)
        pair = _text(row, shape.text_pair) if shape.text_pair else ""
        values = {role: _value(row.get(name)) for role, name in shape.optional.items()}
        given = row.get(shape.label)
        if isinstance(given, list | dict):
            kind = type(given).__name__
            raise BadRow(f'label (column "{shape.label}") is {kind}, text or number is wanted')
        label = (_value(given) or "").strip()
        if not label:
            raise BadRow(f'the row has no label (column "{shape.label}")')
        if label in self._unlabelled:
            raise BadRow(
                f'the row has no label (column "{shape.label}" is "{shown(label)}", see data.unlabelled)'
            )
        check_utf8(label, "label")
        example = Example(
            prompt=text,
            response=pair,
            row_number=number,
            source_id=values.get("id"),
            task=values.get("group"),
            split=values.get("split") or split,
            label=label,
        )
        return example, 0


def read_labelled(config: LabelledRows, base_dir: str) -> tuple[list[Example], ReadReport]:
    """Read every labelled row that `config` names; raises UserError as `read_dataset` does."""
    return read_dataset(config, base_dir, LabelledText(config.unlabelled))


def unlabelled_note(labels: Collection[str]) -> str:
    """What to tell of classes (distinct labels) of which one may say that there is none; "" for none.

    "-1" beside labels that are just the integers 0..K-1, and "-" beside any others.
    """
    for sign in ("-1", "-"):
        others = set(labels) - {sign}
        if sign not in labels or not others:
            continue
        if sign == "-" or others == {str(k) for k in range(len(others))}:
            return (
                f'the label "{sign}" is taken for a class; where it says that a row has no label, set '
                f'data.unlabelled = ["{sign}"]'
            )
    return ""


def _texts(
    columns: Sequence[str], mapping: Mapping[str, str], file: str, line: int | None
) -> tuple[str, str]:
    """Columns of the text and of its pair ("" for single texts)."""
    if "text" in mapping:
        return mapping["text"], mapping.get("text_pair", "")
    if "text_pair" in mapping:
        others = [a for a, b in PAIRS if b == mapping["text_pair"] and a in columns]
        others = others or [c for c in TEXTS if c in columns and c != mapping["text_pair"]]
        if len(others) == 1:
            return others[0], mapping["text_pair"]
        raise _error(columns, "text_pair is named, but not text", file, line, 'Add text = "..." to columns.')
    pairs = [(a, b) for a, b in PAIRS if a in columns and b in columns]
    if len(pairs) == 1:
        return pairs[0]
    half = [c for pair in PAIRS for c in pair if c in columns and c not in TEXTS]
    singles = [c for c in TEXTS if c in columns]
    if not pairs and half:
        partner = next(b if a == half[0] else a for a, b in PAIRS if half[0] in (a, b))
        raise _error(
            columns, f'"{half[0]}" is half of a pair, but there is no "{partner}"', file, line,
            'Name both: columns = {text = "...", text_pair = "..."}; or name one text alone.',
        )  # fmt: skip
    if len(singles) == 1 and not pairs:
        return singles[0], ""
    what = "no column of text" if not singles and not pairs else "more than one reading is possible"
    raise _error(columns, what, file, line, 'Name yours: columns = {text = "..."}, and text_pair for pairs.')


def _error(columns: Sequence[str], what: str, file: str, line: int | None, mend: str) -> UserError:
    found = ", ".join(f'"{shown(name)}"' for name in columns[:20])
    more = f" and {len(columns) - 20} more" if len(columns) > 20 else ""
    return UserError(f"columns found: {found or 'none'}{more}; {what}", file=file, line=line, mend=mend)


def _text(row: Mapping[str, Any], column: str) -> str:
    value = row.get(column)
    if not isinstance(value, str):
        kind = "missing" if column not in row else "null" if value is None else type(value).__name__
        raise BadRow(f'column "{column}" is {kind}, text is wanted')
    check_utf8(value, f'column "{column}"')
    if not value.strip():
        raise BadRow(f'column "{column}" is empty')
    return value


def _value(value: Any) -> str | None:
    """A label or another small value as text; null and NaN are absent."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    return str(value)
