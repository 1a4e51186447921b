"""A Prefect home and server port that belong to one benchmark alone."""

from __future__ import annotations

import os
import socket
from pathlib import Path


def settle(home: Path) -> None:
    """Set them, before Prefect is imported; what the environment says of Prefect and nncift is dropped."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    for name in [n for n in os.environ if n.startswith(("PREFECT_", "NNCIFT_"))]:
        del os.environ[name]
    os.environ |= {
        "PREFECT_HOME": str(home),
        "NNCIFT_SERVER_PORT": str(port),
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    }
