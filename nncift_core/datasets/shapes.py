"""Which columns are prompt and response: recognise a file's shape, then map its rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from nncift_core.datasets.conversations import split_conversation
from nncift_core.datasets.values import BadRow, check_utf8, shown
from nncift_core.errors import UserError
from nncift_core.hashing import canonical_json

PROMPTS = ("prompt", "instruction", "question", "query", "input")
RESPONSES = ("response", "output", "completion", "answer")
CONVERSATIONS = ("messages", "conversations")
OPTIONAL = ("id", "source", "task", "split", "label")
# Text that belongs to the prompt but whose place in it no convention fixes: the user decides.
EXTRA_PROMPT = ("context", "system", "system_prompt")
_WANTED = "wanted prompt and response, or instruction and output, or messages, or conversations"


@dataclass(frozen=True, slots=True)
class Shape:
    """The columns that carry each role; `turns` is set for conversations, prompt and response else."""

    name: str
    prompt: str = ""
    response: str = ""
    input: str = ""
    turns: str = ""
    optional: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Mapped:
    """A row's texts and optional values; `after`: turns left out after the response."""

    prompt: str
    response: str
    optional: dict[str, str | None]
    after: int = 0


def recognise(
    columns: Sequence[str], mapping: Mapping[str, str], file: str, line: int | None = None
) -> Shape:
    """The shape of a file with these columns; `mapping` (role -> column, from the config) wins.

    Raises UserError naming the columns found and wanted when none fits, or when several do.
    """
    missing = {role: name for role, name in mapping.items() if name not in columns}
    if missing:
        wanted = ", ".join(f'"{name}" (as {role})' for role, name in missing.items())
        raise UserError(
            f"columns found: {_listed(columns)}; wanted {wanted}",
            file=file,
            line=line,
            mend="Mend `columns` in the config.",
        )
    optional = {role: role for role in OPTIONAL if role in columns}
    optional.update({role: name for role, name in mapping.items() if role in OPTIONAL})
    if "messages" in mapping:
        if {"prompt", "response", "input"} & set(mapping):
            raise UserError(
                "columns maps messages and also prompt, response or input",
                file=file,
                mend="Keep messages, or keep the others.",
            )
        return Shape("messages", turns=mapping["messages"], optional=optional)
    readings = _readings(columns, mapping)
    extra = [name for name in EXTRA_PROMPT if name in columns and name not in mapping.values()]
    explicit = "prompt" in mapping and "response" in mapping
    if len(readings) == 1 and (explicit or not extra):
        shape = readings[0]
        return Shape(shape.name, shape.prompt, shape.response, shape.input, shape.turns, optional)
    raise _unclear(columns, readings, extra, file, line)


def _readings(columns: Sequence[str], mapping: Mapping[str, str]) -> list[Shape]:
    """Every way to read these columns."""
    prompts = [mapping["prompt"]] if "prompt" in mapping else [n for n in PROMPTS if n in columns]
    responses = [mapping["response"]] if "response" in mapping else [n for n in RESPONSES if n in columns]
    added = mapping.get("input", "")
    if "prompt" not in mapping:
        if not added and "instruction" in columns and "input" in columns:
            added = "input"
        prompts = [n for n in prompts if n not in (added, mapping.get("response"))]
    if "response" not in mapping:
        responses = [n for n in responses if n not in (added, mapping.get("prompt"))]
    pairs = [_pair(p, r, added, mapping) for p, r in product(prompts, responses)]
    if {"prompt", "response", "input"} & set(mapping):
        return pairs
    return pairs + [Shape(name, turns=name) for name in CONVERSATIONS if name in columns]


def _pair(prompt: str, response: str, added: str, mapping: Mapping[str, str]) -> Shape:
    if added == "input" and prompt != "instruction" and "input" not in mapping:
        added = ""
    alpaca = prompt == "instruction" and response == "output" and added in ("", "input")
    plus = f"+{added}" if added else ""
    return Shape("alpaca" if alpaca else f"{prompt}{plus}/{response}", prompt, response, added)


