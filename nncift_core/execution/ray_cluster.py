"""A Ray cluster: connecting to it, what it holds, the actors that compute on it.

Shards go to actors and not to the task runner of `prefect-ray`: there the whole task run moves to the
cluster, and with a worker that dies its retries, its cache and its place in the flow go down too (Ray starts
it again under the same task run, or it ends "Crashed" and Prefect tries it no more). Here the task run stays
in the flow, as with local devices, and a worker's death is a failure that Prefect retries.
"""

from __future__ import annotations

import logging
import os
import socket
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from nncift_core.config_execution import RayConfig
from nncift_core.errors import UserError

# Nothing leaves the cluster unless its owner wants it.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

_FIELD = "execution.ray.address"
_CLIENT_TRIES = 3
_GIB = 1 << 30


def library() -> Any:
    """The module `ray`; raises UserError where it is not installed."""
    try:
        import ray
    except ModuleNotFoundError:
        raise UserError(
            'runner = "ray" needs Ray, which is not installed',
            field="execution.runner",
            mend="Install it with: pip install 'nncift[ray]'.",
        ) from None
    return ray


@dataclass(frozen=True)
class Resources:
    """What one slot reserves of a machine."""

    num_gpus: float
    num_cpus: float
    memory: int | None

    def options(self) -> dict[str, Any]:
        """As Ray takes them."""
        return {"num_gpus": self.num_gpus, "num_cpus": self.num_cpus, "memory": self.memory}

    def slots_on(self, machine: dict[str, float]) -> int:
        """How many slots a machine with these Ray resources holds."""
        wanted = {"GPU": self.num_gpus, "CPU": self.num_cpus, "memory": self.memory or 0}
        return min(int(machine.get(name, 0) // n) for name, n in wanted.items() if n)

    def told(self) -> str:
        """In words."""
        parts = [f"{self.num_gpus:g} GPU"] if self.num_gpus else []
        parts += [f"{self.num_cpus:g} CPU"]
        parts += [f"{self.memory / _GIB:g} GB"] if self.memory else []
        return ", ".join(parts)


class Cluster:
    """A connection to the cluster of `[execution.ray]`.

    Raises UserError for an address where no cluster answers, a cluster of another version of Ray, and
    resources that no machine has.
    """

    def __init__(self, config: RayConfig) -> None:
        self.ray, self.config = library(), config
        # Whoever has connected this process, a notebook say, keeps the connection.
        self.ours = not self.ray.is_initialized()
        if self.ours:
            self._connect()
        try:
            machines = self.machines()
            self.resources = self._resources(machines)
            self.slots = config.slots or self._fitting(machines)
        except BaseException:
            self.disconnect()
            raise

    def _connect(self) -> None:
        address = self.config.address
        if address not in (None, "auto"):
            _reach(str(address), self.config.connect_s)
        quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
        quiet |= {"include_dashboard": False} if address is None else {}
        # A cluster under load may fail to start what serves a client, for which it allows itself 30 s.
        tries = _CLIENT_TRIES if str(address).startswith("ray://") else 1
        while True:
            tries -= 1
            try:
                self.ray.init(address=address or "local", namespace="nncift", **quiet)
                return
            except (
                ConnectionError,
                TimeoutError,
                RuntimeError,
                ValueError,
                self.ray.exceptions.RayError,
            ) as e:
                # Ray raises RuntimeError for another version and ValueError for what is no cluster.
                self.ray.shutdown()
                if tries == 0 or "client server failed" not in str(e):
                    raise self._unreached(e) from None

    def _unreached(self, e: Exception) -> UserError:
        address = self.config.address
        return UserError(
            f"no Ray cluster at {address or 'this machine'}: {' '.join(str(e).split())[:300]}",
            field=_FIELD,
            mend="Give what `ray start` or `ray status` shows; Ray's version must be the same, and "
            "its token where the cluster asks for one (docs/scale.md).",
        )

    def machines(self) -> list[dict[str, Any]]:
        """Ray's records of the machines that live."""
        return [n for n in self.ray.nodes() if n["Alive"]]

    def _resources(self, machines: list[dict[str, Any]]) -> Resources:
        c, gpus = self.config, self.config.num_gpus
        if gpus == "auto":
            gpus = 1.0 if any(n["Resources"].get("GPU", 0) >= 1 for n in machines) else 0.0
        memory = None if c.memory_gb is None else int(c.memory_gb * _GIB)
        return Resources(float(gpus), c.num_cpus, memory)

    def _fitting(self, machines: list[dict[str, Any]]) -> int:
        found = sum(self.resources.slots_on(n["Resources"]) for n in machines)
        if found:
            return found
        most = {name: max(n["Resources"].get(name, 0) for n in machines) for name in ("GPU", "CPU", "memory")}
        raise UserError(
            f"no machine of the Ray cluster has {self.resources.told()} for one slot (the most: "
            f"{most['GPU']:g} GPU, {most['CPU']:g} CPU, {most['memory'] / _GIB:.1f} GB)",
            field="execution.ray",
            mend="Ask for less per slot, or set slots to wait for machines that come later.",
        )

    def actor(self, number: int) -> Any:
        """A new actor for slot `number`; Ray places it once its resources are free."""
        from nncift_core.execution.ray_server import Server

        # Two calls at once: one computes, the other is asked how far it is.
        options = {"max_concurrency": 2, "max_restarts": 0, "scheduling_strategy": "SPREAD"}
        return self.ray.remote(Server).options(**options, **self.resources.options()).remote(number)

    def disconnect(self) -> None:
        """Leave the cluster. One that was started for this run ends; any other goes on."""
        if self.ours and self.ray.is_initialized():
            self.ray.shutdown()


def _reach(address: str, seconds: float) -> None:
    """Raise UserError where nobody listens: Ray itself would try for minutes."""
    url = urlsplit(address if "://" in address else f"//{address}")
    try:
        with socket.create_connection((url.hostname or "", url.port or 0), timeout=seconds):
            pass
    except OSError as e:
        raise UserError(
            f"no Ray cluster at {address}: {e.strerror or e}",
            field=_FIELD,
            mend="Give the address that `ray start` or `ray status` shows.",
        ) from None
