"""From the results that stay to what they need: rows (by content) and whole files."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from nncift_core.errors import IntegrityError
from nncift_core.store.collection.keep import Kept, Published
from nncift_core.store.files import MANIFEST_SUFFIX, Manifest, is_intact, read_manifest
from nncift_core.store.workspace import Workspace

Int64 = npt.NDArray[np.int64]

# The one column of a pointwise function, which is no content.
_NO_CONTENT = 0
# Kinds that are needed by whatever was made from them. Not data sets and tables, which belong to runs, and
# not tiles and vectors, which live by their rows.
_WHOLE = ("estimator", "label-design", "evaluation-scores", "adapter", "function-state")


@dataclass(frozen=True)
class Living:
    """versions: data set versions that stay; contents [n], sorted: what is in them; files: artifacts that
    stay whole (estimators, designs, states, adapters, scores); estimating: those whose estimates stay."""

    versions: frozenset[str]
    contents: Int64
    files: frozenset[str]
    estimating: frozenset[str]


def read_manifests(ws: Workspace) -> tuple[dict[str, Manifest], list[str]]:
    """Manifests by artifact, and paths of those that cannot be read."""
    found, broken = {}, []
    for path in sorted(ws.root.rglob(f"*{MANIFEST_SUFFIX}")):
        payload = path.with_name(path.name.removesuffix(MANIFEST_SUFFIX))
        manifest = read_manifest(payload)
        if manifest is None:
            broken.append(ws.relative(path))
        else:
            found[ws.relative(payload)] = manifest
    return found, broken


def find_living(ws: Workspace, kept: Kept, manifests: dict[str, Manifest]) -> Living:
    """What the kept results need. Raises IntegrityError when the rows of one of them cannot be read, for then
    nothing says what lives."""
    made = [m for m in manifests.values() if _run_of(m) in kept.runs]
    broken_off = [m for m in made if _run_of(m) in kept.unfinished]
    versions = {str(d["path"]) for p in kept.results for d in p.result["datasets"]}
    for p in (*kept.results, *kept.sweeps):
        _check(p, manifests)
    of_sweeps = [manifests[t] for p in kept.sweeps for t in p.result["tables"].values()]
    versions |= {p for m in of_sweeps for p in m.parents if _is_version(manifests, p)}
    # What was broken off may have left anything; it is no reason to stop.
    begun = {p for m in broken_off for p in m.parents if _is_version(manifests, p)}
    versions |= {p for p in begun if is_intact(ws.root / p)}
    # Sweeps do not say which state they used.
    every_state = bool(kept.sweeps or kept.unfinished)
    every_state |= any("keys" not in p.result["matrix"] for p in kept.results)
    roots = {m.artifact for m in made if m.kind in _WHOLE}
    going_on = {p for m in broken_off for p in (m.artifact, *m.parents)}
    roots |= going_on
    for p in kept.results:
        roots.update(_named(ws, p.result, manifests))
        roots.update(_refitted(p.result, manifests))
    if every_state:
        roots |= {m.artifact for m in manifests.values() if m.kind == "function-state"}
    files = _closure(roots, manifests)
    files |= _designs(manifests, versions, files)
    used = {
        str(p.result["matrix"]["estimator"]["path"]) for p in kept.results if p.result["matrix"]["estimator"]
    }
    estimating = files & (used | going_on)
    return Living(frozenset(versions), _contents(ws, versions), frozenset(files), frozenset(estimating))


def _check(published: Published, manifests: dict[str, Manifest]) -> None:
    """Raise IntegrityError where the tables of a kept result do not say what they were made from."""
    named = [*published.result["tables"].values(), published.result.get("matrix", {}).get("members")]
    lost = next((t for t in named if t is not None and t not in manifests), None)
    if lost is not None:
        raise IntegrityError(
            f"{lost}: a table of a kept run is missing or damaged, so nothing says what lives; run that job "
            f"again (run {published.run_id}), then collect"
        )


def _run_of(manifest: Manifest) -> str:
    return manifest.made_in.split("/")[0]


def _is_version(manifests: dict[str, Manifest], artifact: str) -> bool:
    return artifact in manifests and manifests[artifact].kind == "dataset-version"


def _named(ws: Workspace, result: dict[str, Any], manifests: dict[str, Manifest]) -> Iterator[str]:
    """What a result names, and what its tables were made from."""
    m, facts = result["matrix"], result["facts"]
    estimator = m["estimator"] or {}
    if estimator:
        yield str(estimator["path"])
    if warm := estimator.get("warm_from"):
        yield ws.relative(ws.network_file(str(warm)))
    if state := (m.get("keys") or {}).get("state"):
        yield from _below(manifests, ws.relative(ws.state_dir(str(state))))
    if adapter := facts.get("adapter"):
        yield from _below(manifests, str(adapter))
    for table in (*result["tables"].values(), m["members"]):
        if table in manifests:
            yield from manifests[table].parents


def _below(manifests: dict[str, Manifest], folder: str) -> Iterator[str]:
    return (a for a in manifests if a.startswith(f"{folder}/"))


def _refitted(result: dict[str, Any], manifests: dict[str, Manifest]) -> Iterator[str]:
    """Estimators beside the one in use that the next attempt asks for, and would fit again: the one that was
    fitted first and refused, and on a design that extends another, the oldest fits on that."""
    facts, members = result["facts"], manifests.get(result["matrix"]["members"])
    designs = {p for p in (members.parents if members else ()) if p.startswith("designs/")}
    refused = facts.get("estimator") if facts.get("estimator") != facts.get("estimator_used") else None
    extended = {base for d in designs if d in manifests and (base := _extended(manifests[d]))}
    oldest: dict[tuple[str, str], Manifest] = {}
    for m in manifests.values():
        if m.kind != "estimator":
            continue
        if m.meta.get("reference", {}).get("architecture") == refused and _touches(designs, m):
            yield m.artifact
        for base in extended.intersection(m.parents):
            alike = base, str(m.meta.get("settings"))
            oldest[alike] = min(oldest.get(alike, m), m, key=lambda o: (o.created_at, o.key))
    yield from (m.artifact for m in oldest.values())


def _touches(designs: set[str], estimator: Manifest) -> bool:
    """Whether it was fitted on one of the designs; where nothing says which they are, it may have been."""
    return not designs or not designs.isdisjoint(estimator.parents)


def _extended(design: Manifest) -> str | None:
    """Path of the design that labels were added to."""
    base = design.meta.get("extends")
    return f"{Path(design.artifact).parent}/{base}.parquet" if base else None


def _closure(roots: Iterable[str], manifests: dict[str, Manifest]) -> set[str]:
    """The roots of kinds that stay whole, and all such ancestors."""
    found: set[str] = set()
    together: dict[str, list[str]] = defaultdict(list)
    for artifact, m in manifests.items():
        if m.kind in ("adapter", "function-state"):
            together[str(Path(artifact).parent)].append(artifact)
    queue = list(roots)
    while queue:
        artifact = queue.pop()
        if artifact in found or artifact not in manifests or manifests[artifact].kind not in _WHOLE:
            continue
        m = manifests[artifact]
        found.add(artifact)
        # What an estimator started from is good for the next fit alone, not that one's own start.
        queue += [p for p in m.parents if m.kind != "estimator" or not p.startswith("estimators/")]
        # Several files of one of these are good for nothing apart.
        queue += together.get(str(Path(artifact).parent), [])
        if (base := _extended(m)) is not None:
            queue.append(base)
    return found


def _designs(manifests: dict[str, Manifest], versions: set[str], files: set[str]) -> set[str]:
    """Designs drawn from data that stays, whoever uses them now; and those of states that name none (an older
    store's), which have one column."""
    named: dict[str, bool] = {}
    for state in (manifests[f] for f in files if manifests[f].kind == "function-state"):
        folder = str(Path(state.artifact).parent)
        named[folder] = named.get(folder, False) or any(p.startswith("designs/") for p in state.parents)
    nameless = not all(named.values())
    found = set()
    for artifact, m in manifests.items():
        if m.kind != "label-design":
            continue
        drawn_from = [p for p in m.parents if p.startswith("datasets/")]
        of_state = nameless and m.meta.get("label_columns") == 1
        if of_state or (drawn_from and versions.issuperset(drawn_from)):
            found.add(artifact)
    return found


def _contents(ws: Workspace, versions: Iterable[str]) -> Int64:
    parts = [np.array([_NO_CONTENT], np.int64)]
    for version in sorted(versions):
        if not is_intact(ws.root / version):
            raise IntegrityError(
                f"{version}: the data of a kept run is missing or damaged, so nothing says which rows "
                "live; run that job again, then collect"
            )
        parts.append(pq.read_table(ws.root / version, columns=["content_id"])["content_id"].to_numpy())
    return np.unique(np.concatenate(parts))


def living_rows(ws: Workspace, folder: Path, versions: Iterable[str]) -> set[tuple[int, int]]:
    """Rows (example_id, text_id) of the living versions of one data set's folder."""
    inside = f"{ws.relative(folder)}/"
    rows: set[tuple[int, int]] = set()
    for version in versions:
        if version.startswith(inside):
            t = pq.read_table(ws.root / version, columns=["example_id", "text_id"])
            rows.update(zip(t["example_id"].to_pylist(), t["text_id"].to_pylist(), strict=True))
    return rows


def design_noted(note: Path) -> str | None:
    """File name of the design that a `.uses.json` names; None where it cannot be read."""
    try:
        return Path(str(json.loads(note.read_text(encoding="utf-8"))["design"])).name
    except (FileNotFoundError, json.JSONDecodeError, KeyError):
        return None
