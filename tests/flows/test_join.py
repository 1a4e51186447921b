"""`nncift join`: one machine takes part in the trainings of a job on another one."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Project, free_port

from nncift_core.store.workspace import Workspace

TRAINING: dict[str, Any] = {"epochs": 1, "batch_size": 4, "rank": 4}


def over_two(p: Project, **finetune: Any) -> None:
    """A job whose one model is trained by two hosts."""
    meeting = {"hosts": 2, "rendezvous": f"127.0.0.1:{free_port()}"}
    p.configure(finetune={**TRAINING, **meeting, **finetune})


def joining(p: Project, *args: str) -> subprocess.Popen[str]:
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    command = p.command("join", "job.toml", "--workspace", str(p.workspace), *args)
    return subprocess.Popen(command, cwd=p.folder, env=p.env, **pipes)


def test_what_nobody_could_join_is_told(offline_project: Project) -> None:
    p = offline_project
    at = ("--workspace", str(p.workspace))
    over_two(p)
    assert "no workspace here" in p.call("join", "job.toml", *at, check=2).stderr
    Workspace.create(p.workspace)
    p.configure(finetune=TRAINING)
    done = p.call("join", "job.toml", *at, check=2)
    assert done.stderr.count("\n") == 1 and "finetune.hosts: trainings by this config run on" in done.stderr
    p.configure()
    assert "finetune: is missing" in p.call("join", "job.toml", *at, check=2).stderr
    p.configure(finetune={**TRAINING, "hosts": 2})
    assert 'rendezvous = "HOST:PORT"' in p.call("join", "job.toml", *at, check=2).stderr


def test_ctrl_c_ends_the_waiting(offline_project: Project) -> None:
    over_two(offline_project)
    Workspace.create(offline_project.workspace)
    process = joining(offline_project)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == f"waiting for trainings of {offline_project.workspace}\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130 and err.startswith("nncift: interrupted")


@pytest.mark.heavy
def test_a_run_and_a_joined_host_train_one_model(make_project: Callable[[str], Project]) -> None:
    p = make_project("two")
    over_two(p)
    Workspace.create(p.workspace)
    process = joining(p, "--once")
    try:
        result = p.run()
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0 and err == ""
    assert "host 2 of 2" in out and "is done: 2 steps" in out.splitlines()[-1]
    assert p.costs(result)["fine-tune"]["computed"] == 6
    assert not list(Path(p.workspace, "tmp").glob("group-*"))
    # Hosts do not change what is computed: without the other one, its model is found.
    p.configure(finetune=TRAINING)
    again = p.run()
    assert again["run_id"] == result["run_id"] and p.costs(again)["fine-tune"]["computed"] == 0
