"""The services of docker-compose.yml without Docker: the same commands and environments, on free ports."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg
import httpx
from compose_file import ROOT, filled, read_compose, read_env
from conftest import free_port

BIN = Path(sys.executable).parent
DEBIAN = "/usr/lib/postgresql/*/bin"


def program(name: str) -> str | None:
    """Where a server program is, on PATH or where Debian keeps PostgreSQL's."""
    found = shutil.which(name)
    return found or next((str(p / name) for p in sorted(Path("/").glob(DEBIAN[1:]), reverse=True)), None)


def until(check: Callable[[], Any], seconds: float, what: str, more: Callable[[], str] = str) -> Any:
    """The first true value of `check`; fails after `seconds`, with what `more` says then."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = check()
        if found:
            return found
        time.sleep(0.5)
    raise AssertionError(f"waited {seconds:.0f} s for {what} {more()}")


class Stack:
    """PostgreSQL, Redis, Prefect's server and services, and a worker, as docker-compose.yml names them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.compose = read_compose()["services"]
        env_file = folder / ".env"
        subprocess.run([sys.executable, ROOT / "deployments/make_env.py", env_file], check=True)
        self.values = read_env(env_file)
        self.ports = {name: free_port() for name in ("postgres", "redis", "server", "worker")}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        # PostgreSQL refuses to be root, and its user cannot enter pytest's folders.
        self.database = Path(tempfile.mkdtemp(prefix="nncift-postgres-"))

    @property
    def api_url(self) -> str:
        """Where clients talk to the server."""
        return f"http://127.0.0.1:{self.ports['server']}/api"

    def environment(self, service: str) -> dict[str, str]:
        """The service's environment in the compose file, with this stack's secrets and places."""
        env = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "NNCIFT_"))}
        for key, value in self.compose[service]["environment"].items():
            env[key] = self.placed(filled(value, self.values))
        home = self.folder / f"home-{service}"
        return {
            **env,
            "PYTHONUNBUFFERED": "1",
            "PREFECT_HOME": str(home),
            "PREFECT_REDIS_MESSAGING_HOST": "127.0.0.1",
            "PREFECT_REDIS_MESSAGING_PORT": str(self.ports["redis"]),
            "PREFECT_WORKER_WEBSERVER_PORT": str(self.ports["worker"]),
            "PATH": f"{BIN}{os.pathsep}{env['PATH']}",
        }

    def placed(self, text: str) -> str:
        """`text` with this stack's addresses in the place of the containers'."""
        for there, port in (
            ("postgres:5432", "postgres"),
            ("redis:6379", "redis"),
            ("server:4200", "server"),
        ):
            text = text.replace(f"@{there}", f"@127.0.0.1:{self.ports[port]}")
            text = text.replace(f"//{there}", f"//127.0.0.1:{self.ports[port]}")
        text = text.replace(":4200", f":{self.ports['server']}").replace(":8080", f":{self.ports['worker']}")
        return text.replace("/app/", f"{ROOT}/")

    def start(self, name: str, command: list[str], cwd: Path | None = None) -> subprocess.Popen[bytes]:
        """Start a service in a process group of its own; its output goes to NAME.log."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                command, env=self.environment(name), cwd=cwd or self.folder, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        return self.processes[name]

    def log(self, name: str) -> str:
        """The end of a service's output, for messages."""
        return (self.folder / f"{name}.log").read_text(errors="replace")[-3000:]

    def logs(self) -> str:
        """The ends of all outputs."""
        return "\n".join(f"=== {n} ({p.poll()})\n{self.log(n)}" for n, p in self.processes.items())

    def start_postgres(self) -> None:
        """A new cluster with the compose file's user, password and database."""
        as_user: list[str] = []
        if os.getuid() == 0:
            user = next(u for u in ("postgres", "nobody") if any(p.pw_name == u for p in pwd.getpwall()))
            as_user = ["runuser", "-u", user, "--"]
            shutil.chown(self.database, user)
        env = self.environment("postgres")
        secret = self.database / "password"
        secret.write_text(env["POSTGRES_PASSWORD"])
        secret.chmod(0o644)
        data = self.database / "data"
        subprocess.run(
            [*as_user, str(program("initdb")), "-D", str(data), "-U", env["POSTGRES_USER"],
             "--auth=scram-sha-256", f"--pwfile={secret}", "--encoding=UTF8", "--no-sync"],
            check=True, capture_output=True, cwd=self.database,
        )  # fmt: skip
        secret.unlink()
        # fsync off: the test's database needs to survive no power failure.
        command = [
            *as_user, str(program("postgres")), "-D", str(data), "-p", str(self.ports["postgres"]),
            "-k", str(self.database), "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off",
        ]  # fmt: skip
        self.start("postgres", command, self.database)
        until(lambda: self._created(env), 30, "PostgreSQL")

    def _created(self, env: dict[str, str]) -> bool:
        async def create() -> None:
            connection = await asyncpg.connect(
                host="127.0.0.1", port=self.ports["postgres"], user=env["POSTGRES_USER"],
                password=env["POSTGRES_PASSWORD"], database="postgres",
            )  # fmt: skip
            await connection.execute(f'CREATE DATABASE "{env["POSTGRES_DB"]}"')
            await connection.close()

        try:
            asyncio.run(create())
        except (OSError, asyncpg.PostgresError):
            return False
        return True

    def start_redis(self) -> None:
        """The compose file's own command, with this stack's folder and port."""
        shell, flag, script = self.compose["redis"]["command"]
        place = rf"dir {self.folder}\nport {self.ports['redis']}\nbind 127.0.0.1\n"
        script = script.replace("$$", "$").replace(r"dir /data\n", place)
        self.start("redis", [shell, flag, script])
        until(lambda: self.healthy("redis"), 20, "Redis")

    def start_server(self) -> None:
        """Prefect's server without services, and the services beside it."""
        command = [w.replace("0.0.0.0", "127.0.0.1") for w in self.compose["server"]["command"]]
        self.start("server", [str(self.ports["server"]) if w == "4200" else w for w in command])
        until(lambda: self.healthy("server"), 120, "the server")
        self.start("services", self.compose["services"]["command"])
        until(lambda: self.healthy("services"), 120, "the services")

    def start_worker(self, cwd: Path) -> None:
        """A process worker, in whatever folder."""
        cwd.mkdir(exist_ok=True)
        self.start("worker", self.compose["worker"]["command"], cwd)
        until(lambda: self.healthy("worker"), 60, "the worker")

    def healthy(self, name: str) -> bool:
        """The compose file's health check of the service."""
        kind, *test = self.compose[name]["healthcheck"]["test"]
        words = [self.placed(w.replace("$$", "$")) for w in test]
        if kind == "CMD-SHELL":
            words = ["sh", "-c", words[0].replace("redis-cli", f"redis-cli -p {self.ports['redis']}")]
        done = subprocess.run(words, env=self.environment(name), capture_output=True, timeout=30)
        return done.returncode == 0

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """A call of the server's API with the stack's credentials; the answer's JSON."""
        user, password = self.values["NNCIFT_API_AUTH"].split(":", 1)
        answer = httpx.request(method, f"{self.api_url}{path}", json=body, auth=(user, password), timeout=30)
        assert answer.status_code < 300, answer.text
        return answer.json() if answer.content else None

    def stop(self) -> None:
        """End everything, the last started first."""
        for name in reversed(list(self.processes)):
            process = self.processes[name]
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
        for process in self.processes.values():
            try:
                process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(timeout=15)
        shutil.rmtree(self.database, ignore_errors=True)
