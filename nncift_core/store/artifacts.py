"""From what a person types to one stored artifact: a path, a key, a run, or a word for a part of a run."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from nncift_core.errors import UserError
from nncift_core.store.collection.keep import read_mark
from nncift_core.store.files import MANIFEST_SUFFIX
from nncift_core.store.lineage import Lineage
from nncift_core.store.runs import resolve_runs
from nncift_core.text import one_line

WORDS = ("subset", "estimator", "report", "adapter")
# Many files of one key: they are told apart by their names.
_TILES = ("exact", "estimate")
# Folders whose files are one thing.
_TOGETHER = ("adapters", "states", "estimators")
_SHOWN = 8
_FIELD = "ARTIFACT"


def find_artifact(lineage: Lineage, asked: str, run: str | None = None) -> str:
    """The relative path of what `asked` means.

    asked: a path (in the workspace, or from here), the beginning of a key or of a file's name, a run id (its
    subset) or one of `WORDS` (of `run`, else of the latest run). Raises UserError, with near candidates, for
    what is unknown, ambiguous or no artifact.
    """
    if asked in WORDS:
        return _of_run(lineage, asked, run)
    runs = sorted(lineage.attempts)
    if (name := asked.rstrip("/").removeprefix("runs/")) in runs:
        return _of_run(lineage, "subset", name)
    if (found := _by_path(lineage, asked)) is not None:
        return found
    matches = _by_name(lineage, asked)
    begun = [r for r in runs if asked and r.startswith(asked)]
    if len(begun) == 1 and not matches:
        return _of_run(lineage, "subset", begun[0])
    if len(matches) == 1 and not begun:
        return matches[0]
    if matches or begun:
        shown = [f"run {r}" for r in begun] + [f"{lineage.node(a).kind} {a}" for a in matches]
        more = f", and {len(shown) - _SHOWN:,} more" if len(shown) > _SHOWN else ""
        raise UserError(
            f"{one_line(asked, 80)!r} may be any of {len(shown):,} artifacts",
            field=_FIELD,
            mend=f"Give more of one: {', '.join(shown[:_SHOWN])}{more}.",
        )
    raise _unknown(lineage, asked, runs)


def _of_run(lineage: Lineage, word: str, run: str | None) -> str:
    """Subset, estimator, report or adapter of a run (of a sweep: its page)."""
    if run == "all":
        raise UserError("an artifact is of one run", field="--run", mend="Give a run id.")
    # Only a valuation has all these parts; a report is of any run.
    ids = resolve_runs(lineage.ws, run, None if word == "report" else (None, "prune"))
    if not ids and run is not None:
        ids = [i for i in lineage.results if i.startswith(run)]
    if not ids:
        taken = next((read_mark(lineage.ws, i) for i in lineage.attempts if i.startswith(run or "")), "")
        gone = f"run {run!r} has no result" + (
            f" any more: nncift gc took it away on {taken[:10]}" if taken else ""
        )
        raise UserError(
            "no finished run here" if run is None else gone,
            field=_FIELD if run is None else "--run",
            mend="Run `nncift run CONFIG` first, or ask for a stored file.",
        )
    (run_id, *_), ws = ids, lineage.ws
    result = lineage.results[run_id]
    matrix, facts = result.get("matrix", {}), result["facts"]
    adapter = facts.get("adapter")
    found = {
        "subset": ws.relative(ws.subset_file(run_id) if _has_subset(result) else ws.report_file(run_id)),
        "report": ws.relative(ws.report_file(run_id)),
        "estimator": (matrix.get("estimator") or {}).get("path"),
        "adapter": lineage.main_file(str(adapter)) if adapter else None,
    }[word]
    if found is None or not (ws.root / found).is_file():
        raise UserError(f"run {run_id} has no {word}", field=_FIELD, mend="Ask for another part of it.")
    return str(found)


def _has_subset(result: dict[str, Any]) -> bool:
    """Whether a run chose rows: a sweep has no matrix, comparisons and audits have no subset of their own."""
    return bool(result.get("matrix")) and result.get("kind") in (None, "prune")


def _by_path(lineage: Lineage, asked: str) -> str | None:
    """An existing path, in the workspace or from here; None where there is none."""
    root = lineage.ws.root.resolve()
    for path in (lineage.ws.root / asked, Path(asked)):
        try:
            real = path.resolve()
            if not path.exists() or real == root or not real.is_relative_to(root):
                continue
        except OSError:
            continue
        if real.is_dir():
            folder = real.relative_to(root).as_posix()
            artifact = lineage.main_file(folder) if folder.split("/")[0] in _TOGETHER else None
        else:
            artifact = real.relative_to(root).as_posix().removesuffix(MANIFEST_SUFFIX)
        if artifact is not None and lineage.node(artifact).key:
            return artifact
        raise UserError(
            "has no manifest, so nothing says what it was made from", file=asked, mend="Name a stored file."
        )
    return None


def _by_name(lineage: Lineage, asked: str) -> list[str]:
    """Artifacts whose key, name, name without its kind, or folder begins with `asked`."""
    if not asked:
        return []
    found = []
    for artifact, m in lineage.manifests.items():
        *_, folder, name = ("", *artifact.split("/"))
        # A run's id means its subset, not every file of it.
        names = (name, name.partition("-")[2], m.key, "" if artifact.startswith("runs/") else folder)
        if any(n.startswith(asked) for n in names):
            found.append(artifact)
    # A tile's key is its function's or estimator's.
    alone = [a for a in found if lineage.manifests[a].kind not in _TILES]
    found = alone or found
    folders = {str(Path(a).parent) for a in found}
    keys = {lineage.manifests[a].key for a in found}
    if len(found) > 1 and len(folders) == len(keys) == 1 and lineage.manifests[found[0]].kind not in _TILES:
        return [lineage.main_file(folders.pop()) or found[0]]
    return sorted(found)


def _unknown(lineage: Lineage, asked: str, runs: list[str]) -> UserError:
    names = {Path(a).name: a for a in lineage.manifests}
    known = [*WORDS, *runs, *names, *lineage.manifests, *(m.key for m in lineage.manifests.values())]
    near = list(dict.fromkeys(names.get(n, n) for n in difflib.get_close_matches(asked, known, 5, 0.5)))
    mend = (
        f"Did you mean {', '.join(near)}?"
        if near
        else f"Give a path, a key, a run id, or {', '.join(WORDS)}."
    )
    return UserError(f"no artifact {one_line(asked, 80)!r} here", field=_FIELD, mend=mend)
