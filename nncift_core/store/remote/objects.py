"""Objects of a store below one URL: whole reads and writes that outlast a store that is away for a while."""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import fsspec

from nncift_core.errors import UserError

T = TypeVar("T")
S = TypeVar("S")
# Callable: asked anew for each try.
Data = bytes | Callable[[], bytes]

_LOG = logging.getLogger("nncift.store")
# Seconds that a store may stay away: at first contact, and in the middle of work.
FIRST, PATIENCE = 20.0, 600.0
_LONGEST_WAIT = 10.0
THREADS = 16

_EXTRAS = {"s3": "s3", "s3a": "s3"}
# What the user has to mend, by the code that S3 and what speaks like it give.
_MENDS = {
    "NoSuchBucket": "Make the bucket, or mend its name in --workspace.",
    "ExpiredToken": "Renew the credentials (a new session token), then run again: what is stored stays.",
    "ExpiredTokenException": "Renew the credentials (a new session token), then run again.",
    "TokenRefreshRequired": "Renew the credentials, then run again.",
    "InvalidToken": "Check AWS_SESSION_TOKEN: it does not belong to these keys.",
    "InvalidAccessKeyId": "Check AWS_ACCESS_KEY_ID, or AWS_PROFILE: the store does not know the key.",
    "SignatureDoesNotMatch": "Check AWS_SECRET_ACCESS_KEY: it does not belong to the key id.",
    "AuthorizationHeaderMalformed": "Check the region (AWS_REGION) and the endpoint (AWS_ENDPOINT_URL).",
    "PermanentRedirect": "Check the region (AWS_REGION) and the endpoint (AWS_ENDPOINT_URL).",
    "AccessDenied": "Give the credentials the right to list, read, write and delete below this URL.",
    "AllAccessDisabled": "Give the credentials the right to list, read, write and delete below this URL.",
    "RequestTimeTooSkewed": "Set this machine's clock right: the store refuses requests of another time.",
    "MethodNotAllowed": "The store is read-only; give a URL where these credentials may write.",
}
# Where exceptions of stores' libraries come from that are none of the program's faults.
_LIBRARIES = {
    "botocore",
    "aiobotocore",
    "aiohttp",
    "urllib3",
    "requests",
    "gcsfs",
    "google",
    "azure",
    "adlfs",
}
# How stores say that a name is taken which was to be new.
_TAKEN = {"PreconditionFailed", "412"}
# Names of exceptions that no second try mends.
_NO_CREDENTIALS = {"NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "TokenRetrievalError",
                   "SSOTokenLoadError", "UnauthorizedSSOTokenError", "CredentialRetrievalError"}  # fmt: skip


