"""The local Prefect server: start, reuse, stop. Loopback only; its database is in the Prefect home."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

from nncift_core.errors import RunError, UserError
from nncift_core.store.files import write_json
from nncift_core.store.locks import locked

DEFAULT_PORT = 4200
START_SECONDS = 120
LEASES = "prefect.server.concurrency.lease_storage.filesystem"


@dataclass(frozen=True)
class ServerState:
    """A server that we started: process id and port."""

    pid: int
    port: int

    @property
    def api_url(self) -> str:
        """Where clients talk to it."""
        return f"http://127.0.0.1:{self.port}/api"

    @property
    def ui_url(self) -> str:
        """Where people look at it."""
        return f"http://127.0.0.1:{self.port}"


def _home() -> Path:
    home = Path(PREFECT_HOME.value()).expanduser()
    home.mkdir(parents=True, exist_ok=True)
    return home


def _state_file() -> Path:
    return _home() / "nncift-server.json"


def log_file() -> Path:
    """Where the server's output goes."""
    return _home() / "nncift-server.log"


def healthy(api_url: str, timeout: float = 2.0) -> bool:
    """Whether a Prefect API answers at `api_url`."""
    try:
        answer = httpx.get(f"{api_url.rstrip('/')}/health", timeout=timeout, trust_env=False)
        return answer.status_code == 200 and answer.json() is True
    except (httpx.HTTPError, ValueError):
        return False


def running() -> ServerState | None:
    """The server that `start` left behind, when its process lives and answers."""
    try:
        state = ServerState(**json.loads(_state_file().read_text(encoding="utf-8")))
        os.kill(state.pid, 0)
    except (FileNotFoundError, ProcessLookupError, PermissionError, json.JSONDecodeError, TypeError):
        return None
    return state if healthy(state.api_url) else None


def start(port: int | None = None) -> ServerState:
    """Start a server on 127.0.0.1 (or return the one that runs); waits until it answers.

    Raises UserError when the port is taken by something else, RunError when it does not come up.
    """
    with locked(_home() / "nncift-server.lock"):
        state = running()
        if state is not None:
            if port is not None and state.port != port:
                raise UserError(
                    f"a server runs on port {state.port} already",
                    field="--port",
                    mend="Stop it first: nncift server stop.",
                )
            return state
        port = port or _default_port()
        if _port_taken(port):
            if healthy(f"http://127.0.0.1:{port}/api"):
                return ServerState(pid=0, port=port)
            raise UserError(
                f"port {port} is taken by another program",
                field="--port",
                mend="Choose another: nncift server start --port N (or set NNCIFT_SERVER_PORT).",
            )
        state = ServerState(_spawn(port), port)
        _wait(state)
        write_json(_state_file(), asdict(state))
        return state


def _default_port() -> int:
    text = os.environ.get("NNCIFT_SERVER_PORT", str(DEFAULT_PORT))
    if not text.isdigit() or not 0 < int(text) < 65536:
        raise UserError(
            f"{text!r} is no port", field="NNCIFT_SERVER_PORT", mend="Give a number from 1 to 65535."
        )
    return int(text)


def _port_taken(port: int) -> bool:
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def _spawn(port: int) -> int:
    api = f"http://127.0.0.1:{port}/api"
    env = {
        **os.environ,
        "PREFECT_API_URL": api,
        "PREFECT_UI_API_URL": api,
        "PREFECT_SERVER_UI_API_URL": api,
        # What notifications link to.
        "PREFECT_UI_URL": f"http://127.0.0.1:{port}",
        # In memory, the default, a killed server forgets who holds a limit, and the limit stays taken.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": LEASES,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "DO_NOT_TRACK": "1",
    }
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with log_file().open("ab") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env, start_new_session=True
        )
    return process.pid


def _wait(state: ServerState) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if healthy(state.api_url):
            return
        if _dead(state.pid):
            break
        time.sleep(0.3)
    else:
        os.killpg(state.pid, signal.SIGTERM)
    raise RunError(f"the Prefect server did not come up; its log: {log_file()}")


def _dead(pid: int) -> bool:
    try:
        done, _ = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return False
    return done == pid


def stop() -> bool:
    """Stop the server that `start` left; False when none runs."""
    with locked(_home() / "nncift-server.lock"):
        state = running()
        if state is None or state.pid == 0:
            return False
        os.killpg(state.pid, signal.SIGTERM)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and _alive(state.pid):
            time.sleep(0.2)
        if _alive(state.pid):
            os.killpg(state.pid, signal.SIGKILL)
        _state_file().unlink(missing_ok=True)
        return True


def _alive(pid: int) -> bool:
    if _dead(pid):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _configured_answers() -> bool:
    """Whether the API of the user's settings answers, asked with their credentials."""
    with get_client(sync_client=True) as client:
        return client.api_healthcheck() is None


@contextmanager
def connected(say: Callable[[str], None]) -> Iterator[str]:
    """A reachable API for the flows inside: the configured one, else ours, started when needed.

    Yields the UI's address.
    """
    configured = PREFECT_API_URL.value()
    if configured and _configured_answers():
        yield configured.removesuffix("/").removesuffix("/api")
        return
    if configured:
        say(f"PREFECT_API_URL is {configured}, but nothing answers there: using a local server instead")
    state = running()
    if state is None:
        say("looking for the local Prefect server, or starting it")
        state = start()
        if state.pid:
            say("started the local Prefect server (nncift server stop ends it)")
        else:
            say(f"using the Prefect server that answers on port {state.port}; nncift did not start it")
    with temporary_settings(updates={PREFECT_API_URL: state.api_url}):
        yield state.ui_url
