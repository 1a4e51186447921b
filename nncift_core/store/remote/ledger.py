"""What a mirror knows of its store's journal: what was seen, and which change of each path is in force."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path

from nncift_core.store.remote.journal import Seen

_TABLES = """
CREATE TABLE IF NOT EXISTS single (name TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS segment (name TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS line (name TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS last (path TEXT PRIMARY KEY, name TEXT NOT NULL) WITHOUT ROWID;
"""
_LATER = "INSERT INTO last VALUES (?, ?) ON CONFLICT (path) DO UPDATE SET name = excluded.name \
WHERE excluded.name > last.name"
_MANY = 500


class Ledger:
    """The ledger of one mirror, for all processes of this machine. Without it everything is applied anew."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(sqlite3.connect(self.path, timeout=120)) as con:
            # It can be had again from the store.
            con.execute("PRAGMA synchronous = OFF")
            con.executescript(_TABLES)
            with con:
                yield con

    def seen(self) -> Seen:
        """What of the journal was seen."""
        with self._open() as con:
            names = [{n for (n,) in con.execute(f"SELECT name FROM {t}")} for t in ("single", "segment")]
        return Seen(*names)

    def save(self, seen: Seen) -> None:
        """From now on this was seen."""
        with self._open() as con:
            for table, names in (("single", seen.new), ("segment", seen.merged)):
                con.execute(f"DELETE FROM {table}")
                con.executemany(f"INSERT INTO {table} VALUES (?)", ((n,) for n in names))

    def in_force(self, paths: Iterable[str]) -> dict[str, str]:
        """By path: the name of its last change that is in force here."""
        wanted, found = list(paths), dict[str, str]()
        with self._open() as con:
            for start in range(0, len(wanted), _MANY):
                part = wanted[start : start + _MANY]
                marks = ", ".join("?" * len(part))
                found.update(con.execute(f"SELECT path, name FROM last WHERE path IN ({marks})", part))
        return found

    def note(self, changes: Iterable[tuple[str, str]]) -> None:
        """Changes (path, name) are in force here, unless later ones are."""
        with self._open() as con:
            con.executemany(_LATER, changes)

    def is_new_line(self, name: str) -> bool:
        """Whether the line of this change was not added yet; asked once."""
        with self._open() as con:
            return con.execute("INSERT OR IGNORE INTO line VALUES (?)", (name,)).rowcount == 1
