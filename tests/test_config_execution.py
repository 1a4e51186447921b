"""`[execution]`: where shards run."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from nncift_core.config import Config, parse_config, run_key
from nncift_core.errors import UserError
from nncift_core.execution.pool import DevicePool, leave_pools, pool_of
from nncift_core.pipeline.inputs import check_devices, check_teacher


def job(execution: dict[str, Any], **sections: Any) -> Config:
    return parse_config(
        {"pool": {"source": "builtin:pool"}, "target": {"source": "builtin:target"}, "execution": execution}
        | sections
    )


@pytest.mark.parametrize(
    ("execution", "field", "told"),
    [
        ({"runner": "slurm"}, "execution.runner", "'local', 'ray' or 'prefect'"),
        ({"ray": {"slots": 2}}, "execution", 'needs runner = "ray"'),
        ({"runner": "ray", "prefect": {"slots": 2}}, "execution", 'needs runner = "prefect"'),
        ({"runner": "ray", "devices": ["cuda:0"]}, "execution", 'leave it out with runner = "ray"'),
        ({"runner": "ray", "ray": {"address": "head"}}, "execution.ray.address", "HOST:PORT"),
        ({"runner": "ray", "ray": {"address": "ray://:1"}}, "execution.ray.address", "HOST:PORT"),
        ({"runner": "ray", "ray": {"num_gpus": 1.5}}, "execution.ray.num_gpus", "whole number"),
        ({"runner": "ray", "ray": {"gpus": 1}}, "execution.ray.gpus", "num_gpus"),
        ({"runner": "prefect", "prefect": {"deployment": "x"}}, "execution.prefect.deployment", "FLOW/"),
    ],
)
def test_what_cannot_be_meant_is_named(execution: dict[str, Any], field: str, told: str) -> None:
    with pytest.raises(UserError) as e:
        job(execution)
    assert (e.value.field or "").startswith(field) and told in str(e.value)


def test_where_shards_run_is_no_part_of_a_run() -> None:
    keys = {
        run_key(job(execution), {}, {})
        for execution in (
            {},
            {"runner": "ray", "ray": {"address": "ray://head:10001", "num_gpus": 0.5, "slots": 4}},
            {"runner": "prefect", "prefect": {"slots": 9}},
        )
    }
    assert len(keys) == 1


def test_devices_of_other_machines_are_not_looked_for_here() -> None:
    gpu = {"language_model": {"model": "builtin", "device": "cuda:7", "quantization": "4bit"}}
    with pytest.raises(UserError, match="no device"):
        check_devices(job({}, **gpu))
    elsewhere = job({"runner": "prefect"}, **gpu)
    check_devices(elsewhere)
    check_teacher(elsewhere, fetch=True)


def test_a_training_on_several_gpus_is_refused_on_a_cluster() -> None:
    with pytest.raises(UserError, match="finetune.devices"):
        check_devices(job({"runner": "ray"}, finetune={"devices": 2}))


SPREAD = {"language_model": {"model": "builtin", "devices": 2}}


def test_a_teacher_takes_devices_of_execution_in_order() -> None:
    check_devices(job({"devices": ["cpu", "cpu", "cpu"]}, **SPREAD))
    check_teacher(job({"devices": ["cpu", "cpu"]}, **SPREAD), fetch=True)
    with pytest.raises(UserError, match="takes 2 devices, and there is only cpu") as e:
        check_devices(job({"devices": ["cpu"]}, **SPREAD))
    assert e.value.field == "language_model.devices"
    six = {"language_model": {"model": "builtin", "devices": 6}}
    with pytest.raises(UserError, match="5 blocks, too few for 6 devices"):
        check_teacher(job({"devices": ["cpu"] * 6}, **six), fetch=True)
    with pytest.raises(UserError, match="5 blocks, too few for 6 devices"):
        check_teacher(job({"runner": "ray"}, **six), fetch=True)


@pytest.mark.parametrize(
    ("section", "told"),
    [
        ({"devices": 0}, "greater than or equal to 1"),
        ({"devices": 65}, "less than or equal to 64"),
        ({"devices": 2, "device": "cuda:1"}, "leave out device"),
    ],
)
def test_devices_of_a_teacher_that_cannot_be_meant_are_named(section: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told) as e:
        job({}, language_model=section)
    assert (e.value.field or "").startswith("language_model")


def test_over_how_many_devices_a_teacher_lies_is_no_part_of_a_run() -> None:
    assert run_key(job({}), {}, {}) == run_key(job({}, **SPREAD), {}, {})


@pytest.mark.parametrize("gpus", [0, 0.5, 1])
def test_a_slot_of_a_cluster_has_a_gpu_for_each_device_of_the_teacher(gpus: float) -> None:
    assert job({"runner": "ray"}, **SPREAD).execution.cluster.for_teacher(2).num_gpus == 2
    assert job({"runner": "ray"}).execution.cluster.for_teacher(1).num_gpus == "auto"
    more = job({"runner": "ray", "ray": {"num_gpus": 4}}, **SPREAD).execution.cluster
    assert more.for_teacher(2).num_gpus == 4
    with pytest.raises(UserError, match="num_gpus = .* is less than language_model.devices = 2"):
        job({"runner": "ray", "ray": {"num_gpus": gpus}}, **SPREAD)


@pytest.mark.parametrize(
    ("given", "cuda", "expected"),
    [
        (["4", "6"], True, ("cuda:0", "cuda:1")),
        (["4"], True, ("cuda:0",)),
        ([], True, ("cpu",)),
        (["0", "1"], False, ("cpu", "cpu")),
        ([], False, ("cpu",)),
    ],
)
def test_an_actor_uses_all_gpus_that_ray_gave_it(
    given: list[str], cuda: bool, expected: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    from nncift_core.execution.ray_server import devices

    ray: Any = ModuleType("ray")
    ray.get_runtime_context = lambda: SimpleNamespace(get_accelerator_ids=lambda: {"GPU": given})
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setattr("torch.cuda.is_available", lambda: cuda)
    assert devices() == expected


def test_places_for_workers_elsewhere_compute_nothing_here() -> None:
    pool = pool_of(job({"runner": "prefect", "prefect": {"slots": 3}}))
    assert isinstance(pool, DevicePool) and len(pool.slots) == 3
    assert pool.where == "prefect: 3 x compute-shards/shards" and pool.pids() == []
    leave_pools()


def test_cpu_slots_share_the_cores(tmp_path: Path) -> None:
    from nncift_core.devices import usable_cores

    assert DevicePool(["cpu"], "process")._threads is None
    assert DevicePool(["cpu", "cpu"], "process")._threads == max(1, usable_cores() // 2)
