"""What a mirror knows of its store's journal: what was seen, and which change of each path is in force."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from nncift_core.errors import UserError
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
    def _open(self, check_same_thread: bool = True) -> Iterator[sqlite3.Connection]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        connected = sqlite3.connect(self.path, timeout=120, check_same_thread=check_same_thread)
        with contextlib.closing(connected) as con:
            try:
                # It can be had again from the store.
                con.execute("PRAGMA synchronous = OFF")
                con.executescript(_TABLES)
                with con:
                    yield con
            except sqlite3.OperationalError:
                raise
            except sqlite3.DatabaseError as e:
                raise UserError(
                    f"is damaged ({e})",
                    file=self.path,
                    mend=f"All is in the store: delete this machine's copy, {self.path.parent.parent}",
                ) from None

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

    @contextlib.contextmanager
    def reading(self) -> Iterator[Callable[[str], str]]:
        """A function, for any thread, that tells which change of a path is in force ("" for none)."""
        lock = threading.Lock()
        with self._open(check_same_thread=False) as con:

            def name(path: str) -> str:
                with lock:
                    found = con.execute("SELECT name FROM last WHERE path = ?", (path,)).fetchone()
                return str(found[0]) if found else ""

            yield name

    def has_line(self, name: str) -> bool:
        """Whether the line of this change was added."""
        with self._open() as con:
            return con.execute("SELECT 1 FROM line WHERE name = ?", (name,)).fetchone() is not None

    def note_line(self, name: str) -> None:
        """The line of this change was added."""
        with self._open() as con:
            con.execute("INSERT OR IGNORE INTO line VALUES (?)", (name,))
