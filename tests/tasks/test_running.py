"""Shards beside others: how many task runs they make, who fails for whom, what is counted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from nncift_core.errors import RunError, UserError
from nncift_core.execution.failures import ShardError, WorkerLost
from nncift_core.execution.job import Job
from nncift_core.pipeline.problem import Keys
from tasks import running
from tasks.running import Outcome, ShardsFailed, _allowed, _groups, _outcome
from tasks.shards import computed_before, group_name, shard_key, shard_task

# Stages with shards in the order of a valuation with everything; exact values come back in refinement.
STAGES = [
    "prepare-function", "embed", "estimator-features", "features", "exact-influence", "estimate-influence",
    "fine-tune", "evaluate",
]  # fmt: skip
ROUNDS = ["features", "exact-influence"]
# ingest of pool, target and test, train, assess and select in each round, subsets, report.
SINGLE = 3 + 1 + 1 + 4 + 1 + 1


def made(count: int) -> list[dict[str, Any]]:
    return [{"name": f"block {n}", "rows": [n], "missing": 1} for n in range(count)]


@pytest.mark.parametrize("count", [1, 39, 40, 41, 99, 100, 101, 1000, 7777])
@pytest.mark.parametrize("stage", STAGES)
def test_groups_hold_every_shard_once_in_order(stage: str, count: int) -> None:
    shards, most = made(count), _allowed(stage, f"{stage}/{count}")
    groups = _groups(shards, most)
    assert [s for group in groups for s in group] == shards
    assert len(groups) <= most and len(groups) == min(count, len(groups))
    assert max(map(len, groups)) == -(-count // most), "no larger than needed"


def test_a_flow_of_thousands_of_shards_stays_below_500_task_runs() -> None:
    turns = [*STAGES[:6], *ROUNDS * 3, *STAGES[6:]]

    def task_runs(stage: str, attempt: str) -> int:
        # A function has one state.
        return len(_groups(made(1 if stage == "prepare-function" else 9_999), _allowed(stage, attempt)))

    total = SINGLE + sum(task_runs(stage, "large/0001") for stage in turns)
    assert 400 < total < 500
    again = sum(task_runs(stage, "large/0002") for stage in STAGES)
    assert again > 350, "the next attempt has the whole of it again"


def test_without_shards_nothing_is_submitted_and_no_turn_is_spent(job: Job) -> None:
    untouched: Any = None
    assert running.run_shards(job, untouched, []) == Outcome(0, 0.0)


class Future:
    """What a task run ended with."""

    def __init__(self, found: Any) -> None:
        self.found = found

    def add_done_callback(self, fn: Any) -> None:
        fn(self)

    def result(self, raise_on_failure: bool = True) -> Any:
        assert not raise_on_failure, "one failure must not hide the others"
        return self.found


def outcome(*found: Any, size: int = 1) -> Outcome:
    groups = _groups(made(len(found) * size), len(found))
    submitted: Any = [
        (f"key {n}", group, Future(f)) for n, (group, f) in enumerate(zip(groups, found, strict=True))
    ]
    return _outcome("exact-influence", submitted)


def done(computed: int, peak: float = 10.0) -> dict[str, Any]:
    return {"computed": computed, "peak_rss_mb": peak, "devices": ["cpu"]}


def test_what_shards_did_is_summed_and_the_largest_peak_told() -> None:
    assert outcome(done(3, 20.0), done(0, 90.0), done(4, 50.0)) == Outcome(7, 90.0)


def test_failed_shards_are_listed_with_their_reasons_and_one_command() -> None:
    lost = WorkerLost("the worker process was ended by SIGKILL")
    with pytest.raises(ShardsFailed) as e:
        outcome(done(3), lost, done(4), RuntimeError("device\n  lost"), size=2)
    assert e.value.text("nncift run job.toml") == (
        "2 of 4 shards of exact-influence failed after all their tries: exact-influence block 2 and 1 more "
        "(the worker process was ended by SIGKILL); exact-influence block 6 and 1 more "
        "(RuntimeError: device lost). Finished shards are kept; complete the others with: nncift run job.toml"
    )
    assert str(e.value).endswith("complete the others with: the same call again")
    assert e.value.done == Outcome(7, 10.0) and isinstance(e.value, RunError)


def test_a_long_list_is_cut_and_says_so() -> None:
    with pytest.raises(ShardsFailed) as e:
        outcome(*[ShardError("x" * 1000)] * 27)
    text = str(e.value)
    assert text.startswith("27 of 27 shards") and "block 19" in text and "block 20" not in text
    assert "; and 7 more. Finished shards are kept" in text
    assert len(text) < 20 * 400 + 300


def test_wrong_input_goes_before_all_other_failures() -> None:
    wrong = UserError("no such column", field="pool.columns", mend="Name another.")
    with pytest.raises(UserError) as e:
        outcome(done(3), RuntimeError("lost"), wrong)
    assert e.value is wrong


def computing(fail: Callable[[str], Exception | None], tried: list[str]) -> Any:
    """A task whose shards compute 5 items the first time and find them stored afterwards."""

    def compute(key: str, job: Job, shard: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
        name = shard["name"]
        tried.append(name)
        error = fail(name)
        if error is not None:
            raise error
        return {"computed": 5 if tried.count(name) == 1 else 0, "device": "cpu", "peak_rss_mb": 7.0}

    return shard_task("test-stage", compute)


def test_the_others_of_a_group_go_first_and_count_whatever_becomes_of_it(job: Job) -> None:
    tried: list[str] = []
    failing = {"block 1"}
    task = computing(lambda name: RuntimeError("device lost") if name in failing else None, tried)
    with pytest.raises(RuntimeError, match="device lost"):
        task.fn("some key", job, made(3), {})
    assert tried == ["block 0", "block 1", "block 2"]
    with pytest.raises(RuntimeError, match="device lost"):
        task.fn("some key", job, made(3), {})
    assert (computed_before("some key"), computed_before("some key")) == (10, 0), "asked once"

    tried.clear()
    with pytest.raises(RuntimeError):
        task.fn("other key", job, made(3), {})
    failing.clear()
    # It was tried before, so the stand-in finds it stored: only the first try's items count.
    assert task.fn("other key", job, made(3), {}) == done(10, 7.0)
    assert computed_before("other key") == 0


def test_what_cannot_help_ends_the_group_at_once(job: Job) -> None:
    tried: list[str] = []
    task = computing(lambda name: UserError("wrong") if name == "block 1" else None, tried)
    with pytest.raises(UserError):
        task.fn("a key", job, made(3), {})
    assert tried == ["block 0", "block 1"] and computed_before("a key") == 5


def test_what_the_failed_groups_had_finished_is_in_the_outcome(job: Job) -> None:
    task = computing(lambda name: OSError("no space") if name == "block 1" else None, [])
    with pytest.raises(OSError):
        task.fn("key 1", job, made(2), {})
    with pytest.raises(ShardsFailed) as e:
        outcome(done(3), OSError("no space"), size=2)
    assert e.value.done.computed == 3 + 5


def test_a_shard_is_the_same_work_whatever_of_it_was_missing(job: Job) -> None:
    first, second = made(2)
    own = shard_key("embed", job, first, {})
    assert own == shard_key("embed", job, {**first, "missing": 7}, {})
    others = [
        shard_key("embed", job, second, {}),
        shard_key("features", job, first, {}),
        shard_key("embed", job, first, {"side": "row"}),
        shard_key("embed", job.model_copy(update={"identity": Keys("encoder", "other")}), first, {}),
    ]
    assert len({own, *others}) == 5
    assert group_name([first]) == "block 0" and group_name([first, second]) == "block 0 and 1 more"
