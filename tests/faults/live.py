"""Whole runs against a live server: started, broken, and what server and workspace say of them afterwards."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet as pq
from conftest import Project, oracle_rows, write_jsonl

from faults.world import MARK, free_locks, marked, no_half_written
from nncift_core.store.files import read_manifest
from nncift_core.store.shards import readable
from nncift_core.store.workspace import Workspace

WORKER = "nncift_core.execution.worker"
TERMINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
_REPEAT = 4


def until(what: str, ready: Callable[[], Any], seconds: float = 120) -> Any:
    """Wait for `ready` to give something."""
    deadline = time.monotonic() + seconds
    while not (found := ready()):
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s in vain for {what}"
        time.sleep(0.01)
    return found


class Live:
    """A project with enough exact shards to be hit in the middle, its processes marked."""

    def __init__(self, folder: Path, env: dict[str, str], calibration: Path | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.mark = uuid.uuid4().hex
        self.project = Project(folder, {**env, MARK: self.mark})
        pool = [
            {**row, "id": f"{row['id']}-{k}", "prompt": f"{row['prompt']} {k}"}
            for k in range(_REPEAT)
            for row in oracle_rows("pool")
        ]
        write_jsonl(folder / "pool.jsonl", pool)
        self.project.configure(
            influence={"label_fraction": 0.8},
            shards={"rows": 8, "columns": 8},
            execution={"isolation": "process", "devices": ["cpu"], "retry_seconds": 0.5},
        )
        self.ws = Workspace(self.project.workspace)
        if calibration is not None and calibration.is_file():
            # Which kernel is the fastest may differ from one moment to the next, and with it the last bits.
            Workspace.create(self.ws.root)
            shutil.copyfile(calibration, self.ws.calibration_file)

    @property
    def api(self) -> str:
        """Where the server answers."""
        return f"http://127.0.0.1:{self.project.env['NNCIFT_SERVER_PORT']}/api"

    def start(self) -> subprocess.Popen[str]:
        """`nncift run`, in the background."""
        return subprocess.Popen(
            self.project.command("run", "job.toml", "--workspace", str(self.ws.root), "--json"),
            cwd=self.project.folder, env=self.project.env,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def processes(self, module: str = WORKER) -> list[int]:
        """Process ids of `python -m MODULE` below this project's commands."""
        return list(marked(f"{MARK}={self.mark}", module))

    def exact_files(self) -> dict[str, tuple[int, int]]:
        """Tiles of exact values that count."""
        return self._files("exact")

    def _files(self, kind: str) -> dict[str, tuple[int, int]]:
        folders = sorted((self.ws.root / kind).glob("*"))
        return {f"{f.name}/{name}": seen for f in folders for name, seen in readable(f).items()}

    def sizes(self, kind: str) -> list[int]:
        """Pairs of each stored tile."""
        manifests = [read_manifest(self.ws.root / kind / name) for name in self._files(kind)]
        return [m.rows for m in manifests if m is not None]

    def values(self, kind: str) -> list[tuple[str, int, int, bytes]]:
        """Every stored value, bit by bit: (key, row, column, value), sorted; doubles are kept."""
        found = []
        for name in self._files(kind):
            table = pq.read_table(self.ws.root / kind / name)
            columns = [table[c].to_numpy() for c in ("row_content", "column_content", "value")]
            rows = zip(*(c.tolist() for c in columns[:2]), columns[2], strict=True)
            found += [(name.split("/")[0], r, c, v.tobytes()) for r, c, v in rows]
        return sorted(found)

    def at_random_within_exact(self, process: subprocess.Popen[str], rng: random.Random) -> None:
        """Wait for a random moment after the first exact tiles and before the last ones."""
        enough, pause = rng.randint(1, 4), rng.uniform(0, 0.25)
        until("exact tiles", lambda: len(self.exact_files()) >= enough or process.poll() is not None)
        assert process.poll() is None, process.communicate()[1][-3000:]
        time.sleep(pause)

    def ask(self, path: str, given: dict[str, Any]) -> list[dict[str, Any]]:
        """Everything that a filter of the server's API finds."""
        found: list[dict[str, Any]] = []
        while True:
            asked = {**given, "limit": 200, "offset": len(found)}
            page = httpx.post(f"{self.api}{path}", json=asked, timeout=30).raise_for_status().json()
            found += page
            if len(page) < 200:
                return found

    def flow_runs(self) -> list[dict[str, Any]]:
        """Flow runs over this workspace that have begun, the oldest first; a schedule has more in store."""
        found = self.ask("/flow_runs/filter", {"sort": "EXPECTED_START_TIME_ASC"})
        begun = [r for r in found if r["state_type"] != "SCHEDULED"]
        return [r for r in begun if r["parameters"].get("workspace") == str(self.ws.root)]

    def task_runs(self, flow_run: dict[str, Any], stage: str = "") -> list[dict[str, Any]]:
        """Task runs of a flow run, of one stage by name."""
        found = self.ask("/task_runs/filter", {"flow_runs": {"id": {"any_": [flow_run["id"]]}}})
        return [t for t in found if t["name"].startswith(f"{stage} ")] if stage else found

    def settled(self, finished: dict[str, int] | None = None) -> None:
        """Assert that every record of this workspace is terminal, and none of a finished shard is missing.

        finished: by flow run, how many exact shards it had stored.
        """

        def told() -> bool:
            runs = self.flow_runs()
            tasks = [t for run in runs for t in self.task_runs(run)]
            wanted = finished or {}
            there = all(len(self.task_runs(r, "exact-influence")) >= wanted.get(r["id"], 0) for r in runs)
            return there and all(r["state_type"] in TERMINAL for r in [*runs, *tasks])

        # The recorder is some seconds behind.
        until("terminal records of every task run", told, 30)

    def finish(self, process: subprocess.Popen[str], seconds: float = 180) -> dict[str, Any]:
        """The result of a run that ends well."""
        out, err = process.communicate(timeout=seconds)
        assert process.returncode == 0, err[-4000:]
        result: dict[str, Any] = json.loads(out)
        return result

    def clean(self) -> None:
        """Assert that no process, no lock and no half-written file is left."""
        until("the worker processes to end", lambda: not self.processes(), 10)
        free_locks(self.ws.root)
        no_half_written(self.ws.root)


def kill(process: subprocess.Popen[str]) -> None:
    """SIGKILL of a process that must still run."""
    assert process.poll() is None, "it ended before it could be killed"
    process.kill()
    process.communicate()


def server_pid(env: dict[str, str]) -> int:
    """The process of the server that `nncift server start` left."""
    return int(json.loads((Path(env["PREFECT_HOME"]) / "nncift-server.json").read_text())["pid"])


def kill_server(env: dict[str, str]) -> None:
    """SIGKILL of the server with all that it started."""
    os.killpg(server_pid(env), signal.SIGKILL)
