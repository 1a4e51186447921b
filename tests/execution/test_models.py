"""Models that tasks share: loaded once per slot, the newest of a kind only, one task at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ORACLES

from nncift_core.config import Config, parse_config
from nncift_core.execution import models
from nncift_core.execution.job import Job
from nncift_core.execution.models import Slot, forget_models, function, language_model
from nncift_core.influence.delift import Delift
from nncift_core.language_models import language_model_key, load_language_model
from nncift_core.pipeline.problem import keys_of

ONE, OTHER = Slot(0, "cpu"), Slot(1, "cpu")


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The devices of the language models that were loaded, in order."""
    devices: list[str] = []

    def load(section: Any, device: str, base_dir: str, over: tuple[str, ...]) -> Any:
        devices.append("+".join(over) or device)
        return load_language_model(section, device, base_dir, over)

    forget_models()
    monkeypatch.setattr(models, "load_language_model", load)
    yield devices
    forget_models()


def made(folder: Path, **section: Any) -> Job:
    """A job over the small model of the reference numbers."""
    config: Config = parse_config(
        {
            "pool": {"source": "pool.jsonl"},
            "language_model": {"model": str(ORACLES / "tiny-lm"), **section},
            "influence": {"function": "delift"},
        },
        base_dir=folder,
    )
    return Job(
        workspace=str(folder / "ws"),
        config_json=config.model_dump_json(),
        base_dir=config.base_dir,
        identity=keys_of(config),
    )


def test_a_slot_has_one_language_model_and_it_is_the_jobs(tmp_path: Path, loaded: list[str]) -> None:
    job = made(tmp_path)
    with language_model(job, ONE) as (first, device):
        assert device == "cpu" and first.device == "cpu"
        assert first.key == language_model_key(job.config.language_model, job.base_dir)
    with language_model(job, ONE) as (again, _):
        assert again is first
    with language_model(job, OTHER) as (other, _):
        assert other is not first
    assert loaded == ["cpu", "cpu"]


def test_it_and_the_influence_function_take_each_others_place(tmp_path: Path, loaded: list[str]) -> None:
    job = made(tmp_path)
    with language_model(job, ONE) as (first, _):
        pass
    with function(job, ONE) as (valued, _):
        assert valued.name == "delift"
    assert len(models._MODELS) == 1
    with language_model(job, ONE) as (again, _):
        assert again is not first
    assert len(models._MODELS) == 1 and len(loaded) == 2


def test_a_named_device_has_one_model_for_all_slots_used_in_turns(tmp_path: Path, loaded: list[str]) -> None:
    job = made(tmp_path, device="cpu")
    entered = threading.Event()

    def second() -> None:
        with language_model(job, OTHER):
            entered.set()

    with language_model(job, ONE):
        thread = threading.Thread(target=second)
        thread.start()
        assert not entered.wait(0.2)
    thread.join(10)
    assert entered.is_set() and loaded == ["cpu"]


def test_a_teacher_lies_on_all_devices_of_its_slot_only_where_it_is_asked_to(
    tmp_path: Path, loaded: list[str]
) -> None:
    both = Slot(0, "cpu", ("cpu", "cpu"))
    assert ONE.devices == ("cpu",) and both.where == "cpu+cpu"
    with language_model(made(tmp_path), both) as (alone, _):
        assert not hasattr(alone.model, "_hf_hook")
    job = made(tmp_path, devices=2)
    with language_model(job, both) as (model, device):
        assert device == model.device == "cpu" and hasattr(model.model, "_hf_hook")
    assert loaded == ["cpu", "cpu+cpu"]
    with function(job, both) as (valued, _):
        assert isinstance(valued, Delift) and hasattr(valued.model.model, "_hf_hook")
