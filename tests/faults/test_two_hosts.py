"""Two hosts share a workspace through an S3 server on a third: kills, cut links, a slow store."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import network
import psutil
import pytest
from conftest import Project, free_port

pytest.importorskip("s3fs", reason="s3fs is not installed (pip install 'nncift[s3-test]')")
pytest.importorskip("moto", reason="moto is not installed (pip install 'nncift[s3-test]')")
from object_store import Store, wait_for

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(not network.available(), reason="needs root and `ip netns` (package iproute2)"),
]
VALUES = "SELECT train_id, target_id, origin, influence FROM influence ORDER BY train_id, target_id"
# Every pair exact, in many shards: the work lasts while things go wrong.
MANY = {"influence": {"label_fraction": 1.0}, "shards": {"rows": 3, "columns": 4}}


@dataclass
class Site:
    """Two hosts and the store on a third."""

    net: network.Network
    store: Store

    def project(self, folder: Path, host: int, name: str, env: dict[str, str]) -> Project:
        """A user's folder on a host, with a mirror and a Prefect home of its own."""
        folder.mkdir()
        own = {k: v for k, v in env.items() if k != "NNCIFT_SERVER_PORT"}
        own |= {**self.store.env, "NNCIFT_MIRRORS": str(folder / "mirrors"), "OMP_NUM_THREADS": "1"}
        own |= {"PREFECT_HOME": str(folder / "prefect"), "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
        project = Project(folder, own)
        project.workspace = self.store.url(name)  # type: ignore[assignment]
        command, prefix = project.command, self.net.hosts[host].prefix
        project.command = lambda *args: [*prefix, *command(*args)]  # type: ignore[method-assign]
        return project

    def tiles(self, *hosts: network.Host) -> Counter[str]:
        """How often each tile of exact values was written by `hosts`, or by all; by its name in the store."""
        asked = [h.address for h in hosts or self.net.hosts]
        writes = (line.split() for line in self.store.requests() if line.startswith("PUT "))
        paths = (path.split("?")[0] for _, path, address in writes if address in asked)
        return Counter(p.split("/data/")[1].split("@")[0] for p in paths if "/data/exact/" in p)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    net = network.Network(3)
    third = net.hosts[2]
    try:
        yield Site(net, Store(tmp_path / "store", third.address, third.prefix))
    finally:
        net.remove()


def start(project: Project) -> subprocess.Popen[bytes]:
    log = (project.folder / "log").open("wb")
    command = project.command("run", "job.toml", "--workspace", str(project.workspace), "--json")
    out = (project.folder / "out.json").open("wb")
    return subprocess.Popen(command, cwd=project.folder, env=project.env, stdout=out, stderr=log)


def result(project: Project, process: subprocess.Popen[bytes], seconds: float = 420) -> dict[str, Any]:
    code = process.wait(timeout=seconds)
    assert code == 0, (project.folder / "log").read_text()[-3000:]
    found: dict[str, Any] = json.loads((project.folder / "out.json").read_text())
    return found


def reference(folder: Path, env: dict[str, str], **sections: Any) -> list[dict[str, Any]]:
    """The same values by one machine and a folder."""
    folder.mkdir()
    local = Project(folder, {**env, "OMP_NUM_THREADS": "1"})
    local.configure(**{**MANY, **sections})
    local.run()
    return local.query(VALUES)


def test_a_host_dies_and_the_other_takes_its_work(
    tmp_path: Path, site: Site, prefect_env: dict[str, str]
) -> None:
    """Two runs of one job on two hosts share it by leases, on a slow store; one host dies."""
    a, b = (site.project(tmp_path / "ab"[k], k, "shared", prefect_env) for k in range(2))
    # A shard for each row: enough for both, whichever comes first.
    cells = {**MANY, "shards": {"rows": 1, "columns": 4}}
    for project in (a, b):
        project.configure(**cells, execution={"isolation": "process"})
    site.store.fault(delay=0.2)
    dies, lives = start(b), start(a)
    wait_for(lambda: min(len(site.tiles(h)) for h in site.net.hosts[:2]) >= 3)
    site.net.hosts[1].kill()
    dies.wait()
    at_death = site.tiles()
    found = result(a, lives)
    exact = a.costs(found)["exact-influence"]
    assert exact["computed"] + exact["reused"] == exact["items"] and exact["reused"] > 0
    # What the dead host had begun may be written twice, all else once.
    assert sum(site.tiles().values()) <= len(site.tiles()) + 2, site.tiles() - at_death
    site.store.fault()
    assert a.query(VALUES) == reference(tmp_path / "local", prefect_env, **cells)


def ray(host: network.Host, env: dict[str, str], *args: str) -> None:
    command = [*host.prefix, str(Path(sys.executable).with_name("ray")), "start", *args]
    command += [f"--node-ip-address={host.address}", "--num-cpus=1", "--num-gpus=1", "--disable-usage-stats",
                f"--object-store-memory={80 << 20}"]  # fmt: skip
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_ray_over_two_hosts_outlives_what_a_night_brings(
    tmp_path: Path, site: Site, prefect_env: dict[str, str]
) -> None:
    pytest.importorskip("ray", reason="Ray is not installed (pip install 'nncift[ray]')")
    head, node, third = site.net.hosts
    a = site.project(tmp_path / "a", 0, "rayed", prefect_env)
    other = {**a.env, "NNCIFT_MIRRORS": str(tmp_path / "mirrors-of-b")}
    port = free_port()
    ray(head, a.env, "--head", f"--port={port}", "--include-dashboard=false")
    ray(node, other, f"--address={head.address}:{port}")
    shards = {"shards": {"rows": 1, "columns": 4}}
    a.configure(
        **{**MANY, **shards},
        execution={"runner": "ray", "retries": 8, "retry_seconds": 1, "hang_after": 90},
        **{"execution.ray": {"address": f"{head.address}:{port}"}},
    )
    site.store.fault(delay=0.2)
    running = start(a)
    events = threading.Thread(target=_night, args=(site, head, node, third, running))
    events.start()
    found = result(a, running, 540)
    events.join()
    exact = a.costs(found)["exact-influence"]
    assert exact["computed"] + exact["reused"] == exact["items"]
    written = site.tiles()
    assert sum(written.values()) <= len(written) + 6, "only what was under way may be computed again"
    site.store.fault()
    assert a.query(VALUES) == reference(tmp_path / "local", prefect_env, **shards)


def _night(site: Site, head: network.Host, node: network.Host, third: network.Host, running: Any) -> None:
    """What goes wrong, each once more tiles are there."""

    def more(n: int) -> None:
        have = len(site.tiles())
        wait_for(lambda: len(site.tiles()) >= have + n or running.poll() is not None)

    more(3)
    for pid in node.pids():
        if "ray::Server" in " ".join(psutil.Process(pid).cmdline()):
            psutil.Process(pid).kill()
    more(3)
    with third.cut():
        time.sleep(10)
    more(3)
    with node.cut():
        time.sleep(60)
    more(3)
    node.kill()
