"""Shared fixtures: a small real language model, real rows, a real Prefect server per session."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

DATA = Path(__file__).parent / "data"
ORACLES = DATA / "oracles"

# A shell's background job ignores Ctrl-C, and so would all that tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Tests must neither touch the user's Prefect home nor send anything anywhere.
os.environ["DO_NOT_TRACK"] = "1"
# Ray would make a token in the user's home, and clusters of before and after it would not know each other.
os.environ["RAY_AUTH_MODE"] = "disabled"
# As the command line does (flows/__init__.py), before any test imports torch.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Rows as JSON lines; returns the path."""
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")
    return path


def oracle_rows(side: str) -> list[dict[str, Any]]:
    """Oracle examples of one side, as rows of a user's file."""
    lines = (ORACLES / "examples.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return [{k: r[k] for k in ("id", "prompt", "response", "source")} for r in rows if r["side"] == side]


class Project:
    """A user's folder with data, a config and a workspace, driven through the real command line."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        self.folder, self.env = folder, env
        self.workspace = folder / "ws"
        write_jsonl(folder / "pool.jsonl", oracle_rows("pool"))
        write_jsonl(folder / "target.jsonl", oracle_rows("target"))
        self.configure()

    def configure(self, **sections: dict[str, Any]) -> Path:
        """Write job.toml: the oracle pool and target, the oracle model; `sections` change keys.

        Shards run in the flow's process, which saves the start of another one; tests of operations ask for
        execution = {"isolation": "process"}, the default of users.
        """
        job: dict[str, dict[str, Any]] = {
            "pool": {"source": "pool.jsonl"},
            "target": {"source": "target.jsonl"},
            "language_model": {"model": str(ORACLES / "tiny-lm")},
            "influence": {
                "function": "delift",
                "labels": "block",
                "label_fraction": 0.5,
                "audit_pairs": 40,
            },
            "estimator": {"architecture": "mlp"},
            "selection": {"count": 6},
            "shards": {"rows": 10, "columns": 8},
            "execution": {"isolation": "thread"},
        }
        for name, keys in sections.items():
            job.setdefault(name, {}).update(keys)
        lines: list[str] = []
        for name, keys in job.items():
            lines.append(f"[{name}]")
            lines += [f"{k} = {json.dumps(v)}" for k, v in keys.items()]
        path = self.folder / "job.toml"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    def command(self, *args: str) -> list[str]:
        """The console script next to this interpreter."""
        return [str(Path(sys.executable).with_name("nncift")), *args]

    def call(
        self, *args: str, check: int | None = 0, timeout: float = 600
    ) -> subprocess.CompletedProcess[str]:
        """Run `nncift ARGS`; asserts the exit code unless `check` is None. timeout: seconds."""
        done = subprocess.run(
            self.command(*args),
            cwd=self.folder,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        assert check is None or done.returncode == check, done.stderr[-4000:] + done.stdout[-2000:]
        return done

    def run(self, *args: str) -> dict[str, Any]:
        """`nncift run --json`: the result object."""
        done = self.call("run", "job.toml", "--workspace", str(self.workspace), "--json", *args)
        result: dict[str, Any] = json.loads(done.stdout)
        return result

    def value(self) -> dict[str, Any]:
        """The same valuation by the Python call, in this process (saves its start-up)."""
        from prefect.settings import PREFECT_API_URL, temporary_settings

        from flows.valuation import value_pool
        from tasks.progress import reporter

        reporter.mode = "quiet"
        url = f"http://127.0.0.1:{self.env['NNCIFT_SERVER_PORT']}/api"
        with temporary_settings({PREFECT_API_URL: url}):
            return value_pool(self.folder / "job.toml", self.workspace).model_dump(mode="json")

    def ask(self, sql: str, run: str | None = None) -> list[dict[str, Any]]:
        """The same query by the Python call."""
        from nncift_core.store.query import rows
        from nncift_core.store.workspace import Workspace

        return rows(Workspace.open(self.workspace), sql, run)

    def query(self, sql: str, *args: str) -> list[dict[str, Any]]:
        """`nncift query --json`."""
        done = self.call("query", sql, "--workspace", str(self.workspace), "--json", *args)
        rows: list[dict[str, Any]] = json.loads(done.stdout)
        return rows

    def costs(self, result: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """Cost rows of a result by stage."""
        return {c["stage"]: c for c in result["costs"]}


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@pytest.fixture(scope="session")
def prefect_env(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Environment with a Prefect home of its own and a running server; stopped at the end."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_API", "NNCIFT"))}
    env["PREFECT_HOME"] = str(tmp_path_factory.mktemp("prefect"))
    env["NNCIFT_SERVER_PORT"] = str(free_port())
    nncift = str(Path(sys.executable).with_name("nncift"))
    subprocess.run([nncift, "server", "start"], env=env, check=True, capture_output=True, timeout=180)
    yield env
    subprocess.run([nncift, "server", "stop"], env=env, check=True, capture_output=True, timeout=60)


@pytest.fixture
def make_project(tmp_path: Path, prefect_env: dict[str, str]) -> Callable[[str], Project]:
    """Makes projects in folders of their own."""

    def make(name: str = "project") -> Project:
        folder = tmp_path / name
        folder.mkdir()
        return Project(folder, prefect_env)

    return make


@pytest.fixture
def offline_project(tmp_path: Path) -> Project:
    """A project for commands that need no server; its Prefect home stays empty."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_API", "NNCIFT"))}
    env["PREFECT_HOME"] = str(tmp_path / "prefect-home")
    return Project(_fresh(tmp_path / "project"), env)


def _fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder
