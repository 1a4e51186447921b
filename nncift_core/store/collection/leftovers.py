"""What killed work left behind: half-written files, payloads and manifests without one another, scratch."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from nncift_core.store.collection.keep import PATIENCE
from nncift_core.store.files import MANIFEST_SUFFIX, Manifest
from nncift_core.store.workspace import Workspace

# Commands that are no runs (a report, a query that computes) may be writing: younger files are theirs.
HOUR = 3600.0
CACHED = 30 * 24 * HOUR
# Where every file has a manifest.
_PLACES = (
    "datasets/*/*/blocks/*",
    "datasets/*/*/versions/*",
    "embeddings/*/*",
    "features/*/*",
    "states/*/*",
    "exact/*/*",
    "designs/*/*.parquet",
    "estimators/*/*",
    "estimates/*/*",
    "adapters/*/*",
    "evaluations/*",
    "classifiers/*/*",
    "studies/*",
    "runs/*/tables/*",
    "runs/*/report.html",
    "runs/*/subset.jsonl",
    "runs/*/suspects.csv",
)

Left = tuple[str, str, str, int]


def find_leftovers(ws: Workspace, manifests: dict[str, Manifest], broken: list[str]) -> Iterator[Left]:
    """Path, kind, why and bytes of every leftover that is old enough. broken: manifests that cannot be read,
    whose payloads are none."""
    unread = {b.removesuffix(MANIFEST_SUFFIX) for b in broken}
    for part in sorted(ws.root.rglob(".*.part")):
        yield from _old(ws, part, "never finished", HOUR)
    for place in _PLACES:
        for path in sorted(ws.root.glob(place)):
            known = ws.relative(path) in manifests or ws.relative(path) in unread
            if not known and not path.name.endswith(MANIFEST_SUFFIX) and not path.name.startswith("."):
                yield from _old(ws, path, "has no manifest", HOUR)
    for artifact in manifests:
        if not (ws.root / artifact).is_file():
            manifest = (ws.root / artifact).with_name(Path(artifact).name + MANIFEST_SUFFIX)
            yield from _old(ws, manifest, "has no payload", HOUR)
    for path in sorted((ws.root / "tmp").glob("**/*")):
        # How far a killed training is: worth hours, and of a run that may still be completed.
        training = path.relative_to(ws.root / "tmp").parts[0].startswith("training-")
        yield from _old(ws, path, "scratch", PATIENCE.total_seconds() if training else HOUR)
    for path in sorted(ws.prefect_dir.glob("**/*")):
        yield from _old(ws, path, "cached answer about files that are gone", CACHED, _points_at_nothing(ws))


def _old(
    ws: Workspace, path: Path, why: str, age: float, also: Callable[[Path], bool] = lambda _: True
) -> Iterator[Left]:
    try:
        stat = path.stat()
        if path.is_file() and time.time() - stat.st_mtime > age and also(path):
            yield ws.relative(path), "leftover", why, stat.st_size
    except FileNotFoundError:
        return


# Keys of what shards answer, now and in an older version.
_COUNTS = ({"computed", "peak_rss_mb", "devices"}, {"computed", "device"})


def _points_at_nothing(ws: Workspace) -> Callable[[Path], bool]:
    """Whether a cached answer of Prefect's is about files, and none of them is there.

    Answers that name no file (a judgement of the audit) are kept: nothing says that they are useless. Shards'
    counts are never read again, for planning looks at the files.
    """

    def check(path: Path) -> bool:
        try:
            value = json.loads(json.loads(path.read_text(encoding="utf-8"))["result"])
        except (ValueError, KeyError, TypeError):
            return False
        if isinstance(value, dict) and value.keys() in _COUNTS:
            return True
        named = list(_paths(value))
        return bool(named) and not any((ws.root / n).exists() for n in named)

    return check


def _paths(value: Any) -> Iterator[str]:
    """Texts in `value` that may be paths of stored files."""
    if isinstance(value, str) and "/" in value and len(value) < 400 and "\n" not in value:
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _paths(part)
    elif isinstance(value, list):
        for part in value:
            yield from _paths(part)
