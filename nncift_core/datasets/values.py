"""The user's row as a JSON-serialisable dict, so that a subset can be written in its shape."""

from __future__ import annotations

import datetime as dt
import math
from collections import Counter
from typing import Any


class BadRow(Exception):
    """One row cannot be used; the message is the reason that the report shows."""


def clean_record(row: dict[str, Any], counts: Counter[str]) -> dict[str, Any]:
    """`row` with every value serialisable; what had to change is counted in `counts`.

    Dates and times become ISO texts, decimals and other scalars their text, NaN and infinities
    null; bytes are left out. Raises BadRow for text that UTF-8 cannot hold (lone surrogates).
    """
    out = {}
    for name, value in row.items():
        check_utf8(name, "a column name")
        if isinstance(value, (bytes, bytearray, memoryview)):
            counts[f'column "{name}" holds bytes and is left out of the kept rows'] += 1
        else:
            out[name] = _clean(value, name, counts)
    return out


def shown(text: str, most: int = 40) -> str:
    """`text` for a message: at most `most` characters, lone surrogates escaped."""
    cut = text if len(text) <= most else text[:most] + "..."
    return cut.encode("utf-8", "backslashreplace").decode("utf-8")


def check_utf8(text: str, what: str) -> None:
    """Raise BadRow when `text` holds a lone surrogate, naming `what`."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as e:
        code = f"\\u{ord(text[e.start]):04x}"
        raise BadRow(f"{what} holds a lone surrogate ({code}), which UTF-8 cannot hold") from None


def _clean(value: Any, name: str, counts: Counter[str]) -> Any:
    if isinstance(value, str):
        check_utf8(value, f'column "{name}"')
        return value
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        counts[f'column "{name}" holds NaN or infinity, kept as null'] += 1
        return None
    if isinstance(value, dict):
        inner = {str(k): v for k, v in value.items()}
        return clean_record(inner, counts)
    if isinstance(value, (list, tuple)):
        return [_clean(v, name, counts) for v in value]
    if isinstance(value, (bytes, bytearray, memoryview)):
        counts[f'column "{name}" holds bytes inside a list, kept as null'] += 1
        return None
    if isinstance(value, (dt.datetime, dt.date, dt.time)):
        return value.isoformat()
    return str(value)
