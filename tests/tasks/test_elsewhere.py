"""Groups that Prefect workers compute: when a worker, a machine or the server fails."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import httpx
import pytest
from prefect.states import Completed, Failed, Pending, Running, Scheduled

from flows import shard_groups
from nncift_core.errors import UserError
from nncift_core.execution.failures import ShardError, Unfit, WorkerLost, is_permanent, packed, unpacked
from nncift_core.execution.job import Job
from nncift_core.store.files import write_for
from nncift_core.store.workspace import Workspace
from tasks import elsewhere, shards
from tasks.elsewhere import Group
from tasks.running import ShardsFailed, _outcome
from tasks.shards import computed_before

SHARDS = [{"name": "block 0", "rows": [0], "missing": 1}]


class Server:
    """A Prefect server of one flow run, which is in `states` one after the other."""

    def __init__(self, *states: Any) -> None:
        self.states, self.set = list(states), list[Any]()

    def read_flow_run(self, run: Any) -> Any:
        state = self.states[0] if len(self.states) == 1 else self.states.pop(0)
        if isinstance(state, Exception):
            raise state
        return SimpleNamespace(name="g", state=state, start_time=None, work_pool_name="p")

    def read_artifacts(self, **_: Any) -> list[Any]:
        return []

    def set_flow_run_state(self, run: Any, state: Any, force: bool = False) -> None:
        self.set.append((state.type.value, force))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """Time that passes only while somebody sleeps."""
    at = [0.0]
    slept = SimpleNamespace(monotonic=lambda: at[0], sleep=lambda seconds: at.__setitem__(0, at[0] + seconds))
    monkeypatch.setattr(elsewhere, "time", slept)
    monkeypatch.setattr(shard_groups, "time", slept)
    monkeypatch.setattr(elsewhere, "say", lambda text: None)
    yield at


def test_a_group_whose_worker_died_before_it_began_is_given_up(clock: list[float]) -> None:
    server: Any = Server(Scheduled(), Scheduled(), Pending())
    with pytest.raises(WorkerLost, match="did not start it"):
        elsewhere._awaited(server, uuid4())
    assert clock[0] > elsewhere._STARTS
    elsewhere._cancel(server, uuid4())
    assert server.set == [("CANCELLED", True)], "nothing runs that would end it"


def test_a_group_that_waits_or_computes_for_long_is_waited_for(clock: list[float]) -> None:
    waits = [Scheduled()] * 400 + [Pending()] * 100 + [Running()] * 400
    done = Completed(message=json.dumps({"done": {"computed": 3}}))
    server: Any = Server(*waits, done)
    found, _ = elsewhere._awaited(server, uuid4())
    assert found.state is done and clock[0] > 3 * elsewhere._STARTS
    elsewhere._cancel(server, uuid4())
    assert server.set == [], "what is over stays as it is"


def test_a_stop_is_heard_while_the_server_is_away(
    clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stop:
        def advance(self, items: int) -> None:
            raise KeyboardInterrupt

    monkeypatch.setattr(elsewhere, "current", Stop())
    server: Any = Server(httpx.ConnectError("away"))
    with pytest.raises(KeyboardInterrupt):
        elsewhere._awaited(server, uuid4())


def test_a_server_that_stays_away_ends_the_wait(clock: list[float]) -> None:
    server: Any = Server(Running(), httpx.ConnectError("away"))
    with pytest.raises(WorkerLost, match="the Prefect server does not answer"):
        elsewhere._awaited(server, uuid4())
    assert clock[0] > elsewhere._UNREACHED


def test_what_a_failed_try_elsewhere_had_finished_is_counted(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = Failed(message=json.dumps({"error": packed(ShardError("lost")), "computed": 7}))
    ended: list[Callable[[], Any]] = [
        lambda: elsewhere._outcome(SimpleNamespace(name="g", state=failed), 0),  # type: ignore[arg-type]
        lambda: {"computed": 3, "peak_rss_mb": 1.0},
    ]
    monkeypatch.setattr(shards, "compute_elsewhere", lambda group, title: ended.pop(0)())
    group = Group("exact-influence", "k" * 32, job, SHARDS, {})
    with pytest.raises(ShardError, match="lost"):
        shards._elsewhere(group)
    assert shards._elsewhere(group) == {"computed": 10, "peak_rss_mb": 1.0}
    assert computed_before("k" * 32) == 0


def test_two_runs_of_the_same_shards_have_a_file_each(job: Job) -> None:
    group, paths = Group("exact-influence", "k" * 32, job, SHARDS, {}), []
    for run in ("first/0001", "other/0001"):
        write_for(job.ws.root, run)
        with elsewhere._written(group):
            paths.append(job.ws.group_file(group.ticket))
            assert json.loads(paths[-1].read_text())["made_in"] == run
    write_for(job.ws.root, "")
    assert paths[0] != paths[1] and not any(p.exists() for p in paths)


def outcome(*errors: Exception) -> Any:
    futures = [SimpleNamespace(result=lambda raise_on_failure, e=e: e) for e in errors]
    submitted: Any = [(f"key {n}", [{"name": f"block {n}"}], f) for n, f in enumerate(futures)]
    return _outcome("exact-influence", submitted)


def test_one_machine_that_cannot_take_part_costs_its_tries_alone() -> None:
    wrong = UserError("node7 does not see the workspace", field="--workspace", mend="Mount it there.")
    unfit = unpacked(json.loads(json.dumps(packed(Unfit(wrong)))))
    assert isinstance(unfit, Unfit) and not is_permanent(unfit) and str(unfit) == str(wrong)
    with pytest.raises(ShardsFailed, match="node7 does not see") as some:
        outcome(unfit, {"computed": 3, "peak_rss_mb": 1.0})  # type: ignore[arg-type]
    assert some.value.done.computed == 3
    with pytest.raises(UserError, match="node7 does not see") as told:
        outcome(unfit, unfit)
    assert told.value.mend == "Mount it there.", "where no machine can, the input is wrong"


def test_a_machine_that_cannot_take_part_does_not_say_so_at_once(
    job: Job, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[float] = []
    monkeypatch.setattr(Workspace, "has_mark", lambda self, mark: bool(looks.append(clock[0])))
    with pytest.raises(Unfit, match="does not see the workspace"):
        shard_groups._check(job.workspace, "mark", shard_groups.__version__)
    assert len(looks) > 20 and clock[0] > shard_groups._UNFIT
    monkeypatch.setattr(Workspace, "has_mark", lambda self, mark: len(looks) < 0 or clock[0] > 50)
    shard_groups._check(job.workspace, "mark", shard_groups.__version__)


def test_progress_outlives_a_server_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    def away(**_: Any) -> Any:
        raise httpx.ConnectError("away")

    monkeypatch.setattr(shard_groups, "create_progress_artifact", lambda *_, **__: str(uuid4()))
    monkeypatch.setattr(shard_groups, "get_client", away)
    monkeypatch.setattr(shard_groups, "_REPORT", -1.0)
    told = shard_groups.Reported(3)
    told.advance(2)
    told.advance(1)
    assert told.done == 3
