"""What went wrong in a shard: whether trying again can help, and how errors cross a process boundary."""

from __future__ import annotations

import re
import signal
import traceback
from typing import Any

from nncift_core.errors import IntegrityError, NnciftError, RunError, UserError

# What libraries say of arrays that do not fit each other; their class is that of passing failures, too.
_SHAPES = re.compile(
    r"shapes? .*cannot be|size mismatch|size of tensor|mat1 and mat2|shape '?\[?.* is invalid for input"
    r"|must match (the size|in size)|expected .*dimension|dimension out of range|not aligned",
    re.IGNORECASE,
)
_WRONG = (UserError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, AssertionError)
_TAIL = 1500


class ShardError(RunError):
    """A shard failed in its worker process; permanent: trying again gives the same."""

    def __init__(self, text: str, *, permanent: bool = False) -> None:
        super().__init__(text)
        self.permanent = permanent


class WorkerLost(ShardError):
    """A worker process died, or was ended because it made no progress."""


class NoRoom(Exception):
    """A slot has no place to compute yet, and another one is free: the shard goes there."""


class Unfit(ShardError):
    """A machine cannot take part, but another one may: worth another try. wrong: what there is to mend."""

    def __init__(self, wrong: UserError) -> None:
        self.wrong = wrong
        super().__init__(str(wrong))


class Stopped(Exception):
    """Somebody has stopped the run: work in flight ends at its next progress."""


def is_permanent(error: BaseException) -> bool:
    """Whether trying again is pointless: wrong input, shapes that do not fit, a fault of the program, a stop.

    What the machine does to us (a lost device, memory, a full disk, a damaged file) may pass.
    """
    if isinstance(error, ShardError):
        return error.permanent
    if isinstance(error, Stopped | NotImplementedError):
        return True
    if isinstance(error, UnicodeError | OSError):
        return False
    return isinstance(error, _WRONG) or (
        type(error) is RuntimeError and _SHAPES.search(str(error)) is not None
    )


def packed(error: BaseException) -> dict[str, Any]:
    """`error` as JSON, for `unpacked` in another process."""
    if isinstance(error, Unfit):
        return {**packed(error.wrong), "kind": "unfit"}
    if isinstance(error, UserError):
        places = {"file": error.file, "line": error.line, "row": error.row, "field": error.field}
        return {"kind": "user", "what": error.what, "mend": error.mend, **places}
    if isinstance(error, NnciftError):
        kind = "integrity" if isinstance(error, IntegrityError) else "run"
        return {"kind": kind, "text": str(error), "permanent": is_permanent(error)}
    trace = "".join(traceback.format_exception(error))[-_TAIL:]
    text = f"{type(error).__name__}: {error}"
    return {"kind": "other", "text": text, "permanent": is_permanent(error), "trace": trace}


def unpacked(found: dict[str, Any]) -> Exception:
    """The error that `packed` wrote; one of a library becomes a `ShardError` with its traceback as a note."""
    found = dict(found)
    kind = found.pop("kind")
    if kind in ("user", "unfit"):
        wrong = UserError(found.pop("what"), **found)
        return wrong if kind == "user" else Unfit(wrong)
    if kind == "integrity":
        return IntegrityError(found["text"])
    error = ShardError(found["text"], permanent=found["permanent"])
    if "trace" in found:
        error.add_note(f"in the worker process:\n{found['trace']}")
    return error


def ending(returncode: int, errors: str) -> str:
    """Why a worker process ended, in words; errors: what it wrote to stderr."""
    tail = errors.strip()[-_TAIL:]
    if returncode >= 0:
        return f"the worker process ended with code {returncode}: {tail or 'it wrote no message'}"
    try:
        name = signal.Signals(-returncode).name
    except ValueError:
        name = f"signal {-returncode}"
    why = " (the kernel does that when memory runs out)" if name == "SIGKILL" else ""
    return f"the worker process was ended by {name}{why}" + (f": {tail}" if tail else "")
