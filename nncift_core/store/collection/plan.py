"""What would go, why, and how many bytes that is; reads only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.parquet as pq

from nncift_core.store.collection.keep import Kept, choose_kept
from nncift_core.store.collection.leftovers import find_leftovers
from nncift_core.store.collection.living import (
    Living,
    design_noted,
    find_living,
    living_rows,
    read_manifests,
)
from nncift_core.store.files import Manifest, is_intact, manifest_path, read_manifest
from nncift_core.store.remote.local import is_away
from nncift_core.store.segments import living_pairs, read_index
from nncift_core.store.shards import GUARD, guard_of, is_guard
from nncift_core.store.vectors import contents_of
from nncift_core.store.workspace import Workspace

Shape = Literal["pairs", "vectors"]
_SHARDS: dict[str, Shape] = {
    "exact": "pairs",
    "estimates": "pairs",
    "embeddings": "vectors",
    "features": "vectors",
}
# Files that stay or go whole, and why they go.
_WHOLE = {
    "estimators": "of no kept run",
    "designs": "of no kept run",
    "states": "of no kept run",
    "adapters": "of no kept run",
    "evaluations": "of no kept run",
}


@dataclass(frozen=True)
class Removal:
    """A file that goes, with its manifest; bytes: of both."""

    artifact: str
    kind: str
    why: str
    bytes: int


@dataclass(frozen=True)
class Rewriting:
    """A shard that loses `dead` of its values (pairs or vectors) and keeps `living`; bytes: freed, about."""

    artifact: str
    kind: str
    shape: Shape
    dead: int
    living: int
    bytes: int
    why: str = "some rows removed"


@dataclass(frozen=True)
class Plan:
    """kept, living: what stays; unpublished: runs whose result is taken away first; restored: shards that an
    earlier gc, killed, left to their guards; texts_staying: removed rows whose texts stay, for they share a
    block with living ones; damaged: files that match no manifest, left for the next run to replace."""

    kept: Kept
    living: Living
    unpublished: tuple[str, ...]
    removals: tuple[Removal, ...]
    rewritings: tuple[Rewriting, ...]
    restored: tuple[str, ...]
    texts_staying: int
    damaged: tuple[str, ...]

    @property
    def empty(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.unpublished or self.removals or self.rewritings or self.restored)

    def groups(self) -> list[dict[str, Any]]:
        """Rows kind, why, files, bytes, artifacts: what goes, largest first."""
        found: dict[tuple[str, str], dict[str, Any]] = {}
        parts: list[Removal | Rewriting] = [*self.removals, *self.rewritings]
        for part in parts:
            empty = {"kind": part.kind, "why": part.why, "files": 0, "bytes": 0, "artifacts": []}
            group = found.setdefault((part.kind, part.why), empty)
            group["files"] += 1
            group["bytes"] += part.bytes
            group["artifacts"].append(part.artifact)
        return sorted(found.values(), key=lambda g: (-g["bytes"], g["kind"], g["why"]))


def plan_collection(ws: Workspace, keep: int) -> Plan:
    """What `nncift gc --keep keep` would do. The caller holds the workspace (`store.use.alone`).

    Raises IntegrityError when the data of a kept run cannot be read. A workspace without any result and
    without a run that may go on loses only leftovers.
    """
    kept = choose_kept(ws, keep)
    manifests, broken = read_manifests(ws)
    living = find_living(ws, kept, manifests)
    planner = _Planner(ws, kept, living, manifests)
    if kept.runs:
        planner.shards()
        planner.whole_files()
        planner.data()
        planner.studies()
        planner.runs()
    gone = {r.artifact for r in planner.removals}
    leftovers = [Removal(*left) for left in find_leftovers(ws, manifests, broken) if left[0] not in gone]
    return Plan(
        kept,
        living,
        tuple(p.run_id for p in kept.replaced),
        (*planner.removals, *leftovers),
        tuple(planner.rewritings),
        tuple(planner.restored),
        planner.texts_staying,
        tuple(sorted([*planner.damaged, *broken])),
    )


class _Planner:
    """Gathers removals and rewritings, one kind of file after another."""

    def __init__(self, ws: Workspace, kept: Kept, living: Living, manifests: dict[str, Manifest]) -> None:
        self.ws, self.kept, self.living, self.manifests = ws, kept, living, manifests
        self.removals: list[Removal] = []
        self.rewritings: list[Rewriting] = []
        self.restored: list[str] = []
        self.damaged: list[str] = []
        self.texts_staying = 0

    def shards(self) -> None:
        """Values and vectors: of dead rows only, or of some."""
        dead_estimators = self._dead_estimators()
        for artifact, m in self._below(_SHARDS):
            top, folder, name = artifact.split("/")
            path = self.ws.root / artifact
            if is_guard(name):
                self._guard(path)
            elif top == "estimates" and folder in dead_estimators:
                self._remove(artifact, m.kind, "of an estimator not in use")
            elif not is_intact(path, unread=is_away(path)):
                # Its guard knows; without one, the next run that needs it does it anew.
                if not is_intact(guard_of(path)):
                    self.damaged.append(artifact)
            else:
                self._shard(artifact, m, path, _SHARDS[top])

    def _shard(self, artifact: str, m: Manifest, path: Path, shape: Shape) -> None:
        total, alive = _counts(path, shape, self.living)
        if not alive:
            self._remove(artifact, m.kind, "of removed rows")
        elif alive < total:
            freed = m.size * (total - alive) // total
            self.rewritings.append(Rewriting(artifact, m.kind, shape, total - alive, alive, freed))

    def _guard(self, guard: Path) -> None:
        """A guard outlives only a gc that was killed: it puts its shard back, where that is not whole."""
        path = guard.with_name(guard.name.removeprefix(GUARD))
        if is_intact(guard) and not is_intact(path):
            self.restored.append(self.ws.relative(path))
            top = self.ws.relative(path).split("/")[0]
            told = self.manifests[self.ws.relative(guard)]
            self._shard(self.ws.relative(path), told, guard, _SHARDS[top])
        self._remove(self.ws.relative(guard), "leftover", "of a gc that was killed")

    def _dead_estimators(self) -> set[str]:
        """Folders of estimates whose estimator no kept run estimates with."""
        alive = {f.split("/")[1] for f in self.living.estimating if f.startswith("estimators/")}
        return {a.split("/")[1] for a in self.manifests if a.startswith("estimates/")} - alive

    def whole_files(self) -> None:
        """Estimators, designs, states, adapters, scores of models."""
        for artifact, m in self._below(_WHOLE):
            if artifact not in self.living.files:
                self._remove(artifact, m.kind, _WHOLE[artifact.split("/")[0]])
        for note in sorted(self.ws.root.glob("designs/*/*.uses.json")):
            named = design_noted(note)
            if named is None or f"{self.ws.relative(note.parent)}/{named}" not in self.living.files:
                self._remove(self.ws.relative(note), "label-design", "names a design that goes")

    def data(self) -> None:
        """Versions of data sets, and blocks of which no row lives."""
        for artifact, m in self._below(("datasets",)):
            if m.kind == "dataset-version" and artifact not in self.living.versions:
                self._remove(artifact, m.kind, "of no kept run")
        for folder in sorted(self.ws.root.glob("datasets/*/*/blocks")):
            rows = living_rows(self.ws, folder.parent, self.living.versions)
            for block in sorted(p for p in folder.glob("*.parquet") if is_intact(p)):
                t = pq.read_table(block, columns=["example_id", "text_id"])
                held = set(zip(t["example_id"].to_pylist(), t["text_id"].to_pylist(), strict=True))
                if held.isdisjoint(rows):
                    self._remove(self.ws.relative(block), "dataset-block", "of removed rows")
                else:
                    self.texts_staying += len(held - rows)

    def studies(self) -> None:
        """Fits of sweeps, and trainings of classifiers, over data that is not kept."""
        for artifact, m in self._below(("studies", "classifiers")):
            of_kept = m.made_in.split("/")[0] in self.kept.runs
            if not of_kept and self.living.versions.isdisjoint(m.parents):
                self._remove(artifact, m.kind, "of no kept run")

    def runs(self) -> None:
        """Tables, subset and report of runs that are not kept; attempts and costs stay."""
        for artifact, m in self._below(("runs",)):
            if artifact.split("/")[1] not in self.kept.runs:
                kind = "table" if "/tables/" in artifact else m.kind
                self._remove(artifact, kind, "of a replaced run")

    def _below(self, folders: Sequence[str] | dict[str, Any]) -> Iterator[tuple[str, Manifest]]:
        return ((a, m) for a, m in self.manifests.items() if a.split("/")[0] in folders)

    def _remove(self, artifact: str, kind: str, why: str) -> None:
        self.removals.append(Removal(artifact, kind, why, size_of(self.ws.root / artifact)))


def _counts(path: Path, shape: Shape, living: Living) -> tuple[int, int]:
    """How many values a shard holds, and how many of them live."""
    if shape == "pairs":
        return living_pairs(read_index(path), living.contents)
    contents = contents_of(path)
    return len(contents), int(np.isin(contents, living.contents).sum())


def size_of(path: Path) -> int:
    """Bytes of a payload and its manifest."""
    told = read_manifest(path) if is_away(path) else None
    here = sum(p.stat().st_size for p in (path, manifest_path(path)) if p.is_file())
    return here + (told.size if told is not None else 0)
