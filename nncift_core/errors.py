"""Errors that a user can mend: what is wrong, where, and how to put it right."""

from __future__ import annotations

from pathlib import Path


class NnciftError(Exception):
    """Base of every error this project raises on purpose; the CLI prints it without a traceback."""


class UserError(NnciftError):
    """The user's input is wrong (exit code 2).

    The message reads `WHERE: WHAT. MEND`, where WHERE names the file and, when known, the line
    (text formats), the row (tables) or the field.
    """

    def __init__(
        self,
        what: str,
        *,
        mend: str = "",
        file: str | Path | None = None,
        line: int | None = None,
        row: int | None = None,
        field: str | None = None,
    ) -> None:
        self.what, self.mend = what, mend
        self.file = str(file) if file is not None else None
        self.line, self.row, self.field = line, row, field
        super().__init__(self._text())

    def _text(self) -> str:
        where = self.file or ""
        if self.line is not None:
            where += f":{self.line}"
        if self.row is not None:
            where += f" row {self.row}"
        if self.field is not None:
            where += f" field {self.field}" if where else f"field {self.field}"
        text = f"{where.strip()}: {self.what}" if where else self.what
        return f"{text.rstrip('.')}. {self.mend}" if self.mend else text


class HubUnreachable(UserError):
    """A hub id that is neither local nor cached, while the hub does not answer."""


class RunError(NnciftError):
    """The run itself failed (exit code 1) although the input was right."""


class IntegrityError(RunError):
    """A stored file does not match its manifest (size or checksum)."""
