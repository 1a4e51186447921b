"""The section of a config file that says where shards run: this machine's devices, a Ray cluster, or
Prefect workers."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from nncift_core.config_sections import Section


class RayConfig(Section):
    """`[execution.ray]`: the cluster of `execution.runner = "ray"`.

    address: of a cluster that runs: "auto" (on this machine, or as the variable RAY_ADDRESS says),
    "HOST:PORT" from one of its machines, "ray://HOST:10001" from elsewhere; unset: a cluster of this machine
    alone, which ends with the run. num_gpus ("auto": as many as `language_model.devices`, or, if that is 1,
    1 where the cluster has GPUs), num_cpus, memory_gb: what one slot reserves while the run goes on; slots:
    how many (unset: as many as fit in the cluster as it is; with a number the run waits for machines that
    come later). connect_s: seconds that the cluster may take to answer.
    """

    address: str | None = None
    num_gpus: float | Literal["auto"] = "auto"
    num_cpus: float = Field(default=1.0, gt=0)
    memory_gb: float | None = Field(default=None, gt=0)
    slots: int | None = Field(default=None, ge=1, le=10_000)
    connect_s: float = Field(default=20.0, gt=0, le=600)

    @field_validator("num_gpus", mode="after")
    @classmethod
    def _whole_or_part(cls, value: float | str) -> float | str:
        if not isinstance(value, str) and (value < 0 or (value > 1 and value != int(value))):
            raise ValueError("must be a part of one GPU (0.5), or a whole number of them")
        return value

    def for_teacher(self, devices: int) -> RayConfig:
        """The section with the GPUs of a slot where `language_model.devices` is `devices`."""
        if devices == 1 or self.num_gpus != "auto":
            return self
        return self.model_copy(update={"num_gpus": float(devices)})

    @field_validator("address", mode="after")
    @classmethod
    def _is_address(cls, value: str | None) -> str | None:
        if value is None or value == "auto":
            return value
        _, _, port = value.removeprefix("ray://").rpartition(":")
        if not port.isdigit() or value.removeprefix("ray://").startswith(":"):
            raise ValueError('must be "auto", "HOST:PORT" or "ray://HOST:PORT"')
        return value


class WorkersConfig(Section):
    """`[execution.prefect]`: the Prefect workers of `execution.runner = "prefect"`.

    deployment: of the flow that computes a group of shards, FLOW/NAME (`nncift deploy` makes it); slots: how
    many groups may wait or run at once: as many as there are workers.
    """

    deployment: str = "compute-shards/shards"
    slots: int = Field(default=4, ge=1, le=1_000)

    @field_validator("deployment", mode="after")
    @classmethod
    def _is_deployment(cls, value: str) -> str:
        flow, _, name = value.partition("/")
        if not flow or not name:
            raise ValueError('must be FLOW/DEPLOYMENT, such as "compute-shards/shards"')
        return value


class ExecutionConfig(Section):
    """`[execution]`: where shards run; never changes a value.

    runner: "local" for this machine's devices, "ray" for the slots of a Ray cluster (`[execution.ray]`),
    "prefect" for Prefect workers on any number of machines (`[execution.prefect]`).
    devices: "auto" (every GPU, else the CPU) or a list like ["cuda:0", "cuda:1"], one slot each; isolation:
    "process" gives every slot a worker process that owns its device, "thread" computes in the flow's own;
    retries: more tries of a shard that failed for a reason that may pass; retry_seconds: before the first of
    them, doubled each time, give or take a half; hang_after: seconds without progress after which a worker
    process counts as hanging and is ended.
    """

    runner: Literal["local", "ray", "prefect"] = "local"
    devices: Literal["auto"] | list[str] = "auto"
    isolation: Literal["process", "thread"] = "process"
    retries: int = Field(default=2, ge=0, le=20)
    retry_seconds: float = Field(default=2.0, ge=0, le=600)
    hang_after: float = Field(default=900.0, gt=0)
    ray: RayConfig | None = None
    prefect: WorkersConfig | None = None

    @field_validator("devices", mode="before")
    @classmethod
    def _devices(cls, value: object) -> object:
        named = isinstance(value, list) and value and all(isinstance(v, str) for v in value)
        if value != "auto" and not named:
            raise ValueError('must be "auto" or a list of devices such as ["cuda:0", "cuda:1"]')
        return value

    @model_validator(mode="after")
    def _of_the_runner(self) -> ExecutionConfig:
        if self.runner != "local" and self.devices != "auto":
            raise ValueError(
                f'devices names devices of this machine: leave it out with runner = "{self.runner}"'
            )
        for runner, section in (("ray", self.ray), ("prefect", self.prefect)):
            if self.runner != runner and section is not None:
                raise ValueError(
                    f'[execution.{runner}] needs runner = "{runner}": set it, or remove the section'
                )
        return self

    @property
    def slots(self) -> int | None:
        """Slots on other machines, as far as the config says how many; None for this machine's devices."""
        return {"local": None, "ray": self.cluster.slots, "prefect": self.workers.slots}[self.runner]

    @property
    def cluster(self) -> RayConfig:
        """`[execution.ray]`, or its defaults."""
        return self.ray or RayConfig()

    @property
    def workers(self) -> WorkersConfig:
        """`[execution.prefect]`, or its defaults."""
        return self.prefect or WorkersConfig()
