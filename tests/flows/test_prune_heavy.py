"""Prune runs that are killed, that read pairs, and that fine-tune a whole encoder."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from classification.small_encoder import rows, save_bert
from conftest import write_jsonl
from faults.live import WORKER, until
from faults.world import MARK, free_locks, marked, no_half_written
from prune_jobs import COLUMNS, PruneProject

from nncift_core.scores.catalogue import CATALOGUE, Mode, shown_name

pytestmark = pytest.mark.heavy

LONGER = {"training": {"epochs": 12, "hidden": 128}, "execution": {"isolation": "process"}}


@pytest.fixture
def make_job(tmp_path: Path, prefect_env: dict[str, str]) -> Callable[[str], PruneProject]:
    """Makes jobs in folders of their own."""

    def make(name: str) -> PruneProject:
        (tmp_path / name).mkdir()
        return PruneProject(tmp_path / name, prefect_env)

    return make


def by_command(p: PruneProject) -> dict[str, Any]:
    """`nncift prune --json`: the result object."""
    done = p.call("prune", "job.toml", "--workspace", str(p.workspace), "--json")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def judged(workspace: Path) -> dict[Path, tuple[int, int]]:
    """Kept results of trainings on subsets, and which file each is."""
    found = {}
    for path in workspace.glob("classifiers/*/done.json"):
        if path.with_name("done.json.manifest.json").is_file() and "accuracy" in json.loads(path.read_text()):
            found[path] = (path.stat().st_ino, path.stat().st_mtime_ns)
    return found


def killed_when(p: PruneProject, ready: Callable[[], bool]) -> None:
    """Start the job and kill its whole process group as soon as `ready()`."""
    process = subprocess.Popen(
        p.command("prune", "job.toml", "--workspace", str(p.workspace)),
        cwd=p.folder, env=p.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 240
    while process.poll() is None and time.monotonic() < deadline and not ready():
        time.sleep(0.005)
    assert process.poll() is None, "the run ended before it could be killed"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    until("the worker process to end", lambda: not list(marked(f"{MARK}={p.env[MARK]}", WORKER)), 20)
    free_locks(p.workspace)


def test_a_run_that_is_killed_among_its_subsets_goes_on_where_it_was(
    make_job: Callable[[str], PruneProject],
) -> None:
    whole = make_job("whole")
    whole.configure(**LONGER)
    unbroken = by_command(whole)
    p = make_job("killed")
    p.configure(**LONGER)
    p.env = {**p.env, MARK: uuid.uuid4().hex}
    killed_when(p, lambda: len(judged(p.workspace)) >= 5)
    kept = judged(p.workspace)
    result = by_command(p)
    costs = p.costs(result)["train-subsets"]
    assert 5 <= len(kept) < costs["items"]
    assert (costs["reused"], costs["computed"]) == (len(kept), costs["items"] - len(kept))
    assert p.costs(result)["train-scores"]["computed"] == 0
    after = judged(p.workspace)
    assert {path: after[path] for path in kept} == kept
    assert result["run_id"] == unbroken["run_id"]
    assert p.views(result["run_id"]) == whole.views(unbroken["run_id"])
    for key in ("summary", "detection", "findings"):
        assert result[key] == unbroken[key], key
    subset = unbroken["facts"]["subset"]
    assert (p.workspace / subset).read_bytes() == (whole.workspace / subset).read_bytes()
    statuses = [r["status"] for r in p.ask("SELECT status FROM runs ORDER BY started_at")]
    assert statuses == ["killed", "completed"]
    no_half_written(p.workspace)


def every_score(p: PruneProject, mode: Mode, n: int) -> None:
    """Every score of every row in every variant is there and finite, and every view has rows."""
    found = p.ask(
        "SELECT function, variant, count(*) AS n, bool_and(isfinite(score)) AS finite, "
        "count(DISTINCT score) AS values FROM scores WHERE origin = 'exact' GROUP BY ALL"
    )
    wanted = {(shown_name(name, mode), v) for name, e in CATALOGUE.items() for v in e.variants}
    # Where the encoder is trained, TracIn over the head stands beside that over its last layer.
    wanted |= {("tracin", "head")} if mode == "full" else set()
    assert {(r["function"], r["variant"]) for r in found} == wanted
    assert all(r["finite"] and r["n"] == n for r in found)
    assert all(r["values"] > n / 3 for r in found if r["function"] != "forgetting")
    for view in COLUMNS:
        assert p.ask(f"SELECT count(*) AS n FROM {view}")[0]["n"] or view == "noise_detection", view


def pairs(n: int, seed: int) -> list[dict[str, Any]]:
    """Rows like SNLI's: the second text repeats the first, denies it, or is about something else."""
    people, things = ("man", "woman", "boy", "girl", "dog"), ("park", "street", "kitchen", "snow", "river")
    found = []
    for k in range(n):
        who, where = people[(k + seed) % 5], things[(k // 3 + seed) % 5]
        first = f"A {who} runs through the {where} number {k + 100 * seed}."
        second = (f"A {who} is running.", f"No {who} is near the {where}.", f"The {who} will win a medal.")[
            k % 3
        ]
        found.append({"premise": first, "hypothesis": second, "label": k % 3, "genre": where})
    return found


def test_pairs_of_sentences_end_to_end(make_job: Callable[[str], PruneProject]) -> None:
    p = make_job("pairs")
    train = pairs(60, 0)
    for row in train[:6]:
        # Wrong labels, so that there is something to suspect.
        row["label"] = (row["label"] + 1) % 3
    write_jsonl(p.folder / "snli.jsonl", train)
    write_jsonl(p.folder / "held_out.jsonl", pairs(30, 1))
    p.configure(
        data={
            "source": "snli.jsonl", "split": None, "test": "held_out.jsonl", "new": None, "limit": None,
            "limit_test": None, "columns": {"group": "genre"},
        },
        scores={"names": list(CATALOGUE)}, training={"batch_size": 16, "epochs": 6},
    )  # fmt: skip
    result = p.prune()
    every_score(p, "frozen", 60)
    assert (result["facts"]["rows"], result["facts"]["classes"]) == (60, 3)
    assert p.ask("SELECT count(*) AS n FROM examples WHERE response <> ''")[0]["n"] == 90
    with (p.workspace / result["facts"]["suspects_csv"]).open(encoding="utf-8", newline="") as f:
        lines = list(csv.DictReader(f))
    texts = {(r["premise"], r["hypothesis"], str(r["label"])) for r in train}
    assert {(x["text"], x["text_pair"], x["given_label"]) for x in lines} <= texts
    wrong = {(r["premise"], r["hypothesis"]) for r in train[:6]}
    assert len(lines) == result["facts"]["suspects"] and (lines[0]["text"], lines[0]["text_pair"]) in wrong
    subset = (p.workspace / result["facts"]["subset"]).read_text("utf-8").splitlines()
    assert len(subset) == 30 and all(json.loads(x) in train for x in subset)
    assert result["facts"]["accuracy_all"] > 0.4
    assert "hypothesis" in json.loads(subset[0]) and Path(result["report"]).stat().st_size > 10_000


def test_a_whole_encoder_is_fine_tuned_end_to_end(make_job: Callable[[str], PruneProject]) -> None:
    p = make_job("full")
    save_bert(p.folder / "bert")
    for name, n, seed in (("train", 60, 0), ("held_out", 30, 1), ("more", 9, 2)):
        texts, labels = rows(n, seed=seed)
        given = [{"text": t, "label": f"class {k}"} for t, k in zip(texts, labels.tolist(), strict=True)]
        write_jsonl(p.folder / f"{name}.jsonl", given)
    p.configure(
        data={
            "source": "train.jsonl", "split": None, "test": "./held_out.jsonl", "new": "./more.jsonl",
            "limit": None, "limit_test": None, "columns": {},
        },
        encoder={"model": "./bert"},
        training={"mode": "full", "batch_size": 16, "epochs": 3, "encoder_rate": 1e-3, "checkpoints": 3},
        scores={"names": list(CATALOGUE), "runs": 2},
        study={"studies": ["curve", "noise"], "scores": ["vog", "tracin"]},
        noise={"kinds": ["confusable"]},
    )  # fmt: skip
    first = p.prune()
    every_score(p, "full", 60)
    assert first["facts"]["mode"] == "full"
    learned = p.ask("SELECT DISTINCT function FROM scores WHERE origin = 'estimated'")
    assert {r["function"] for r in learned} == set(CATALOGUE)
    assert {r["score"] for r in first["detection"]} == set(CATALOGUE)
    before = p.views(first["run_id"])
    again = p.prune(report=False)
    assert {s: n for s, n in p.trained(again).items() if n and s != "report"} == {}
    assert p.views(first["run_id"]) == before
