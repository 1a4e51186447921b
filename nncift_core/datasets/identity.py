"""What a data set is called in the workspace, and a cheap key of what reading it would give."""

from __future__ import annotations

import glob
import hashlib
import os
from pathlib import PurePosixPath

from nncift_core.config import DatasetConfig
from nncift_core.config_prune import LabelledRows
from nncift_core.datasets.hub import hub_revision
from nncift_core.datasets.sources import SourceFile, is_hub_id, locate, stem
from nncift_core.errors import UserError
from nncift_core.hashing import digest

_READER_VERSION = 1
# What is left of a pattern such as "*.json*": no name, so the folder's is taken.
BARE_SUFFIXES = frozenset({".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".gz", ".zst"})


def dataset_name(config: DatasetConfig | LabelledRows) -> str:
    """The data set's name: `config.name` as it stands, else from `source` plus "[split]" if set.

    From `source`: a file's name without data and compression suffixes, a folder's name, a pattern's
    fixed part, "builtin-NAME", or the hub id. Told by the text alone, so that the name is the same
    wherever it is asked; `org/name` therefore keeps both parts even when it is a folder.
    """
    if config.name:
        return config.name
    name = _source_name(config.source)
    return f"{name}[{config.split}]" if config.split else name


def _source_name(source: str) -> str:
    if source.startswith("builtin:"):
        return source.replace(":", "-", 1)
    if is_hub_id(source):
        return source
    for part in reversed(PurePosixPath(source.replace("\\", "/")).parts):
        name = stem(part)
        if glob.has_magic(name):
            name = "".join(" " if c in "*?[]" else c for c in name).strip(" -_.").replace(" ", "")
        if name.strip("./") and f".{name}" not in BARE_SUFFIXES:
            return name
    return "dataset"


def source_fingerprint(config: DatasetConfig | LabelledRows, base_dir: str) -> str:
    """Digest of what `read_dataset` would read, without parsing it (a cache key).

    Over the data set's name, split, limit, columns, on_bad_rows, and name and SHA-256 of every file
    in order; for a hub id, over its commit on the hub instead (none when the hub is not reachable).
    Where the files lie is left out. Raises UserError when the source is not found.
    """
    located = locate(config.source, base_dir)
    settings = config.model_dump(include={"split", "limit", "columns", "on_bad_rows"})
    content: list[list[str | None]]
    if located.kind == "hub":
        content = [[located.hub_id, hub_revision(located.hub_id)]]
    else:
        root = os.path.commonpath([f.path.parent for f in located.files])
        content = [[os.path.relpath(f.path, root), _sha256(f)] for f in located.files]
    return digest([_READER_VERSION, dataset_name(config), settings, content])


def _sha256(file: SourceFile) -> str:
    try:
        with open(file.path, "rb") as f:
            return hashlib.file_digest(f, "sha256").hexdigest()
    except OSError as e:
        what = f"cannot be read ({e.strerror})"
        raise UserError(what, file=file.label, mend="Mend its rights.") from None
