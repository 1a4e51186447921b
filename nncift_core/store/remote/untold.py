"""What a store did not take because it was away: it counts here, and goes to the store at the next look.

A note is written before the store is tried and goes once it has answered, so that a kill loses nothing.
"""

from __future__ import annotations

import json
import logging
import uuid
from typing import TYPE_CHECKING

from nncift_core.errors import UserError
from nncift_core.store.remote.local import read, write

if TYPE_CHECKING:
    from pathlib import Path

    from nncift_core.store.remote.mirror import Mirror

_LOG = logging.getLogger("nncift.store")
_FOLDER = "untold"


def keep(mirror: Mirror, body: dict[str, str]) -> Path:
    """Have something told later: the document at "path", as it is then, or the "line" that was added there.

    Returns the note, which whoever gets it told now deletes.
    """
    note = mirror.own / _FOLDER / uuid.uuid4().hex
    write(note, json.dumps(body).encode("utf-8"))
    return note


def tell(mirror: Mirror) -> None:
    """Put into the store what it did not take before; what it does not take now either waits on."""
    for note in sorted((mirror.own / _FOLDER).glob("[0-9a-f]*")):
        data = read(note)
        if data is None:
            continue
        try:
            _tell(mirror, json.loads(data))
        except UserError as e:
            _LOG.warning("%s does not know yet what happened here while it was away: %s", mirror.url, e)
            return
        note.unlink(missing_ok=True)


def _tell(mirror: Mirror, body: dict[str, str]) -> None:
    if "line" in body:
        mirror.journal.append(body)
        return
    path = mirror.root / body["path"]
    text = read(path)
    if text is not None:
        mirror.note(mirror.share(path, text.decode("utf-8")))
