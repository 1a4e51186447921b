"""Files of a mirror for DuckDB: one that is not here is fetched, and checked, when a query opens it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
from fsspec.spec import AbstractFileSystem

from nncift_core.errors import IntegrityError
from nncift_core.store.remote.mirrors import here

PROTOCOL = "nncift"
# What could not be read since the last `register`: DuckDB tells of its own errors alone.
_LOST: list[str] = []


def location(path: Path) -> str:
    """How DuckDB names a file of a mirror."""
    return f"{PROTOCOL}://{path.as_posix().lstrip('/')}"


class MirrorFiles(AbstractFileSystem):  # type: ignore[misc]
    """Read-only: the files of this machine's mirrors by their paths, present or not."""

    protocol = PROTOCOL
    cachable = False

    def _open(self, path: str, mode: str = "rb", **_: Any) -> Any:
        if mode != "rb":
            raise PermissionError(f"{path}: queries write nothing")
        return self._here(path).open("rb")

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Name, type and size."""
        return {"name": path, "type": "file", "size": self._here(path).stat().st_size}

    def modified(self, path: str) -> datetime:
        """When the file came here."""
        return datetime.fromtimestamp(self._here(path).stat().st_mtime, UTC)

    def glob(self, path: str, **_: Any) -> list[str]:
        """The path itself: names of files are no patterns."""
        return [path]

    def _here(self, path: str) -> Path:
        file = Path(f"/{path.removeprefix(f'{PROTOCOL}://').lstrip('/')}")
        try:
            here(file)
        except IntegrityError as e:
            _LOST.append(str(e))
            raise
        if not file.is_file():
            _LOST.append(f"{file.parent.name}/{file.name}: is missing; run again to recompute it")
        return file


def raise_lost() -> None:
    """Raise IntegrityError if a file of a mirror could not be read: that is why a query failed."""
    if _LOST:
        first = _LOST[0]
        _LOST.clear()
        raise IntegrityError(first) from None


def register(con: duckdb.DuckDBPyConnection) -> None:
    """Let a connection read files of mirrors."""
    _LOST.clear()
    con.register_filesystem(MirrorFiles())
