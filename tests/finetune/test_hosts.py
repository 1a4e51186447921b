"""One training over two hosts, that is over two real launchers on this machine's loopback."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from conftest import free_port
from finetune.small import ROWS, TINY, Trained, gap, job, same, tuned

from nncift_core import __version__
from nncift_core.config import Config
from nncift_core.errors import RunError, UserError
from nncift_core.finetune import Diverged, FineTuned, fine_tune, fine_tune_key
from nncift_core.finetune.checkpoints import State, spread
from nncift_core.finetune.hosts import hosts_launcher
from nncift_core.finetune.invitation import Invitation, invitation, invited_config
from nncift_core.finetune.meeting import Broken, Guest, Meeting, find_meeting
from nncift_core.finetune.world import World
from nncift_core.pipeline.downstream import check_student
from nncift_core.pipeline.joining import inviting, join
from nncift_core.store.workspace import Workspace

TESTS = Path(__file__).parents[1]
# A guest: `nncift join` without its command line, which the tests of flows have.
GUEST = """
import json, sys
from finetune.small import job
from nncift_core.pipeline.joining import join
from nncift_core.store.workspace import Workspace
own, ws = job(**json.loads(sys.argv[1])), Workspace.open(sys.argv[2])
join(own, ws, lambda line: print(line, flush=True), once=True)
"""


def together(host: str = "127.0.0.1", **finetune: Any) -> Config:
    """A job of two hosts that meet on this machine.

    The launcher numbers hosts by address, and a guest is 127.0.0.1: with "localhost" it comes first.
    """
    return job(**{"hosts": 2, "rendezvous": f"{host}:{free_port()}"} | finetune)


@contextmanager
def guest(ws: Workspace, config: Config) -> Iterator[subprocess.Popen[str]]:
    """Another host, in a process group of its own; killed at the end if it is still there."""
    assert config.finetune is not None
    own = config.finetune.model_dump(mode="json", exclude_unset=True)
    env = os.environ | {"PYTHONPATH": f"{TESTS}:{TESTS.parent}", "TORCH_CPP_LOG_LEVEL": "FATAL"}
    command = [sys.executable, "-c", GUEST, json.dumps(own), str(ws.root)]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, env=env, start_new_session=True, **pipes)
    try:
        yield process
    finally:
        for one in descendants(process):
            one.kill()
        process.kill()
        process.communicate()


def descendants(process: subprocess.Popen[str]) -> list[psutil.Process]:
    try:
        return list(psutil.Process(process.pid).children(recursive=True))
    except psutil.NoSuchProcess:
        return []


def trainers() -> list[psutil.Process]:
    """Launchers and trainings below this process."""
    found = []
    for p in psutil.Process().children(recursive=True):
        try:
            found += [p] if any("nncift_core.finetune" in part for part in p.cmdline()[:12]) else []
        except psutil.NoSuchProcess:
            continue
    return found


def over_two(
    folder: Path, ws: Workspace, config: Config, **kw: Any
) -> tuple[FineTuned, dict[str, torch.Tensor], str]:
    """What two hosts trained, and what the other one said."""
    with guest(ws, config) as other:
        done, weights = tuned(folder, config, invite=inviting(ws), **kw)
        out, err = other.communicate(timeout=60)
    assert other.returncode == 0, err
    return done, weights, out


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    return Workspace.create(tmp_path / "ws")


@pytest.mark.heavy
def test_two_hosts_train_the_adapter_that_one_does(trained: Trained, tmp_path: Path, ws: Workspace) -> None:
    steps: list[tuple[int, int]] = []
    first, weights, said = over_two(
        tmp_path / "a", ws, together(), progress=lambda a, b: steps.append((a, b))
    )
    assert gap(weights, trained[1]) < 1e-5
    assert first.losses == pytest.approx(trained[0].losses, abs=1e-6)
    assert replace(first, losses=trained[0].losses) == trained[0]
    # While hosts are waited for it shows life.
    assert [s for s in steps if s != (0, 0)] == [(k, 6) for k in range(1, 7)]
    told = said.splitlines()
    assert "host 2 of 2, 1 process on cpu, student tiny-lm" in said and "10 rows" in said
    assert "is done: 6 steps, loss" in told[-1]
    # Its own host alone writes, and nothing of the meeting stays.
    assert list(ws.tmp_dir.iterdir()) == [] and trainers() == []
    second, again, _ = over_two(tmp_path / "b", ws, together("localhost"))
    assert same(weights, again) and second.losses == first.losses


@pytest.mark.heavy
def test_a_host_that_dies_ends_the_training_and_the_next_start_goes_on(tmp_path: Path, ws: Workspace) -> None:
    kept, settings = tmp_path / "kept", {"epochs": 4, "checkpoint_minutes": 1e-9, "dropout": 0.1}
    config = together("localhost", **settings)
    whole = over_two(tmp_path / "whole", ws, config)
    killed: list[int] = []
    with guest(ws, config) as other:

        def kill(done: int, _total: int) -> None:
            if done == 5 and not killed:
                for one in (psutil.Process(other.pid), *descendants(other)):
                    killed.append(one.pid)
                    one.kill()

        with pytest.raises(RunError, match="the training lost a host: .* does not answer any more"):
            tuned(tmp_path / "a", config, invite=inviting(ws), progress=kill, checkpoints=kept)
    assert len(killed) >= 3 and (kept / "state.safetensors").is_file()
    assert list(ws.tmp_dir.iterdir()) == [] and trainers() == []
    done, weights, _ = over_two(tmp_path / "b", ws, config, checkpoints=kept)
    assert 5 <= done.resumed_at < 12 and done.steps == 12
    assert same(weights, whole[1]) and done.losses == whole[0].losses


@pytest.mark.heavy
def test_a_host_that_is_stopped_says_so_and_leaves_nothing(tmp_path: Path, ws: Workspace) -> None:
    config = together(epochs=100_000)
    with guest(ws, config) as other:
        below: list[psutil.Process] = []

        def stop(done: int, _total: int) -> None:
            if done == 2:
                below.extend(descendants(other))
                other.send_signal(signal.SIGINT)

        with pytest.raises(RunError, match="the host .* ended its part: interrupted"):
            tuned(tmp_path / "a", config, invite=inviting(ws), progress=stop)
        other.communicate(timeout=60)
        assert other.returncode != 0 and len(below) >= 2
        assert psutil.wait_procs(below, timeout=20)[1] == []
    assert trainers() == []


@pytest.mark.heavy
def test_a_job_that_is_stopped_ends_the_others(tmp_path: Path, ws: Workspace) -> None:
    config = together(epochs=100_000)
    with guest(ws, config) as other:
        below: list[psutil.Process] = []

        def stop(done: int, _total: int) -> None:
            if done == 2:
                below.extend(descendants(other))
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            tuned(tmp_path / "a", config, invite=inviting(ws), progress=stop)
        _, err = other.communicate(timeout=60)
        assert "RunError" in err and "the job's host has ended the training: interrupted" in err
        assert len(below) >= 2 and psutil.wait_procs(below, timeout=20)[1] == []
    assert trainers() == [] and list(ws.tmp_dir.iterdir()) == []


@pytest.mark.heavy
def test_a_process_of_this_host_that_dies_is_not_blamed_on_the_other(tmp_path: Path, ws: Workspace) -> None:
    config = together(epochs=100_000)
    with guest(ws, config) as other:

        def kill(done: int, _total: int) -> None:
            if done == 2:
                trainer = [p for p in trainers() if p.children() == []]
                theirs = {p.pid for p in descendants(other)}
                (mine,) = (p for p in trainer if p.pid not in theirs and p.pid != other.pid)
                mine.kill()

        with pytest.raises(RunError, match="a process of the training ended with code 1"):
            tuned(tmp_path / "a", config, invite=inviting(ws), progress=kill)
        _, err = other.communicate(timeout=60)
    assert "RunError" in err and trainers() == []


@pytest.mark.heavy
def test_an_error_of_the_training_comes_through_on_both_sides(tmp_path: Path, ws: Workspace) -> None:
    config = together(learning_rate=1e30)
    with guest(ws, config) as other:
        with pytest.raises(Diverged, match="learning_rate"):
            tuned(tmp_path / "a", config, invite=inviting(ws))
        _, err = other.communicate(timeout=60)
    assert "not a finite number" in err.splitlines()[-1]


def test_hosts_that_do_not_come_are_waited_for_so_long(tmp_path: Path, ws: Workspace) -> None:
    waited: list[tuple[int, int]] = []
    config = together(hosts=3, join_timeout_s=3)
    begun = time.monotonic()
    with pytest.raises(RunError, match="1 of 3 hosts came to 127.0.0.1:[0-9]+ within 3 s"):
        tuned(tmp_path / "a", config, invite=inviting(ws), progress=lambda a, b: waited.append((a, b)))
    assert time.monotonic() - begun < 20 and set(waited) == {(0, 0)}
    assert trainers() == [] and list(ws.tmp_dir.iterdir()) == []


def test_a_launcher_that_waits_ends_with_its_parent() -> None:
    """As happens when the parent is killed: stdin is at its end from the start here."""
    asked = invitation(together(), ROWS, 0, "cpu")
    with Meeting(asked) as meeting:
        command = [*hosts_launcher(asked, "127.0.0.1"), "spec", "result"]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, timeout=100)
        assert done.returncode == 1 and not meeting.complete


def test_a_meeting_knows_who_came_who_refused_and_who_left(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = invitation(together(join_timeout_s=1), ROWS, 0, "cpu")
    assert find_meeting(asked) is None
    with Meeting(asked) as meeting:
        assert find_meeting(replace(asked, attempt="another start")) is None
        first, second = find_meeting(asked), find_meeting(asked)
        assert first is not None and second is not None
        first.refuse("torch is 1 here and 2 there")
        meeting._begun -= 2
        with pytest.raises(RunError, match=r"1 of 2 hosts .*; torch is 1 here and 2 there"):
            meeting.watch()
        assert first.come() == 2 and second.come() is None
        meeting.watch()
        first.watch()
        monkeypatch.setattr("nncift_core.finetune.meeting._SILENT_S", -1.0)
        with pytest.raises(RunError, match="has not been heard of"):
            meeting.watch()
        with pytest.raises(RunError, match="the job's host has not been heard of"):
            first.watch()
        monkeypatch.undo()
        monkeypatch.setattr("nncift_core.finetune.meeting._SHOWS_S", 0.0)
        assert first.blame() is None
        meeting.watch()
        with pytest.raises(RunError, match="a process on the host .* broke"):
            meeting.watch()
        first.leave("no memory")
        with pytest.raises(RunError, match="ended its part: no memory"):
            meeting.watch()


def test_a_guest_is_told_why_the_job_gave_up() -> None:
    asked = invitation(together(), ROWS, 0, "cpu")
    with pytest.raises(RunError, match="the disk is full"), Meeting(asked):
        guest_here = find_meeting(asked)
        assert guest_here is not None and guest_here.come() == 2
        raise RunError("the disk is full")
    with pytest.raises(RunError, match="the job's host has ended the training: the disk is full"):
        guest_here.watch()


def test_an_end_without_a_reason_is_heard_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nncift_core.finetune.meeting._BEAT_S", 0.05)
    asked = invitation(together(), ROWS, 0, "cpu")
    with pytest.raises(Broken), Meeting(asked):
        guest_here = find_meeting(asked)
        assert guest_here is not None and guest_here.come() == 2
        raise Broken("a process died")
    deadline = time.monotonic() + 20
    with pytest.raises(RunError, match="the job's host has ended the training$"):
        while time.monotonic() < deadline:
            guest_here.watch()
            time.sleep(0.05)


def test_a_job_that_freezes_holds_no_guest_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its store takes connections and never answers; torch's client waits for a quarter of an hour."""
    monkeypatch.setattr("nncift_core.finetune.meeting._WORD_S", 0.5)
    frozen, free = threading.Event(), threading.Event()

    class Frozen:
        """A link whose every word waits, once the other side stands still."""

        def add(self, key: str, amount: int) -> int:
            return 1

        def check(self, keys: list[str]) -> bool:
            return False

        def set(self, key: str, text: str) -> None:
            if frozen.is_set():
                free.wait(60)

    guest_here = Guest(Frozen(), 2)
    assert guest_here.come() == 2
    frozen.set()
    begun = time.monotonic()
    guest_here.leave("no memory")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        assert find_meeting(invitation(together(rendezvous=f"127.0.0.1:{port}"), ROWS, 0, "cpu")) is None
    assert time.monotonic() - begun < 20
    free.set()


