"""Content identities: what was computed, and which row it belongs to (design decision 1)."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

_INT63 = (1 << 63) - 1
_CHUNK = 1 << 16


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: one text for one value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value: Any) -> str:
    """First 32 hex characters of the SHA-256 of `canonical_json(value)`."""
    return hashlib.sha256(canonical_json(value).encode("utf-8")).hexdigest()[:32]


def digest_of(*parts: str | npt.NDArray[np.int64]) -> str:
    """`digest` of the list of `parts`, arrays [n] as lists of whole numbers, without making these lists."""
    found = hashlib.sha256(b"[")
    for number, part in enumerate(parts):
        found.update(b"," if number else b"")
        if isinstance(part, str):
            found.update(canonical_json(part).encode("utf-8"))
            continue
        found.update(b"[")
        for start in range(0, len(part), _CHUNK):
            text = ",".join(map(str, part[start : start + _CHUNK].tolist()))
            found.update((("," if start else "") + text).encode("ascii"))
        found.update(b"]")
    found.update(b"]")
    return found.hexdigest()[:32]


def digest_in_parts(lists: Iterable[Iterable[list[Any]]]) -> str:
    """`digest` of the list of `lists`, each of which comes in parts (none of them empty): they need not be
    held whole."""
    found = hashlib.sha256(b"[")
    for number, parts in enumerate(lists):
        found.update(b",[" if number else b"[")
        for k, part in enumerate(parts):
            found.update(b"," if k else b"")
            found.update(canonical_json(part)[1:-1].encode("utf-8"))
        found.update(b"]")
    found.update(b"]")
    return found.hexdigest()[:32]


def content_hash(prompt: str, response: str) -> str:
    """Identity of computation: hash of prompt and response, Unicode-NFC normalised for the hash only.

    The prompt's length is hashed too, so that moving text between the two fields changes the hash.
    """
    p = unicodedata.normalize("NFC", prompt).encode("utf-8")
    r = unicodedata.normalize("NFC", response).encode("utf-8")
    return hashlib.sha256(len(p).to_bytes(8, "little") + p + r).hexdigest()[:32]


def int63(text: str) -> int:
    """A non-negative 63-bit integer (fits BIGINT) from the SHA-256 of `text`."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8")).digest()[:8], "little") & _INT63


def content_id(hash_: str) -> int:
    """The join key of a content hash: its first 63 bits as BIGINT."""
    return int(hash_[:16], 16) & _INT63


def example_id(dataset: str, role: str, hash_: str, occurrence: int) -> int:
    """Identity of a row: data set, role, content hash and occurrence number (0 for the first copy)."""
    return int63(f"{dataset}\x1f{role}\x1f{hash_}\x1f{occurrence}")


def hash_rank(
    ids: npt.NDArray[np.int64], seed: int, salt: str, other: npt.NDArray[np.int64] | None = None
) -> npt.NDArray[np.uint64]:
    """Pseudo-random uint64 per id (or per pair of ids), a function of the id, `seed` and `salt` only.

    Sorting by it gives an order that does not depend on position, so it is stable under appends.
    SplitMix64 finaliser (Steele et al. 2014). Shapes: ids [n], other [n] -> [n].
    """
    with np.errstate(over="ignore"):
        x = ids.astype(np.uint64) + np.uint64(int63(f"{salt}\x1f{seed}"))
        x = _splitmix64(x)
        if other is not None:
            x = _splitmix64(x ^ (other.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)))
    return x


def _splitmix64(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    out: npt.NDArray[np.uint64] = x ^ (x >> np.uint64(31))
    return out
