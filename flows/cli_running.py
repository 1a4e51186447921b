"""How commands run flows: Ctrl-C, progress, the noise of others."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from flows.cli_output import fail


def until_interrupted(call: Callable[[], Any], quiet: bool) -> Any:
    """What `call` returns; Ctrl-C ends the program with one message and exit code 130."""
    from tasks.interrupts import interrupts

    quieten()
    try:
        with interrupts.watched():
            from tasks.progress import reporter

            reporter.mode = "quiet" if quiet else "auto"
            return call()
    except KeyboardInterrupt:
        fail("interrupted; what is finished is kept: run the same command again to go on", 130)


def called(load: Callable[[], Callable[..., Any]], config: Any, workspace: Path, quiet: bool) -> Any:
    """What the function that `load` imports (`value_pool`, say) gives for a job, with the command line that
    asked for it. Importing takes seconds, in which Ctrl-C counts, too."""
    command = shlex.join(["nncift", *sys.argv[1:]])
    return until_interrupted(lambda: apart(lambda: load()(config, workspace, command)), quiet)


def apart(call: Callable[[], Any]) -> Any:
    """What `call` returns, whose stdout goes to stderr: stdout is for the answer, and Ray, for one, prints
    there that a worker died."""
    with redirect_stdout(sys.stderr):
        return call()


def quieten() -> None:
    """Prefect's log lines go to the server and the UI, not over our progress and messages."""
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
