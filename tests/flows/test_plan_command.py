"""A forecast at the terminal, the run that follows it, and how good it was."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from conftest import Project


def test_wrong_numbers_are_refused(offline_project: Project) -> None:
    p = offline_project
    done = p.call("plan", "job.toml", "--price-per-hour", "-1", check=2)
    assert "--price-per-hour" in done.stderr and "Traceback" not in done.stderr
    assert "--warn-hours" in p.call("plan", "job.toml", "--warn-hours", "nan", check=2).stderr


def test_a_plan_without_a_measurement_says_how_to_get_one(offline_project: Project) -> None:
    p = offline_project
    done = p.call("plan", "job.toml", "--workspace", str(p.workspace))
    assert "--calibrate" in done.stdout
    assert not p.workspace.exists()


@pytest.mark.heavy
def test_a_forecast_stands_beside_what_the_run_took(make_project: Callable[[str], Project]) -> None:
    p = make_project("forecast")
    where = ("--workspace", str(p.workspace))
    done = p.call("plan", "job.toml", *where, "--calibrate", "--json")
    assert "calibrate: embed" in done.stderr
    told = json.loads(done.stdout)["forecast"]
    shown = p.call("run", "job.toml", *where, "--quiet").stdout
    assert "forecast" in shown and "took" in shown
    found = {r["stage"]: r for r in p.query("SELECT * FROM forecast")}
    costs = {c["stage"]: c for c in p.query("SELECT * FROM costs")}
    assert found["embed"]["forecast_items"] == found["embed"]["computed"] == costs["embed"]["items"]
    assert found["embed"]["seconds"] == costs["embed"]["seconds"]
    assert found["all"]["forecast_seconds"] == told["seconds_left"]
    assert found["all"]["seconds"] >= sum(c["seconds"] for c in costs.values()) - 0.01
    assert found["all"]["disk_mb"] > 0 and found["all"]["run_id"] == told["run_id"]
    # Everything is there now: by recorded costs nothing but the report is left.
    again = json.loads(p.call("plan", "job.toml", *where, "--json").stdout)["forecast"]
    assert again["source"] == "recorded costs"
    assert {s["stage"] for s in again["stages"] if s["left"]} <= {"report"}
    assert again["seconds_left"] < again["seconds"]
    # A second attempt had no forecast of its own.
    p.call("run", "job.toml", *where, "--quiet")
    assert {r["attempt"] for r in p.query("SELECT attempt FROM forecast")} == {1}