class Objects:
    """Objects below `url`, by key. Every call tries again while the store does not answer, and raises
    UserError for what only the user can mend: bucket, credentials, rights, endpoint."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.protocol = url.partition("://")[0]
        self._reached = False

    @cached_property
    def fs(self) -> Any:
        """The fsspec filesystem. Raises UserError where its library is missing."""
        options: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
        if self.protocol in _EXTRAS:
            # Else every read asks for the size first; what is large comes in several files at once.
            options["max_concurrency"] = 1
            options["config_kwargs"] = {
                "connect_timeout": 5, "read_timeout": 30, "max_pool_connections": 2 * THREADS,
                "retries": {"max_attempts": 2, "mode": "standard"},
            }  # fmt: skip
        try:
            return fsspec.filesystem(self.protocol, **options)
        except (ImportError, ValueError) as e:
            extra = _EXTRAS.get(self.protocol)
            raise UserError(
                f"{self.protocol}:// cannot be read here ({e})",
                file=self.url,
                mend=f"Install it with: pip install 'nncift[{extra}]'." if extra else
                "Install the fsspec filesystem of this protocol, or give a folder.",
            ) from None  # fmt: skip

    def path(self, key: str) -> str:
        """How the filesystem names a key."""
        found: str = self.fs._strip_protocol(f"{self.url}/{key}")
        return found

    def get(self, key: str) -> bytes | None:
        """An object's bytes; None where there is none."""
        found: bytes | None = self._tried(f"read {key}", lambda: self._found(self.fs.cat_file, key))
        return found

    def tail(self, key: str, size: int) -> bytes | None:
        """At most the last `size` bytes of an object; None where there is none."""

        def read() -> bytes | None:
            try:
                return self._found(self.fs.cat_file, key, start=-size)
            except OSError as e:
                if e.errno == errno.EINVAL:
                    # Of an object without bytes, which has no last ones.
                    return b""
                raise

        return self._tried(f"read {key}", read)

    def download(self, key: str, path: Path) -> bool:
        """Write an object into the file `path`; whether there is one."""

        def read() -> bool:
            return self._found(lambda at: (self.fs.get_file(at, str(path)), True)[1], key) or False

        return self._tried(f"read {key}", read)

    def put(self, key: str, data: Data) -> None:
        """Write an object; what had its name is replaced."""
        self._tried(f"write {key}", lambda: self.fs.pipe_file(self.path(key), _bytes(data)))

    def upload(self, path: Path, key: str) -> None:
        """Write the file `path` as an object. Raises FileNotFoundError where there is no such file."""
        path.stat()
        self._tried(f"write {key}", lambda: self.fs.put_file(str(path), self.path(key)))

    def create(self, key: str, data: Data) -> bool:
        """Write an object unless its name is taken; whether it was written.

        Answered "taken" also where an earlier try of this call came through whose answer was lost: whoever
        must know compares the object's bytes with `data`.
        """
        tried: list[bytes] = []

        def write() -> bool:
            tried.append(_bytes(data))
            try:
                self.fs.pipe_file(self.path(key), tried[-1], mode="create")
            except FileExistsError:
                return False
            except OSError as e:
                # s3fs knows the answer by a field that not every store gives.
                if _code(e) in _TAKEN:
                    return False
                raise
            return True

        return self._tried(f"write {key}", write) or self.get(key) in tried

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; one that is not there is no fault."""
        self.each(keys, lambda k: self._tried(f"delete {k}", lambda: self._found(self.fs.rm_file, k)))

    def names(self, prefix: str) -> list[str]:
        """Names below `prefix` (a folder), sorted."""

        def listed() -> list[str]:
            found = self._found(lambda at: self.fs.find(at), prefix) or []
            start = len(self.path(prefix)) + 1
            return sorted(str(path)[start:] for path in found)

        return self._tried(f"list {prefix}", listed)

    def clock_off(self, key: str) -> float:
        """By how many seconds this machine's clock is ahead of the store's, by an object written just now; 0
        where that cannot be told."""
        try:
            made: datetime = self.fs.modified(self.path(key))
        except (NotImplementedError, OSError, KeyError):
            return 0.0
        return time.time() - made.timestamp()

    def is_empty(self) -> bool:
        """Whether nothing lies below the URL."""
        found = self._tried("list", lambda: self._found(lambda at: self.fs.ls(at, detail=False), "")) or []
        # A check of rights that was killed leaves its object.
        return all(str(path).rstrip("/").endswith("/checks") for path in found)

    def each(self, items: Iterable[S], do: Callable[[S], T]) -> list[T]:
        """`do` of every item, some at a time, in order."""
        todo = list(items)
        if len(todo) < 2:
            return [do(i) for i in todo]
        with ThreadPoolExecutor(min(THREADS, len(todo))) as pool:
            return list(pool.map(do, todo))

    def _found(self, do: Callable[..., T], key: str, **given: Any) -> T | None:
        """`do` of a key's path; None where there is no such object (a bucket that is missing is an error)."""
        try:
            return do(self.path(key), **given)
        except FileNotFoundError as e:
            if _code(e) == "NoSuchBucket":
                raise
            return None

    def _tried(self, what: str, do: Callable[[], T]) -> T:
        begun, wait, said = time.monotonic(), 0.2, False
        while True:
            try:
                found = do()
            except Exception as e:
                if (mended := self._mendable(e, what)) is not None:
                    raise mended from None
                if not _passes(e):
                    raise
                gone = time.monotonic() - begun
                if gone > (PATIENCE if self._reached else FIRST):
                    # What a command does on its way out is not waited for as long again.
                    self._reached = False
                    raise self._away(e, gone) from None
                if not said and gone > 2.0:
                    said = True
                    _LOG.warning("%s does not answer (%s); trying again", self.url, type(e).__name__)
                time.sleep(wait)
                wait = min(_LONGEST_WAIT, wait * 2)
                continue
            if said:
                _LOG.warning("%s answers again", self.url)
            self._reached = True
            return found

    def _mendable(self, e: Exception, what: str) -> UserError | None:
        code, kind = _code(e), type(e).__name__
        if kind in _NO_CREDENTIALS:
            return UserError(
                f"no credentials for {self.protocol} ({e})",
                file=self.url,
                mend="Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or the machine's role.",
            )
        if code in _MENDS:
            return UserError(f"cannot {what}: {code}", file=self.url, mend=_MENDS[code])
        if isinstance(e, PermissionError) and e.filename is not None:
            # A file of this machine, not an object.
            return UserError(f"cannot {what}: {e.strerror}", file=e.filename, mend="Mend the rights there.")
        if isinstance(e, PermissionError):
            why = f"{code or 'access denied'}"
            return UserError(f"cannot {what}: {why}", file=self.url, mend=_MENDS["AccessDenied"])
        return None

    def _away(self, e: Exception, seconds: float) -> UserError:
        said = " ".join(str(e).split())[:200]
        return UserError(
            f"the store has not answered for {seconds:.0f} s ({type(e).__name__}: {said})",
            file=self.url,
            mend="Check the endpoint (AWS_ENDPOINT_URL) and the network; what is stored stays.",
        )


def _bytes(data: Data) -> bytes:
    return data() if callable(data) else data


def _code(e: BaseException | None) -> str:
    """The store's own word for an error, of the exception or of what it was made from."""
    while e is not None:
        response = getattr(e, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code", ""))
        e = e.__cause__
    return ""


def _passes(e: Exception) -> bool:
    """Whether another try may help: the network, a store under load; not a fault of the program."""
    if isinstance(e, OSError) and e.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        return False
    module = type(e).__module__.partition(".")[0]
    return isinstance(e, OSError) or module in _LIBRARIES
