"""Where a workspace is: a folder, or a URL of an object store with its mirror on this machine."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from urllib.parse import urlsplit

from nncift_core.errors import UserError

# Folder of the mirrors, unless this variable names another.
VARIABLE = "NNCIFT_MIRRORS"
# `Path("s3://bucket/x")` has one slash less.
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/{1,3}([^/].*)")


def url_of(where: str | Path) -> str | None:
    """The URL that `where` is, without a slash at its end; None for the path of a folder.

    Raises UserError for a URL without a place in a bucket, with credentials in it, or of a folder.
    """
    found = _URL.fullmatch(str(where))
    if found is None:
        return None
    if found[1].lower() in ("file", "local"):
        raise UserError(
            "a folder needs no URL", file=str(where), mend=f"Give its path: /{found[2].lstrip('/')}."
        )
    url = f"{found[1].lower()}://{found[2].rstrip('/')}"
    parts = urlsplit(url)
    # A secret key may hold a slash: what looks like a place may be a part of it.
    if "@" in url or ":" in parts.netloc or parts.query or parts.fragment:
        raise UserError(
            "a workspace's URL carries neither credentials nor options",
            field="--workspace",
            mend="Give PROTOCOL://BUCKET/PREFIX; credentials come from the environment.",
        )
    if not parts.path.strip("/"):
        raise UserError(
            "the URL names a bucket, not a place in it",
            file=url,
            mend=f"Add a prefix that is the workspace's own: {url}/nncift.",
        )
    return url


def address_of(where: str | Path) -> str:
    """What names a workspace for every process, also of other machines: its URL, else its absolute path."""
    return url_of(where) or str(Path(where).expanduser().resolve())


def mirror_of(url: str) -> Path:
    """The folder on this machine that mirrors the workspace at `url`."""
    base = os.environ.get(VARIABLE)
    home = Path(base) if base else Path.home() / ".cache" / "nncift" / "mirrors"
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", url)[-60:].strip("-")
    return home.absolute() / f"{name}-{hashlib.sha256(url.encode()).hexdigest()[:8]}"