def _unclear(
    columns: Sequence[str], readings: Sequence[Shape], extra: Sequence[str], file: str, line: int | None
) -> UserError:
    found = f"columns found: {_listed(columns)}"
    if not readings:
        return UserError(
            f"{found}; {_WANTED}",
            file=file,
            line=line,
            mend='Name yours in the config: columns = {prompt = "...", response = "..."}.',
        )
    ways = " or ".join(f"columns = {{{_setting(shape)}}}" for shape in readings[:6])
    if len(readings) > 1:
        return UserError(
            f"{found}; more than one reading is possible",
            file=file,
            line=line,
            mend=f"Choose one in the config: {ways}.",
        )
    what = f'{found}; "{extra[0]}" may belong to the prompt'
    if readings[0].turns or readings[0].input:
        return UserError(what, file=file, line=line, mend=f"To read without it, set {ways}.")
    with_it = f'columns = {{{_setting(readings[0])}, input = "{extra[0]}"}}'
    return UserError(what, file=file, line=line, mend=f"Choose one in the config: {with_it} or {ways}.")


def _setting(shape: Shape) -> str:
    if shape.turns:
        return f'messages = "{shape.turns}"'
    added = f', input = "{shape.input}"' if shape.input else ""
    return f'prompt = "{shape.prompt}"{added}, response = "{shape.response}"'


def _listed(columns: Sequence[str], most: int = 20) -> str:
    names = ", ".join(f'"{shown(name)}"' for name in columns[:most])
    more = f" and {len(columns) - most} more" if len(columns) > most else ""
    return (names or "none") + more


def map_row(row: Mapping[str, Any], shape: Shape) -> Mapped:
    r"""Prompt, response and optional values of one row, texts exactly as they stand.

    With an input column: prompt = prompt column + "\n" + input, when input is not the empty text.
    Raises BadRow with the reason when a text is missing, blank or not text.
    """
    optional = {role: _optional(row.get(name)) for role, name in shape.optional.items()}
    if shape.turns:
        if row.get(shape.turns) is None:
            raise BadRow(_absent(row, shape.turns, shape.turns))
        prompt, response, after = split_conversation(row[shape.turns], shape.turns)
    else:
        prompt, response = _text(row, "prompt", shape.prompt), _text(row, "response", shape.response)
        after = 0
        added = row.get(shape.input) if shape.input else None
        if added is not None:
            added = _text(row, "input", shape.input)
            prompt += f"\n{added}" if added else ""
    for role, text in (("prompt", prompt), ("response", response)):
        check_utf8(text, role)
        if not text.strip():
            raise BadRow(f"{role} is empty")
    return Mapped(prompt, response, optional, after)


def _text(row: Mapping[str, Any], role: str, column: str) -> str:
    value = row.get(column)
    if isinstance(value, str):
        return value
    named = role if role == column else f'{role} (column "{column}")'
    if value is None:
        raise BadRow(_absent(row, column, named))
    if isinstance(value, float) and math.isnan(value):
        raise BadRow(f"{named} is NaN, text is wanted")
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        raise BadRow(f'{named} is a number ({value}), text is wanted: put it in quotes, as "{value}"')
    if isinstance(value, (list, dict)):
        kind = "a list" if isinstance(value, list) else "an object"
        raise BadRow(f"{named} is {kind}, text is wanted: keep one text per row, or map another column")
    raise BadRow(f"{named} is of type {type(value).__name__}, text is wanted")


def _absent(row: Mapping[str, Any], column: str, named: str) -> str:
    if column in row:
        return f"{named} is null"
    return f"{named} is missing (columns found: {_listed(list(row))})"


def _optional(value: Any) -> str | None:
    """An optional value as text; null and NaN are absent."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, float) and math.isnan(value):
        return None
    return canonical_json(value) if isinstance(value, (list, dict)) else str(value)
