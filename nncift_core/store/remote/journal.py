"""What a store holds, as a journal: each change an object of its own, merged into segments when many.

Whoever follows it lists this short folder and reads what is new there; the store itself is never listed.

    journal/changes/TIME-ORIGIN-RANDOM               one change, JSON
    journal/segments/TIME-ORIGIN-RANDOM.jsonl.gz     some hundred changes, one a line

A change says of a path of the workspace what stands there now: a payload with its manifest ("manifest"), a
document ("text", or "object" where it is long), one line more ("line"), nothing ("removed").
"""

from __future__ import annotations

import gzip
import json
import time
import uuid
from dataclasses import dataclass
from typing import Any

from nncift_core.errors import UserError
from nncift_core.store.remote.objects import Objects

FOLDER = "journal"
NEW, MERGED = f"{FOLDER}/changes", f"{FOLDER}/segments"
# Changes that lie about one by one before whoever sees them merges them.
MANY = 512


@dataclass(frozen=True)
class Change:
    """name: orders the changes of one origin in time; body: what it says."""

    name: str
    body: dict[str, Any]

    @property
    def origin(self) -> str:
        """The mirror that it came from."""
        return self.name.split("-")[1]


@dataclass
class Seen:
    """What of the journal is known here: the single changes that are still listed, and the segments."""

    new: set[str]
    merged: set[str]


class Journal:
    """The journal of one store; origin: by which the changes made here are known."""

    def __init__(self, objects: Objects, origin: str) -> None:
        self.objects, self.origin = objects, origin

    def append(self, body: dict[str, Any], after: str = "") -> str:
        """Add a change; others see it from now on. Returns its name, which lies behind that of the change
        `after`, whatever the clocks say."""
        text, name = json.dumps(body, ensure_ascii=False, sort_keys=True), self._name(after)
        self.objects.put(f"{NEW}/{name}", text.encode("utf-8"))
        return name

    def follow(self, seen: Seen) -> tuple[list[Change], Seen]:
        """Changes that `seen` lacks, in order of time, and what is seen then.

        Stores list by name, changes before segments, and a change goes once a segment has it: none is missed.
        """
        both = [name.split("/", 1) for name in self.objects.names(FOLDER)]
        listed, merged = ({name for at, name in both if at == folder} for folder in ("changes", "segments"))
        found = {
            c.name: c
            for segment in self.objects.each(sorted(merged - seen.merged), self._segment)
            for c in segment
            if c.name not in seen.new
        }
        single = sorted(listed - seen.new - found.keys())
        for name, change in zip(single, self.objects.each(single, self._single), strict=True):
            if change is not None:
                found[name] = change
            else:
                # Merged a moment ago: the segment that has it is new at the next look.
                listed.discard(name)
        return [found[name] for name in sorted(found)], Seen(listed, merged)

    def merge(self, names: set[str]) -> None:
        """Put changes that lie one by one into one segment. Two who do so at once harm nothing: mirrors apply
        no change that is older than what they have."""
        changes = [c for c in self.objects.each(sorted(names), self._single) if c is not None]
        if not changes:
            return
        lines = "".join(json.dumps({"name": c.name, "body": c.body}) + "\n" for c in changes)
        self.objects.put(f"{MERGED}/{self._name()}.jsonl.gz", gzip.compress(lines.encode("utf-8"), mtime=0))
        self.objects.delete(f"{NEW}/{c.name}" for c in changes)

    def _name(self, after: str = "") -> str:
        at = max(time.time_ns(), int(after.split("-")[0]) + 1 if after else 0)
        return f"{at:020d}-{self.origin}-{uuid.uuid4().hex[:8]}"

    def _single(self, name: str) -> Change | None:
        data = self.objects.get(f"{NEW}/{name}")
        return None if data is None else self._change(f"{NEW}/{name}", name, data)

    def _segment(self, name: str) -> list[Change]:
        data = self.objects.get(f"{MERGED}/{name}")
        if data is None:
            return []
        try:
            lines = gzip.decompress(data).decode("utf-8").splitlines()
            return [Change(**json.loads(line)) for line in lines]
        except (OSError, EOFError, ValueError, TypeError) as e:
            raise self._foreign(f"{MERGED}/{name}", e) from None

    def _change(self, key: str, name: str, data: bytes) -> Change:
        try:
            found = Change(name, json.loads(data))
            if found.origin and isinstance(found.body["path"], str):
                return found
            raise ValueError("no path")
        except (ValueError, TypeError, KeyError, IndexError) as e:
            raise self._foreign(key, e) from None

    def _foreign(self, key: str, e: Exception) -> UserError:
        return UserError(
            f"{key} is no change that nncift wrote, or is damaged ({type(e).__name__}: {e})",
            file=self.objects.url,
            mend="If something else writes there, give the workspace a prefix of its own; delete the object.",
        )
