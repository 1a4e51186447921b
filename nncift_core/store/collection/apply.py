"""Carrying out a plan so that a kill at any moment costs nothing.

The order matters. First the results that are not kept stop being visible. Then shards lose their dead rows,
each with its living ones beside it. Then kept results stop naming what goes. Only then files are deleted,
manifests first.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nncift_core.store import segments, vectors
from nncift_core.store.collection.keep import MARK
from nncift_core.store.collection.plan import Plan, Rewriting, size_of
from nncift_core.store.files import MANIFEST_SUFFIX, delete, now, write_json
from nncift_core.store.runs import read_result
from nncift_core.store.shards import guard_of, remove_guard, restore, rewrite
from nncift_core.store.use import check_alone
from nncift_core.store.workspace import Workspace


def collect(ws: Workspace, plan: Plan, progress: Callable[[int], None] | None = None) -> int:
    """Do what `plan` says; returns the bytes freed. The caller holds the workspace since it planned.

    progress(n): n more files are done.
    """
    freed = 0
    for run_id in plan.unpublished:
        check_alone(ws)
        _unpublish(ws, run_id)
    for artifact in plan.restored:
        check_alone(ws)
        restore(ws.root, ws.root / artifact)
    for r in plan.rewritings:
        check_alone(ws)
        freed += _rewrite(ws, plan, r)
        _tell(progress)
    check_alone(ws)
    _update_results(ws, plan)
    # A folder of files counts while its list is there, so that goes first.
    for artifact in sorted(
        (r.artifact for r in plan.removals), key=lambda a: (Path(a).name != "files.json", a)
    ):
        check_alone(ws)
        freed += _remove(ws, ws.root / artifact)
        _tell(progress)
    return freed


def _tell(progress: Callable[[int], None] | None) -> None:
    if progress is not None:
        progress(1)


def _unpublish(ws: Workspace, run_id: str) -> None:
    """Take a run's result from the views; the mark tells it from a run that was broken off."""
    write_json(ws.run_dir(run_id) / MARK, {"collected_at": now()})
    for result in (ws.result_file(run_id), ws.sweep_file(run_id)):
        delete(result)


def _rewrite(ws: Workspace, plan: Plan, r: Rewriting) -> int:
    path = ws.root / r.artifact
    before = size_of(path)
    contents = plan.living.contents

    def pairs(part: Path) -> None:
        segments.write_segment(segments.living_part(path, contents), part)

    def rows(part: Path) -> None:
        vectors.write_vectors(vectors.living_part(path, contents), part)

    rewrite(ws.root, path, pairs if r.shape == "pairs" else rows, r.living)
    remove_guard(path)
    return before - size_of(path)


def _update_results(ws: Workspace, plan: Plan) -> None:
    """Let no kept result name a file that goes; a guard's name becomes that of what it guarded."""
    gone = {r.artifact for r in plan.removals}
    back = {ws.relative(guard_of(ws.root / a)): a for a in plan.restored}

    def still(names: list[str]) -> list[str]:
        return list(dict.fromkeys(back.get(n, n) for n in names if n in back or n not in gone))

    for run_id in (p.run_id for p in plan.kept.results):
        result = read_result(ws, run_id)
        if result is None:
            continue
        matrix: dict[str, Any] = result["matrix"]
        told = {name: still(matrix[name]) for name in ("exact", "estimates")}
        datasets = [{**d, "blocks": still(d["blocks"])} for d in result["datasets"]]
        if datasets != result["datasets"] or any(told[name] != matrix[name] for name in told):
            write_json(ws.result_file(run_id), {**result, "datasets": datasets, "matrix": {**matrix, **told}})


def _remove(ws: Workspace, path: Path) -> int:
    """Delete a file with its manifest, and its folder once that is empty; returns the bytes freed."""
    size = size_of(path)
    if path.name.endswith(MANIFEST_SUFFIX):
        path.unlink(missing_ok=True)
    else:
        delete(path)
    for folder in path.parents:
        if folder == ws.root or folder.parent == ws.root:
            break
        with contextlib.suppress(OSError):
            folder.rmdir()
    return size