def test_a_meeting_that_ends_before_a_host_comes_ends_nothing_else(
    ws: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = invitation(together(), ROWS, 0, "cpu")
    said: list[str] = []
    meeting = Meeting(asked)
    meeting.__enter__()

    def late(config: Config, asked: Invitation) -> Config:
        del meeting._store
        return config

    def stop(_seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("nncift_core.pipeline.joining.invited_config", late)
    monkeypatch.setattr("nncift_core.pipeline.joining.time.sleep", stop)
    with inviting(ws)(asked), pytest.raises(KeyboardInterrupt):
        join(together(), ws, said.append)
    assert "was over before this host came" in said[0] and said[1].startswith("waiting for trainings")


def test_a_workspace_that_is_out_of_reach_is_waited_for(
    ws: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    looks = iter([None, UserError("away"), UserError("away"), None, KeyboardInterrupt()])

    def look(self: Workspace) -> None:
        if (found := next(looks)) is not None:
            raise found

    monkeypatch.setattr(Workspace, "look", look)
    monkeypatch.setattr("nncift_core.pipeline.joining.time.sleep", lambda seconds: None)
    with pytest.raises(KeyboardInterrupt):
        join(together(), ws, said.append)
    assert len(said) == 2 and said[0].startswith("the workspace is out of reach: away")


@pytest.mark.parametrize(
    ("host", "taken", "why"), [("127.0.0.1", True, "is taken"), ("192.0.2.7", False, "no address of this")]
)
def test_a_place_that_is_not_here_is_refused(
    tmp_path: Path, ws: Workspace, host: str, taken: bool, why: str
) -> None:
    port = free_port()
    other = Meeting(invitation(together(rendezvous=f"127.0.0.1:{port}"), ROWS, 1, "cpu"))
    with other if taken else ws.marked(), pytest.raises(UserError, match=f"cannot meet at .*{why}") as e:
        tuned(tmp_path / "a", together(rendezvous=f"{host}:{port}"), invite=inviting(ws))
    assert e.value.field == "finetune.rendezvous" and not list(ws.tmp_dir.glob("group-*"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nncift": "0.0.1"}, f"nncift is {__version__} on .* and 0.0.1 on job-host"),
        ({"torch": "1.0"}, r"torch is 2\..* and 1.0 on job-host"),
        ({"student_key": "0" * 64, "student": "other-lm"}, "tiny-lm .* is not the job's, other-lm"),
    ],
)
def test_a_host_that_would_train_something_else_refuses(
    ws: Workspace, change: dict[str, str], message: str
) -> None:
    asked = replace(invitation(together(), ROWS, 0, "cpu"), host="job-host", **change)
    said: list[str] = []
    with inviting(ws)(asked), Meeting(asked) as meeting:
        with pytest.raises(UserError, match=message):
            join(together(), ws, said.append)
        meeting._begun -= 1000
        with pytest.raises(RunError, match=f"(?s)1 of 2 hosts.*{message}"):
            meeting.watch()
    assert said == []


def test_a_host_has_its_own_place_for_the_student_and_the_jobs_settings(tmp_path: Path) -> None:
    asked = invitation(together(rank=3, epochs=1, batch_tokens=512), ROWS, 0, "cpu")
    assert str(TINY) not in json.dumps(asked.to_json())
    found = Invitation.from_json(json.loads(json.dumps(asked.to_json())))
    assert found == asked and (found.hosts, found.devices) == (2, 1)
    own = job(tmp_path, teacher="builtin", model=str(TINY), dtype="float32", hosts=2, rendezvous="h:1")
    config = invited_config(own, asked)
    assert config.finetune is not None
    assert (config.finetune.rank, config.finetune.epochs, config.finetune.batch_tokens) == (3, 1, 512)
    assert config.finetune.model == str(TINY) and config.finetune.rendezvous == asked.finetune["rendezvous"]
    assert fine_tune_key(config, ROWS.content_hashes, 0) == asked.key


def test_what_no_one_waits_at_is_passed_over(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that was killed leaves its document."""
    asked = invitation(together(), ROWS, 0, "cpu")
    said: list[str] = []

    def stop(_seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("nncift_core.pipeline.joining.time.sleep", stop)
    with inviting(ws)(asked), pytest.raises(KeyboardInterrupt):
        join(together(), ws, said.append)
    assert said == [f"waiting for trainings of {ws.address}"]
    ws.join_file("x").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match="no invitation of this version"):
        join(together(), ws, said.append)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"hosts": 2}, 'need a place to meet: set rendezvous = "HOST:PORT"'),
    ({"rendezvous": "a:1"}, "set `hosts` too, or remove it"),
    ({"hosts": 2, "rendezvous": "a"}, 'rendezvous is "HOST:PORT"'),
    ({"hosts": 2, "rendezvous": "tcp://a:1"}, 'rendezvous is "HOST:PORT"'),
    ({"hosts": 2, "rendezvous": "a:70000"}, 'rendezvous is "HOST:PORT"'),
    ({"hosts": 0}, "greater than or equal to 1"),
    ({"hosts": 65, "rendezvous": "a:1"}, "less than or equal to 64"),
    ({"hosts": 2, "rendezvous": "a:1", "join_timeout_s": 0}, "greater than or equal to 1"),
]


@pytest.mark.parametrize(("keys", "message"), WRONG)
def test_wrong_settings_are_told(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match="finetune") as e:
        job(**keys)
    assert message in str(e.value)


def test_hosts_are_not_in_the_key_but_where_they_draw_other_masks() -> None:
    def key(**finetune: Any) -> str:
        return fine_tune_key(job(**finetune), ROWS.content_hashes, 0)

    several = {"hosts": 2, "rendezvous": "a:1", "join_timeout_s": 5}
    assert key() == key(**several)
    assert key(dropout=0.1) != key(dropout=0.1, **several)
    assert key(dropout=0.1, **several) == key(dropout=0.1, **several | {"rendezvous": "b:2"})


def test_what_cannot_be_is_refused_before_it_starts(tmp_path: Path, ws: Workspace) -> None:
    with pytest.raises(UserError, match="trainings by this config run on one host"):
        join(job(), ws, print)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="GPUs of NVIDIA or on CPUs"):
        fine_tune(together(), ROWS, 0, "mps", tmp_path / "empty", invite=inviting(ws))
    ray = together()
    ray = ray.model_copy(update={"execution": ray.execution.model_copy(update={"runner": "ray"})})
    with pytest.raises(UserError, match='runner = "ray" gives it to another one'):
        check_student(ray, fetch=False)
    check_student(together(), fetch=False)


def test_a_state_comes_over_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer first, then the other process with what was sent; bits, shapes and dtypes stay."""
    sent: list[torch.Tensor] = []

    def send(_world: World, values: torch.Tensor) -> torch.Tensor:
        sent.append(values.clone())
        return values

    def receive(_world: World, values: torch.Tensor) -> torch.Tensor:
        found = sent.pop(0)
        assert found.shape == values.shape and found.dtype == values.dtype
        return found

    tensors = {
        "weight/a": torch.randn(3, 4),
        "exp_avg/a": torch.randn(3, 4).to(torch.bfloat16),
        "step/a": torch.tensor(7.0),
        "random/cpu": torch.get_rng_state(),
    }
    state = State(7, tensors, [0.1 + 0.2], 1 / 3, 5)
    for told in (state, None):
        monkeypatch.setattr(World, "spread", send)
        assert _equal(spread(told, World(1, 2, object(), 1), "cpu"), told)
        monkeypatch.setattr(World, "spread", receive)
        assert _equal(spread(None, World(0, 2, object(), 1), "cpu"), told) and sent == []


def _equal(a: State | None, b: State | None) -> bool:
    if a is None or b is None:
        return a is b
    plain: Callable[[State], Any] = lambda s: (s.steps, s.losses, s.loss_sum, s.loss_count)  # noqa: E731
    return plain(a) == plain(b) and same(a.tensors, b.tensors)
