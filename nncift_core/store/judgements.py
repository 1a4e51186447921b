"""What judges said, kept for good: one growing file of lines per judge, so that nothing is asked twice.

A line is written and synced as soon as an answer is there, since it cost money; so the file grows and has no
manifest. Each line carries a checksum of its own instead: a line that a kill tore, or that was damaged,
counts as not there. Writers of several processes take turns.

A line says what was found under a key, of which the first counts, or what was spent on it without finding
anything, which adds up.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from typing import Any

from nncift_core.store.remote.local import add_line
from nncift_core.store.workspace import Workspace


class JudgementStore:
    """Judgements of one judge by key; sees what other processes add when a key is not found."""

    def __init__(self, ws: Workspace, judge_key: str) -> None:
        self.path = ws.root / "judgements" / f"{judge_key[:16]}.jsonl"
        self._root = ws.root
        self._mirror = ws.mirror
        self._found: dict[str, dict[str, Any]] = {}
        self._spent: dict[str, Counter[str]] = {}
        self._read_to = 0
        self._lock = threading.Lock()

    def get(self, key: str) -> dict[str, Any] | None:
        """What is kept under `key`; None where there is nothing intact."""
        with self._lock:
            if key not in self._found:
                self._look()
            return self._found.get(key)

    def add(self, key: str, found: dict[str, Any]) -> None:
        """Keep `found` (JSON-ready) under `key`; on disk when this returns."""
        with self._lock:
            self._found[key] = found
            self._append({"key": key, "found": found})

    def spent(self, key: str) -> dict[str, int]:
        """Sums of what was told to `spend` under `key`, by any process; empty where nothing was."""
        with self._lock:
            self._look()
            return dict(self._spent.get(key, {}))

    def spend(self, key: str, amounts: dict[str, int]) -> None:
        """Keep that `amounts` were spent under `key` though nothing was found; on disk when this returns."""
        with self._lock:
            # Counted when the line is read, like anybody's.
            self._append({"key": key, "spent": amounts})

    def _append(self, record: dict[str, Any]) -> None:
        text = json.dumps(record, ensure_ascii=True, sort_keys=True)
        line = f"{_checksum(text)} {text}\n"
        # Here first: it cost money.
        add_line(self._root, self.path, line.encode("ascii"))
        if self._mirror is not None:
            self._mirror.share_line(self.path, line)

    def _look(self) -> None:
        """Read the whole lines that were added since the last look."""
        try:
            with self.path.open("rb") as f:
                f.seek(self._read_to)
                data = f.read()
        except FileNotFoundError:
            return
        whole = data.rfind(b"\n") + 1
        self._read_to += whole
        for line in data[:whole].split(b"\n"):
            checksum, _, text = line.decode("ascii", "replace").partition(" ")
            if checksum == _checksum(text):
                record = json.loads(text)
                if "spent" in record:
                    self._spent.setdefault(record["key"], Counter()).update(record["spent"])
                else:
                    self._found.setdefault(record["key"], record["found"])


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode("ascii", "replace")).hexdigest()[:16]
