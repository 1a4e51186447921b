"""What the rest of the library knows of a row of data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Example:
    """One row as read: `prompt` x and `response` y exactly as they stand in the file.

    `row_number` counts from 0 over the rows of the data set in reading order (files sorted by name),
    after the split filter and before bad rows are dropped; `record` is the user's own row, kept so
    that a subset can be written in its shape; `label`, `task`, `source_id` are None when absent.
    """

    prompt: str
    response: str
    row_number: int
    source: str | None = None
    source_id: str | None = None
    task: str | None = None
    split: str | None = None
    label: str | None = None
    record: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ReadReport:
    """What reading found: files read, rows kept, rows dropped with their places and reasons."""

    dataset: str
    files: tuple[str, ...]
    shape: str
    rows: int
    dropped: tuple[str, ...] = ()
    duplicates: int = 0
    note: str = ""
