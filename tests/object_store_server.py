"""An S3 server for tests: moto's, with faults that a JSON file switches on while it runs.

{"delay": seconds a request takes longer, "read_only": true, "expired": true}
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple

App = Callable[[dict[str, Any], Any], Iterable[bytes]]


def _error(start: Any, status: str, code: str) -> list[bytes]:
    """As S3 says it."""
    body = (
        f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>{code}</Message></Error>'
    )
    start(status, [("Content-Type", "application/xml")])
    return [body.encode()]


def faulty(app: App, faults: Path, counts: Path) -> App:
    """`app` with the faults that the file names; every request is a line more in `counts`."""

    def serve(environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        told = json.loads(faults.read_text(encoding="utf-8")) if faults.is_file() else {}
        with counts.open("a", encoding="utf-8") as f:
            f.write("{REQUEST_METHOD} {PATH_INFO}?{QUERY_STRING} {REMOTE_ADDR}\n".format(**environ))
        time.sleep(told.get("delay", 0.0))
        if told.get("expired"):
            return _error(start, "400 Bad Request", "ExpiredToken")
        if told.get("read_only") and environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            return _error(start, "403 Forbidden", "AccessDenied")
        return app(environ, start)

    return serve


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--faults", type=Path, required=True)
    parser.add_argument("--counts", type=Path, required=True)
    given = parser.parse_args()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    app = faulty(DomainDispatcherApplication(create_backend_app), given.faults, given.counts)
    run_simple(given.host, given.port, app, threaded=True)


if __name__ == "__main__":
    main()
