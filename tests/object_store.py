"""An object store for tests: a real S3 server in its own process, machines with mirrors of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from conftest import Project, free_port

SERVER = Path(__file__).with_name("object_store_server.py")
BUCKET = "nncift-tests"


class Store:
    """The server; `env` holds what reaches it. prefix: of its command, to run it elsewhere."""

    def __init__(self, folder: Path, host: str = "127.0.0.1", prefix: Sequence[str] = ()) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.faults, self.counts = folder / "faults.json", folder / "counts"
        self.counts.touch()
        port = free_port()
        self.endpoint = f"http://{host}:{port}"
        self.prefix = list(prefix)
        command = [*prefix, sys.executable, str(SERVER), "--host", host, "--port", str(port)]
        command += ["--faults", str(self.faults), "--counts", str(self.counts)]
        log = (folder / "log").open("wb")
        self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        self.env = {
            "AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "tests", "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true", "AWS_ENDPOINT_URL": self.endpoint,
        }  # fmt: skip
        self._make_bucket()

    def _make_bucket(self) -> None:
        code = (
            "import sys, urllib.request as u\n"
            f"u.urlopen(u.Request('{self.endpoint}/{BUCKET}', method='PUT'), timeout=5)"
        )
        deadline = time.monotonic() + 60
        while subprocess.run([*self.prefix, sys.executable, "-c", code], capture_output=True).returncode:
            assert self.process.poll() is None, "the server died"
            assert time.monotonic() < deadline, "the server does not answer"
            time.sleep(0.3)

    def fault(self, **told: Any) -> None:
        """From now on the server has these faults, and no others."""
        part = self.faults.with_suffix(".part")
        part.write_text(json.dumps(told), encoding="utf-8")
        part.replace(self.faults)

    def requests(self) -> list[str]:
        """The requests it has had, oldest first: method, path and query, the address of whoever asked."""
        return self.counts.read_text(encoding="utf-8").splitlines()

    def url(self, name: str) -> str:
        """A workspace in it."""
        return f"s3://{BUCKET}/{name}"

    def stop(self) -> None:
        """End it, whatever it does."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(timeout=30)


def machine(folder: Path, env: dict[str, str], store: Store, url: str) -> Project:
    """A user's machine: its own folder and mirror, a workspace at `url`."""
    folder.mkdir()
    project = Project(folder, {**env, **store.env, "NNCIFT_MIRRORS": str(folder / "mirrors")})
    project.workspace = url  # type: ignore[assignment]
    return project


def wait_for(what: Callable[[], Any], seconds: float = 240) -> Any:
    """What `what` gives once it is true."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.2)
    return found
