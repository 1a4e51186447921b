"""Documents that a store did not take because it was away: they count here, and go to it at the next look."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nncift_core.hashing import digest
from nncift_core.store.remote.local import read, write

if TYPE_CHECKING:
    from pathlib import Path

    from nncift_core.store.remote.mirror import Mirror

_FOLDER = "untold"


def keep(mirror: Mirror, path: Path) -> None:
    """Have the document at `path` told later, as it is then."""
    relative = path.relative_to(mirror.root).as_posix()
    write(mirror.own / _FOLDER / digest(relative), relative.encode("utf-8"))


def tell(mirror: Mirror) -> None:
    """Put into the store what it did not take before. Raises UserError where it is away again."""
    for note in sorted((mirror.own / _FOLDER).glob("[0-9a-f]*")):
        path = mirror.root / note.read_text(encoding="utf-8")
        text = read(path)
        if text is not None:
            mirror.note(mirror.share(path, text.decode("utf-8")))
        note.unlink(missing_ok=True)
