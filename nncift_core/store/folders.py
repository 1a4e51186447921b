"""Folders of files that belong together: each is published, then a list of them, which is the proof."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from nncift_core.store.files import is_intact, publish, void
from nncift_core.store.remote.mirrors import here
from nncift_core.store.workspace import Workspace

LIST = "files.json"


def publish_folder(
    ws: Workspace,
    source: Path,
    folder: Path,
    *,
    kind: str,
    key: str,
    rows: int,
    producer: str,
    parents: tuple[str, ...] = (),
) -> list[str]:
    """Publish every file of the flat folder `source` in `folder`; returns their relative paths, sorted."""
    names = sorted(p.name for p in source.iterdir())
    for name in names:
        publish(
            ws.root,
            folder / name,
            lambda part, name=name: void(shutil.copyfile(source / name, part)),  # type: ignore[misc]
            kind=kind,
            key=key,
            rows=rows,
            producer=producer,
            parents=parents,
        )
    publish(
        ws.root,
        folder / LIST,
        lambda part: void(part.write_text(json.dumps(names), encoding="utf-8")),
        kind=kind,
        key=key,
        rows=rows,
        producer=producer,
        parents=tuple(ws.relative(folder / name) for name in names),
    )
    return [ws.relative(folder / name) for name in names]


def files_of(ws: Workspace, folder: Path) -> list[str]:
    """Relative paths of the files that `publish_folder` put into `folder`."""
    names: list[str] = json.loads(here(folder / LIST).read_text(encoding="utf-8"))
    return [ws.relative(folder / name) for name in names]


def is_whole(folder: Path) -> bool:
    """Whether everything that `publish_folder` put into `folder` is there and undamaged."""
    listed = folder / LIST
    if not is_intact(listed):
        return False
    return all(is_intact(folder / name) for name in json.loads(listed.read_text(encoding="utf-8")))
