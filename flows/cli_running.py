"""How commands run flows: Ctrl-C, progress, the noise of others."""

from __future__ import annotations

import os
from collections.abc import Callable
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


def quieten() -> None:
    """Prefect's log lines go to the server and the UI, not over our progress and messages."""
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
