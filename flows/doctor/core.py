"""A check, and how one is made: no check can crash the doctor or hold it for longer than its limit."""

from __future__ import annotations

import contextvars
import importlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from flows.doctor.requirements import mend_import
from nncift_core.errors import NnciftError, UserError

Status = Literal["ok", "missing", "problem"]


@dataclass(frozen=True)
class Check:
    """One finding. mend: a command to copy, or what to do where no command helps; "" when ok.

    needed: whether nncift can do nothing of use while this is not ok.
    """

    name: str
    status: Status
    found: str
    mend: str
    needed: bool


@dataclass(frozen=True)
class Probe:
    """How to make a check: a function, the modules it needs, and how long it may take.

    Imports are not part of `seconds`: they are slow on a cold disk but wait for nobody.
    """

    name: str
    look: Callable[[], list[Check]]
    needed: bool
    modules: tuple[str, ...] = ()
    seconds: float = 5.0


def examine(probe: Probe) -> list[Check]:
    """The probe's checks; a crash, a module that cannot be imported or silence is a check too."""
    for module in probe.modules:
        try:
            importlib.import_module(module)
        except Exception as e:  # a broken package may raise anything, and to say so is the doctor's work
            return [
                Check(
                    probe.name, "problem", f"cannot import {module}: {said(e)}", mend_import(module, e), True
                )
            ]
    answers: list[list[Check]] = []
    context = contextvars.copy_context()
    # A daemon, because a thread that waits for a dead network drive cannot be stopped, only left behind.
    thread = threading.Thread(target=lambda: answers.append(context.run(_safely, probe)), daemon=True)
    thread.start()
    thread.join(probe.seconds)
    if answers:
        return answers[0]
    found, mend = f"no answer within {probe.seconds:g} s", "see what it waits for (network, disk), then again"
    return [Check(probe.name, "problem", found, mend, probe.needed)]


def _safely(probe: Probe) -> list[Check]:
    try:
        return probe.look()
    except UserError as e:
        found = f"{e.file}: {e.what}" if e.file else e.what
        return [Check(probe.name, "problem", found, e.mend or "mend that, then: nncift doctor", probe.needed)]
    except NnciftError as e:
        what, _, command = str(e).partition(". Run: ")
        return [Check(probe.name, "problem", what, command or what, probe.needed)]
    except Exception as e:  # one check that fails in a new way must not hide the others
        return [Check(probe.name, "problem", said(e), "mend that, then: nncift doctor", probe.needed)]


def said(error: Exception) -> str:
    """The type and the first line of an error."""
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}".removesuffix(": ")
