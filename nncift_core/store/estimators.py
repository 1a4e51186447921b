"""Fitted estimators that are stored, by the label design they were fitted on."""

from __future__ import annotations

from pathlib import PurePosixPath

from nncift_core.store.files import MANIFEST_SUFFIX, Manifest, is_intact, read_manifest
from nncift_core.store.workspace import Workspace


def fitted_on(ws: Workspace, design: str) -> list[Manifest]:
    """Manifests of the intact estimators that were fitted on the design under key `design`, oldest first.

    Reads one manifest per stored estimator, and checks the files of those alone that are found.
    """
    folder = ws.network_file("any").parent.parent
    paths = [p.with_name(p.name.removesuffix(MANIFEST_SUFFIX)) for p in folder.glob(f"*/*{MANIFEST_SUFFIX}")]
    found = [
        manifest
        for path in paths
        if (manifest := read_manifest(path)) is not None
        and any(_is_design(parent, design) for parent in manifest.parents)
        and is_intact(path)
    ]
    return sorted(found, key=lambda m: (m.created_at, m.key))


def _is_design(parent: str, key: str) -> bool:
    path = PurePosixPath(parent)
    return path.parts[:1] == ("designs",) and path.name == f"{key}.parquet"
