"""Where the rows lie: a file, a glob, a folder, a built-in file or a data set id of the hub."""

from __future__ import annotations

import fnmatch
import glob
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nncift_core.errors import UserError

TEXT_FORMATS = ("jsonl", "ndjson", "json", "csv", "tsv")
COMPRESSIONS = {"gz": "gzip", "zst": "zstd"}
BUILTIN_DIR = Path(__file__).resolve().parents[1] / "builtin" / "data"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9_][\w.-]*")
_KNOWN = "Known: .jsonl, .ndjson, .json, .csv, .tsv (also with .gz or .zst), .parquet."


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file to read; `label` is how messages name it (relative to where the source was found)."""

    path: Path
    label: str


@dataclass(frozen=True, slots=True)
class Located:
    """What a source stands for: files in reading order, or a hub id. `notes`: what was passed over."""

    kind: Literal["file", "folder", "glob", "builtin", "hub"]
    files: tuple[SourceFile, ...] = ()
    hub_id: str = ""
    notes: tuple[str, ...] = ()


def file_format(name: str) -> tuple[str, str | None] | None:
    """(format, compression or None) told by a file's name; None when it is no data file's name."""
    suffixes = name.lower().split(".")[1:]
    if suffixes and suffixes[-1] in (*TEXT_FORMATS, "parquet"):
        return suffixes[-1], None
    if len(suffixes) > 1 and suffixes[-1] in COMPRESSIONS and suffixes[-2] in TEXT_FORMATS:
        return suffixes[-2], COMPRESSIONS[suffixes[-1]]
    return None


def stem(name: str) -> str:
    """`name` without its data and compression suffixes: "pool.jsonl.gz" -> "pool"."""
    kind = file_format(name)
    if kind is None:
        return name
    return name.rsplit(".", 2 if kind[1] else 1)[0]


def is_hub_id(source: str) -> bool:
    """Whether `source` reads like `org/name`: one slash, no data suffix, no pattern."""
    return bool(_HUB_ID.fullmatch(source)) and file_format(source) is None


def locate(source: str, base_dir: str) -> Located:
    """Find what `source` names, from `base_dir`, then from the current directory, then on the hub.

    Raises UserError when there is nothing, naming both places, and when a folder or glob holds no
    data file. The hub itself is not asked here.
    """
    if not source.strip():
        raise UserError("source is empty", mend="Name a file, folder, glob or hub data set id.")
    if source == "builtin" or source.startswith("builtin:"):
        return _builtin(source)
    places = _places(source, base_dir)
    for place in places:
        path = place / os.path.expanduser(source)
        if os.path.lexists(path):
            return _from_path(path, source)
    if glob.has_magic(source):
        for place in places:
            found, notes = _glob(place, os.path.expanduser(source))
            if found:
                return _data_files("glob", found, place, source, notes)
        raise UserError(f"no file matches, {_looked_in(places)}", file=source, mend="Mend the pattern.")
    if is_hub_id(source):
        return Located("hub", hub_id=source)
    raise UserError(f"no such file or folder, {_looked_in(places)}", file=source, mend="Mend the path.")


def places_text(source: str, base_dir: str) -> str:
    """The places a relative source was looked for in, for a message."""
    return _looked_in(_places(source, base_dir))


def _places(source: str, base_dir: str) -> list[Path]:
    """Folders that a relative source may start from, without repetition."""
    base, here = Path(base_dir or ".").resolve(), Path.cwd()
    return [base] if base == here or Path(os.path.expanduser(source)).is_absolute() else [base, here]


def _looked_in(places: Sequence[Path]) -> str:
    return "looked in " + " and in ".join(str(p) for p in places)


def _builtin(source: str) -> Located:
    name = source.partition(":")[2]
    there = sorted(p.stem for p in BUILTIN_DIR.glob("*.jsonl"))
    if name not in there:
        listed = ", ".join(f'"builtin:{n}"' for n in there) or "none"
        raise UserError("no such built-in data set", file=source, mend=f"Those that exist: {listed}.")
    return Located("builtin", (SourceFile(BUILTIN_DIR / f"{name}.jsonl", source),))


def _from_path(path: Path, source: str) -> Located:
    try:
        path.stat()
    except OSError as e:
        raise UserError(
            f"cannot be opened ({e.strerror})",
            file=source,
            mend="If it is a symbolic link, it runs in a circle or leads nowhere: name the real file.",
        ) from None
    if path.is_dir():
        found, notes = _walk(path)
        return _data_files("folder", found, path, source, notes)
    if not path.is_file():
        raise UserError("is neither a file nor a folder", file=source, mend="Name a data file.")
    if file_format(path.name) is None:
        raise UserError("format not told by the file's name", file=source, mend=f"Rename it. {_KNOWN}")
    return Located("file", (SourceFile(path, source),))


def _data_files(
    kind: Literal["folder", "glob"], found: list[Path], root: Path, source: str, notes: list[str]
) -> Located:
    """Keep the files whose names tell a format; name the others in the notes."""
    data = [p for p in found if file_format(p.name)]
    others = [p.name for p in found if not file_format(p.name)]
    if not data:
        seen = f" (found only {', '.join(others[:5])})" if others else ""
        seen += f" ({'; '.join(notes)})" if notes else ""
        raise UserError(f"no data file in this {kind}{seen}", file=source, mend=_KNOWN)
    if others:
        more = ", ..." if len(others) > 5 else ""
        notes = [*notes, f"{len(others)} other files passed over: {', '.join(others[:5])}{more}"]
    prefix = Path(source) if kind == "folder" else Path()
    files = tuple(SourceFile(p, (prefix / _relative(p, root)).as_posix()) for p in data)
    return Located(kind, files, notes=tuple(notes))


def _relative(path: Path, root: Path) -> Path:
    return path.relative_to(root) if path.is_relative_to(root) else path


def _walk(root: Path) -> tuple[list[Path], list[str]]:
    """All files below `root`, hidden ones left out, and notes on links that were not followed.

    Every real folder is entered once, so a circle of symbolic links ends.
    """
    files: list[Path] = []
    notes: list[str] = []
    entered = {os.path.realpath(root)}
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        try:
            names = sorted(n for n in os.listdir(folder) if not n.startswith("."))
        except OSError as e:
            what = f"cannot be listed ({e.strerror})"
            raise UserError(what, file=folder, mend="Mend its rights.") from None
        folders = []
        for path in (folder / n for n in names):
            if path.is_dir():
                real = os.path.realpath(path)
                if real in entered:
                    notes.append(f"link to a folder already read passed over: {_relative(path, root)}")
                else:
                    entered.add(real)
                    folders.append(path)
            elif path.is_file():
                files.append(path)
            else:
                notes.append(f"link to nothing or no regular file passed over: {_relative(path, root)}")
        waiting.extend(reversed(folders))
    return sorted(files, key=lambda p: p.parts), notes


def _glob(root: Path, pattern: str) -> tuple[list[Path], list[str]]:
    """Files below `root` that match; `**` goes through `_walk`, which circles of links cannot trap."""
    if "**" not in pattern:
        paths = (root / p for p in glob.glob(pattern, root_dir=root))
        return sorted((p for p in paths if p.is_file()), key=lambda p: p.parts), []
    parts = Path(pattern).parts
    fixed = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    start = root.joinpath(*parts[:fixed])
    if not start.is_dir():
        return [], []
    files, notes = _walk(start)
    return [p for p in files if _matches(p.relative_to(start).parts, parts[fixed:])], notes


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return _matches(parts, pattern[1:]) or (bool(parts) and _matches(parts[1:], pattern))
    return bool(parts) and fnmatch.fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])
