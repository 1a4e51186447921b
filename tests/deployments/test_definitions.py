"""What is deployed: the shipped definitions, a user's config and schedule in them, and their wrong inputs."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Project
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule
from prefect.events.schemas.automations import AutomationCore
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

from flows.api import reachable
from flows.definitions import FOLDER, Definition, scheduled, shipped, with_config
from flows.deploy import check_webhook
from flows.one_at_a_time import alone_in, limit_name, workspace_digest
from nncift_core.config import parse_config
from nncift_core.config_prune import parse_prune_config
from nncift_core.errors import RunError, UserError


def named(definitions: list[Definition]) -> dict[str, Definition]:
    return {d.name: d for d in definitions}


def test_shipped_definitions_are_of_flows_that_exist_and_configs_that_are_valid(tmp_path: Path) -> None:
    found = named(shipped(tmp_path / "ws"))
    assert set(found) == {"valuation", "refresh", "compare", "methods", "prune", "shards"}
    shards = found.pop("shards")
    assert (shards.entrypoint, shards.parameters) == ("flows.shard_groups.compute_shards", {})
    # Any number at once, in a pool of their own: else runs would wait for groups that wait for runs.
    assert shards.concurrency is None and shards.pool_suffix == "-shards" and shards.tags == ["nncift"]
    for d in found.values():
        assert d.pool_suffix == "" and d.concurrency is not None
        module, _, name = d.entrypoint.rpartition(".")
        flow = getattr(importlib.import_module(module), name).name
        assert flow in ("valuation", "refresh", "compare", "prune")
        parse = parse_prune_config if d.name == "prune" else parse_config
        parse(d.parameters["config"])
        assert d.parameters["workspace"] == str(tmp_path / "ws")
        assert d.concurrency["limit"] == 1
        assert d.job_variables["env"]["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == "30"
        assert d.tags == ["nncift"]
    assert parse_config(found["compare"].parameters["config"]).finetune is not None
    ((schedule, active),) = found["refresh"].schedules
    assert isinstance(schedule, CronSchedule) and schedule.cron == "0 2 * * *" and active
    assert found["valuation"].schedules == found["compare"].schedules == found["prune"].schedules == []


def test_the_config_of_a_prune_job_makes_its_deployment_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rows.jsonl").write_text("")
    (tmp_path / "jobs").mkdir()
    path = tmp_path / "jobs" / "intents.toml"
    path.write_text('[data]\nsource = "rows.jsonl"\nsplit = "train"\ntest = "test"\n')
    monkeypatch.chdir(tmp_path)
    only, shards = with_config(shipped("ws"), path)
    assert (only.name, shards.name) == ("prune", "shards")
    assert only.parameters["config"]["data"]["source"] == str(tmp_path / "rows.jsonl")
    assert only.parameters["base_dir"] == str(tmp_path / "jobs")
    parse_prune_config(only.parameters["config"])


def test_the_trigger_hears_of_its_own_workspace_only(tmp_path: Path) -> None:
    (trigger,) = named(shipped(tmp_path / "a"))["refresh"].triggers
    digest = workspace_digest(tmp_path / "a")
    assert trigger["match"] == {"prefect.resource.id": f"nncift.workspace.{digest}"}
    assert digest != workspace_digest(tmp_path / "b")
    assert trigger["name"].endswith(digest)


def test_a_workspace_has_one_limit_however_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert limit_name("ws") == limit_name(tmp_path / "ws") == limit_name("sub/../ws")
    assert str(tmp_path) not in limit_name("ws")


def test_automations_are_ones_that_prefect_understands() -> None:
    (zombies,) = yaml.safe_load((FOLDER / "automations.yaml").read_text())["automations"]
    AutomationCore.model_validate(zombies)
    (told,) = yaml.safe_load((FOLDER / "failure-notification.yaml").read_text())["automations"]
    assert set(told["trigger"]["expect"]) == {
        f"prefect.flow-run.{s}" for s in ("Failed", "Crashed", "TimedOut")
    }


def test_a_config_takes_the_place_of_the_built_in_data(offline_project: Project) -> None:
    path = offline_project.configure()
    found = named(with_config(shipped("ws"), path))
    assert found.pop("shards").parameters == {}
    assert set(found) == {"valuation", "refresh"}, "nothing to compare without [finetune]"
    for d in found.values():
        assert d.parameters["config"]["pool"]["source"] == "pool.jsonl"
        assert d.parameters["base_dir"] == str(offline_project.folder)
        parsed = parse_config(d.parameters["config"], base_dir=d.parameters["base_dir"])
        assert parsed.selection.count == 6
    offline_project.configure(finetune={"method": "lora"})
    found = named(with_config(shipped("ws"), path))
    assert found["compare"].parameters["config"]["finetune"]["method"] == "lora"
    assert "methods" not in found, "no rows are held out to compare methods on"
    assert "finetune" not in found["valuation"].parameters["config"]
    # A dtype is settled by the machine that runs, not by the one that deploys.
    assert found["compare"].parameters["config"]["language_model"]["dtype"] == "auto"


def test_data_in_the_current_directory_are_named_in_full(
    offline_project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    (offline_project.folder / "pool.jsonl").rename(here / "pool.jsonl")
    monkeypatch.chdir(here)
    config = named(with_config(shipped("ws"), offline_project.configure()))["refresh"].parameters["config"]
    assert config["pool"]["source"] == str(here / "pool.jsonl")
    assert config["target"]["source"] == "target.jsonl"


def test_another_schedule_is_of_refresh_alone() -> None:
    found = named(scheduled(shipped("ws"), "*/5 * * * *", None, "Europe/Paris"))
    ((schedule, _),) = found["refresh"].schedules
    assert isinstance(schedule, CronSchedule)
    assert (schedule.cron, schedule.timezone) == ("*/5 * * * *", "Europe/Paris")
    ((schedule, _),) = named(scheduled(shipped("ws"), None, 90, None))["refresh"].schedules
    assert isinstance(schedule, IntervalSchedule) and schedule.interval.total_seconds() == 90
    assert scheduled(shipped("ws"), None, None, None) == shipped("ws")
    assert found["valuation"].schedules == []


@pytest.mark.parametrize(
    ("given", "field"),
    [
        (("every day", None, None), "--cron"),
        (("0 2 * * *", None, "Mars/Base"), "--timezone"),
        (("0 2 * * *", 60, None), "--cron, --interval"),
        ((None, None, "UTC"), "--timezone"),
        ((None, 1e300, None), "--interval"),
    ],
)
def test_a_wrong_schedule_is_named(given: tuple[Any, Any, Any], field: str) -> None:
    with pytest.raises(UserError) as caught:
        scheduled(shipped("ws"), *given)
    assert caught.value.field == field
    assert caught.value.mend


def test_a_wrong_webhook_is_refused_without_repeating_it() -> None:
    for url in ("hooks.example.org/secret", "file:///secret", "https://", "http://[secret"):
        with pytest.raises(UserError) as caught:
            check_webhook(url)
        assert "secret" not in str(caught.value)
    check_webhook("https://hooks.example.org/secret")


def test_outside_deployments_nobody_waits(tmp_path: Path) -> None:
    """Without a server it would fail if it asked for one."""
    with (
        temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}),
        alone_in(tmp_path),
        alone_in(tmp_path),
    ):
        pass


def test_without_a_server_one_message_says_how_to_get_one(tmp_path: Path) -> None:
    with temporary_settings({PREFECT_HOME: tmp_path}, restore_defaults={PREFECT_API_URL}):
        with pytest.raises(RunError, match=r"nncift server start.*PREFECT_API_URL"), reachable():
            pass
    nobody = "http://127.0.0.1:9/api"
    with temporary_settings({PREFECT_HOME: tmp_path, PREFECT_API_URL: nobody}):
        with pytest.raises(RunError, match=f"no Prefect server answers at {nobody}"), reachable():
            pass


def test_a_wrong_config_is_refused(offline_project: Project) -> None:
    path = offline_project.configure(selection={"cuont": 3})
    with pytest.raises(UserError, match="cuont") as caught:
        with_config(shipped("ws"), path)
    assert caught.value.file == str(path)
