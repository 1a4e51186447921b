"""Trainings and scores of models: once for all runs, on several GPUs in turns, one's failure its own."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import oracle_rows, write_jsonl
from finetune.small import FAST, TINY

from nncift_core.config import parse_config
from nncift_core.errors import UserError
from nncift_core.execution import pool as pools
from nncift_core.execution import process, work
from nncift_core.execution.failures import ShardError, is_permanent, packed, unpacked
from nncift_core.execution.job import Job
from nncift_core.execution.models import Slot
from nncift_core.execution.process import Held
from nncift_core.execution.work import Request, perform
from nncift_core.finetune import Diverged
from nncift_core.pipeline.attribution_losses import loss_key
from nncift_core.pipeline.downstream import base_cell, cells
from nncift_core.pipeline.inputs import read_inputs
from nncift_core.pipeline.problem import keys_of
from nncift_core.pipeline.trials import answers_key, evaluation_key, trials
from nncift_core.store.dataset_writer import store_dataset
from nncift_core.store.locks import locked
from nncift_core.store.workspace import Workspace

SLOTS = Slot(0, "cpu"), Slot(1, "cpu")


class Waits:
    """Progress that counts signs of life."""

    def __init__(self) -> None:
        self.signs = 0

    def advance(self, items: int) -> None:
        self.signs += items == 0

    def to(self, done: int, total: int) -> None:
        raise AssertionError("no work here tells so")


def tuned_job(folder: Path, **finetune: Any) -> Job:
    """A stored job with a student and held-out rows."""
    write_jsonl(folder / "pool.jsonl", oracle_rows("pool"))
    write_jsonl(folder / "target.jsonl", oracle_rows("target"))
    config = parse_config(
        {
            "pool": {"source": "pool.jsonl"},
            "target": {"source": "target.jsonl", "test": "target.jsonl"},
            "language_model": {"model": str(TINY)},
            "influence": {"function": "bm25"},
            "finetune": FAST | {"epochs": 1} | finetune,
            "evaluation": {"metrics": ["loss"]},
        },
        base_dir=folder,
    )
    ws = Workspace.create(folder / "ws")
    refs = tuple(
        store_dataset(ws, i.examples, dataset=i.name, role=i.role, block_rows=8, fingerprint=i.fingerprint)
        for i in read_inputs(config)
    )
    return Job(
        workspace=str(ws.root), config_json=config.model_dump_json(exclude_unset=True),
        base_dir=config.base_dir, identity=keys_of(config), datasets=refs,
    )  # fmt: skip


def asked(job: Job, run: str, subsets: tuple[str, ...] = ("selected",), work: str = "fine-tune") -> Request:
    """What a run asks for, from a table of its own, of the first model of it."""
    problem = job.problem()
    ids = problem.pool.example_ids
    parts = [(name, ids[k : k + 5].tolist()) for k, name in enumerate(subsets)]
    named = [name for name, members in parts for _ in members]
    table = pa.table(
        {
            "run_id": [run] * len(named),
            "subset": named,
            "seed": [0] * len(named),
            "train_id": [i for _, members in parts for i in members],
        }
    )
    path = problem.ws.root / f"{run}.parquet"
    pq.write_table(table, path)
    cell = cells(problem, table)[0]
    key = cell.key
    if work == "evaluate":
        key = evaluation_key(problem, trials(job.config, [cell], base=False)[0])
    return Request(work, job, {"name": cell.name, "key": key}, {"subsets": path.name})


def both(first: Callable[[], None], second: Callable[[], None]) -> None:
    threads = [threading.Thread(target=call) for call in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)


@pytest.mark.parametrize("name", ["fine-tune", "evaluate", "query-losses"])
def test_two_runs_compute_a_cell_of_both_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    job = tuned_job(tmp_path)
    requests = [asked(job, run, work=name) for run in ("one", "other")]
    stored, computed = set[str](), list[str]()

    def compute(_problem: Any, what: Any, *_: Any) -> int:
        computed.append("begun")
        time.sleep(0.5)
        stored.add("it")
        return 5

    there = {"fine-tune": "is_trained", "evaluate": "is_complete", "query-losses": "has_losses"}
    does = {"fine-tune": "train_cell", "evaluate": "evaluate_trial", "query-losses": "measure_losses"}
    monkeypatch.setattr(work, there[name], lambda *_: "it" in stored)
    monkeypatch.setattr(work, does[name], compute)
    counts, told = list[int](), [Waits(), Waits()]

    def run(k: int) -> None:
        counts.append(perform(requests[k], SLOTS[k], told[k]))

    both(lambda: run(0), lambda: run(1))
    assert sorted(counts) == [0, 5] and computed == ["begun"]
    assert max(w.signs for w in told) > 0, "who waits must not look as if it hung"


def test_a_turn_is_of_what_is_computed_and_of_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = tuned_job(tmp_path)
    problem = job.problem()
    for name, does in (
        ("fine-tune", "train_cell"), ("evaluate", "evaluate_trial"), ("query-losses", "measure_losses"),
    ):  # fmt: skip
        request = asked(job, "one", work=name)
        cell = cells(problem, pq.read_table(problem.ws.root / "one.parquet"))[0]
        trial = trials(job.config, [cell], base=False)[0]
        key = {
            "fine-tune": cell.key,
            "evaluate": answers_key(problem, trial),
            "query-losses": loss_key(problem, cell),
        }[name]
        free: list[bool] = []

        def look(*_: Any, key: str = key, free: list[bool] = free) -> int:
            for k in (key, loss_key(problem, base_cell(job.config))):
                free.append(is_free(job, f"cell-{k[:16]}"))
            return 1

        monkeypatch.setattr(work, does, look)
        assert perform(request, SLOTS[0], Waits()) == 1 and free == [False, True], name


def is_free(job: Job, name: str) -> bool:
    """Whether nobody holds a lock of the workspace."""

    def busy() -> None:
        raise BlockingIOError

    try:
        with locked(job.ws.lock(name), waiting=busy):
            return True
    except BlockingIOError:
        return False


def test_trainings_on_several_gpus_run_one_at_a_time_on_the_same_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    job = tuned_job(tmp_path, devices=2)
    running, most, devices = list[str](), list[int](), set[str]()

    def train(_problem: Any, cell: Any, device: str, *_: Any) -> int:
        running.append(cell.key)
        most.append(len(running))
        devices.add(device)
        time.sleep(0.3)
        running.remove(cell.key)
        return 1

    monkeypatch.setattr(work, "train_cell", train)
    requests = [asked(job, "one", ("selected", "random")), asked(job, "other", ("x",))]
    swapped = Request("fine-tune", job, dict(requests[0].shard), requests[0].given)
    problem = job.problem()
    second = cells(problem, pq.read_table(problem.ws.root / "one.parquet"))[1]
    swapped.shard["key"] = second.key
    slots = Slot(0, "cuda:0"), Slot(3, "cuda:3")
    both(
        lambda: void(perform(requests[0], slots[0], Waits())),
        lambda: void(perform(swapped, slots[1], Waits())),
    )
    assert most == [1, 1] and devices == {"cuda:0"}


def void(_: object) -> None:
    return


def test_a_worker_sees_every_gpu_for_a_training_on_several_and_its_own_for_all_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    several, alone = (tuned_job(folder(tmp_path, str(n)), devices=n) for n in (2, 1))
    assert not pools._masks(Request("fine-tune", several, {}, {}))
    assert pools._masks(Request("evaluate", several, {}, {}))
    assert pools._masks(Request("fine-tune", alone, {}, {}))
    named = tuned_job(folder(tmp_path, "named"), device="cuda:1")
    assert not pools._masks(Request("evaluate", named, {}, {}))


def folder(parent: Path, name: str) -> Path:
    (parent / name).mkdir()
    return parent / name


def test_a_worker_that_sees_other_gpus_than_its_work_needs_is_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: list[dict[str, str]] = []

    def start(_command: list[str], *, env: dict[str, str], pass_fds: tuple[int], **kw: Any) -> Any:
        started.append(env)
        kw.pop("start_new_session")
        return subprocess.Popen([sys.executable, "-c", "input()"], start_new_session=True, **kw)

    class Started:
        Popen = staticmethod(start)
        PIPE = subprocess.PIPE

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(process, "subprocess", Started)
    held = Held(lambda slot, masked: process.Worker(slot, masked=masked))
    first = held.get(Slot(1, "cuda:1"), masked=True)
    assert held.get(Slot(1, "cuda:1"), masked=True) is first
    other = held.get(Slot(1, "cuda:1"), masked=False)
    assert other is not first and not first.alive and other.alive
    held.drop()
    assert [env.get("CUDA_VISIBLE_DEVICES") for env in started] == ["1", None]


def test_a_worker_sees_all_gpus_of_its_slot_under_their_new_names(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[tuple[list[str], str]] = []

    def start(command: list[str], *, env: dict[str, str], pass_fds: tuple[int], **kw: Any) -> Any:
        started.append((command[3:5], env["CUDA_VISIBLE_DEVICES"]))
        return subprocess.Popen([sys.executable, "-c", "input()"], **kw)

    class Started:
        Popen = staticmethod(start)
        PIPE = subprocess.PIPE

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7,5,6,4")
    monkeypatch.setattr(process, "subprocess", Started)
    slots = Slot(3, "cuda:2", ("cuda:2", "cuda:3")), Slot(0, "cuda:1", ("cuda:1", "cuda:1"))
    for slot in slots:
        process.Worker(slot, masked=True).kill()
    process.Worker(slots[0], masked=False).kill()
    assert started == [
        (["3", "cuda:0,cuda:1"], "6,4"),
        (["0", "cuda:0,cuda:0"], "5"),
        (["3", "cuda:2,cuda:3"], "7,5,6,4"),
    ]


def test_a_training_that_leaves_the_numbers_fails_its_own_cell_for_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = tuned_job(tmp_path)

    def diverge(*_: Any) -> int:
        raise Diverged("the training loss")

    monkeypatch.setattr(work, "train_cell", diverge)
    with pytest.raises(ShardError, match=r"learning_rate: .*not a finite number.*Lower it") as e:
        perform(asked(job, "several", ("selected", "random")), SLOTS[0], Waits())
    assert is_permanent(e.value) and is_permanent(unpacked(packed(e.value)))
    # Where it is the only model there is, the config is wrong.
    with pytest.raises(UserError) as wrong:
        perform(asked(job, "one"), SLOTS[0], Waits())
    assert str(wrong.value) == str(e.value)
