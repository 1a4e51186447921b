"""Hosts for tests: network namespaces with addresses of their own on one switch, whose links can be cut."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress


def available() -> bool:
    """Whether this process may make namespaces."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        return False
    name = f"nncift-{uuid.uuid4().hex[:6]}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True).returncode == 0
    if made:
        subprocess.run(["ip", "netns", "del", name], check=True)
    return made


def _ip(*args: str) -> str:
    return subprocess.run(["ip", *args], check=True, capture_output=True, text=True).stdout


class Host:
    """A namespace with one link to the switch."""

    def __init__(self, network: Network, number: int) -> None:
        self.space, self.address = f"{network.name}-{number}", f"10.99.0.{number}"
        self._port, self._switch = f"port{number}", network.switch
        _ip("netns", "add", self.space)
        link = f"v{uuid.uuid4().hex[:8]}"
        _ip("link", "add", link, "type", "veth", "peer", "name", self._port, "netns", network.switch)
        _ip("link", "set", link, "netns", self.space)
        _ip("-n", self.space, "link", "set", link, "name", "eth0")
        _ip("-n", self.space, "addr", "add", f"{self.address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            _ip("-n", self.space, "link", "set", device, "up")
        _ip("-n", network.switch, "link", "set", self._port, "master", "switch", "up")

    @property
    def prefix(self) -> list[str]:
        """What a command begins with to run there."""
        return ["ip", "netns", "exec", self.space]

    @contextmanager
    def cut(self) -> Iterator[None]:
        """Its link is cut meanwhile: packets vanish, as behind a switch that died."""
        _ip("-n", self._switch, "link", "set", self._port, "down")
        try:
            yield
        finally:
            _ip("-n", self._switch, "link", "set", self._port, "up")

    def pids(self) -> list[int]:
        """All that runs there."""
        return [int(p) for p in _ip("netns", "pids", self.space).split()]

    def kill(self) -> None:
        """End all that runs there at once, as when the power fails."""
        for _ in range(50):
            found = self.pids()
            if not found:
                return
            for pid in found:
                with suppress(ProcessLookupError):
                    os.kill(pid, 9)
            time.sleep(0.1)
        raise AssertionError(f"{self.pids()} do not end")


class Network:
    """A switch and its hosts."""

    def __init__(self, hosts: int) -> None:
        self.name = f"nncift-{uuid.uuid4().hex[:6]}"
        self.switch = f"{self.name}-switch"
        _ip("netns", "add", self.switch)
        _ip("-n", self.switch, "link", "add", "switch", "type", "bridge")
        _ip("-n", self.switch, "link", "set", "switch", "up")
        self.hosts = [Host(self, number + 1) for number in range(hosts)]

    def remove(self) -> None:
        """End everything in it."""
        for host in self.hosts:
            host.kill()
        for space in (*(h.space for h in self.hosts), self.switch):
            _ip("netns", "del", space)
