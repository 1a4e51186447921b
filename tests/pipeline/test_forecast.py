"""`nncift plan --calibrate`: a rehearsal with real models, what it keeps, what need not be done again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ORACLES, oracle_rows, write_jsonl
from pipeline.priced import COLUMNS, ROWS, examples, register
from pipeline.priced import config as priced_config

from nncift_core import language_models
from nncift_core.config import Config, parse_config
from nncift_core.errors import UserError
from nncift_core.forecast import rehearsed_exact
from nncift_core.forecast.calibration import kept_rates
from nncift_core.forecast.left import left_of
from nncift_core.forecast.rehearsal import calibrate, reduced
from nncift_core.forecast.work import counted
from nncift_core.influence import delift
from nncift_core.influence.registry import create
from nncift_core.pipeline.exact import compute_exact, plan_exact
from nncift_core.pipeline.inputs import read_inputs
from nncift_core.pipeline.plan import plan
from nncift_core.pipeline.problem import Problem, keys_of
from nncift_core.store.dataset_writer import store_dataset
from nncift_core.store.workspace import Workspace


def job(folder: Path, **sections: Any) -> Config:
    """The oracle rows under the oracle model, in the process of the test."""
    for side in ("pool", "target"):
        write_jsonl(folder / f"{side}.jsonl", oracle_rows(side))
    settings: dict[str, Any] = {
        "pool": {"source": "pool.jsonl"},
        "target": {"source": "target.jsonl"},
        "language_model": {"model": str(ORACLES / "tiny-lm")},
        "influence": {"function": "delift", "labels": "block", "label_fraction": 0.5, "audit_pairs": 40},
        "estimator": {"architecture": "ridge"},
        "selection": {"count": 6},
        "execution": {"isolation": "thread"},
    }
    return parse_config({**settings, **sections}, base_dir=folder)


def test_a_rehearsal_measures_every_stage_and_writes_only_what_it_found(tmp_path: Path) -> None:
    c, ws = job(tmp_path), tmp_path / "ws"
    rates = calibrate(c, ws)
    found = plan(c, ws, rates, price_per_hour=3600.0)
    forecast = found["forecast"]
    assert forecast["source"] == "calibration" and forecast["run_id"]
    needed = ["embed", "exact-influence", "train-influence-network", "estimate-influence", "select", "report"]
    assert set(needed) < {s["stage"] for s in forecast["stages"]}
    assert all(s["seconds"] >= 0 and s["seconds_left"] == s["seconds"] for s in forecast["stages"])
    assert forecast["cost"] == pytest.approx(forecast["seconds_left"])
    assert forecast["break_even"]["exact_seconds"] > 0
    assert {p.relative_to(ws).parts[0] for p in ws.rglob("*") if p.is_file()} == {"nncift.json", "forecasts"}
    # Later plans go by it without measuring.
    again = plan(c, ws)["forecast"]
    assert (again["source"], again["seconds"]) == ("calibration", forecast["seconds"])
    other = job(tmp_path, language_model={"model": "builtin"})
    assert plan(other, ws)["forecast"]["source"] is None


@pytest.mark.heavy
@pytest.mark.parametrize("function", ["less", "selectit", "bm25", "delift-se", "length"])
def test_every_function_can_be_rehearsed(tmp_path: Path, function: str) -> None:
    c = job(tmp_path, influence={"function": function, "label_fraction": 0.5})
    found = plan(c, tmp_path / "ws", calibrate(c, tmp_path / "ws"))["forecast"]
    assert found["source"] == "calibration" and found["seconds"] > 0


@pytest.mark.parametrize("features", [["embedding"], ["embedding", "hidden"]])
def test_a_spread_teacher_is_measured_over_a_slots_devices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, features: list[str]
) -> None:
    placed: list[tuple[str, ...]] = []
    load = language_models.load_language_model

    def loaded(config: Any, device: str, base_dir: str = "", devices: Any = ()) -> Any:
        placed.append(tuple(devices))
        return load(config, device, base_dir, devices)

    for module in (language_models, delift, rehearsed_exact):
        monkeypatch.setattr(module, "load_language_model", loaded, raising=False)
    section = {"model": str(ORACLES / "tiny-lm"), "devices": 2}
    execution = {"isolation": "thread", "devices": ["cpu", "cpu", "cpu"]}
    estimator = {"architecture": "ridge", "features": features}
    c = job(tmp_path, language_model=section, execution=execution, estimator=estimator)
    rates = calibrate(c, tmp_path / "ws")
    assert placed and set(placed) == {("cpu", "cpu")}
    assert kept_rates(Workspace(tmp_path / "ws"), c, keys_of(c)) == rates
    alone = job(tmp_path, execution=execution, estimator=estimator)
    assert kept_rates(Workspace(tmp_path / "ws"), alone, keys_of(alone)) is None


@pytest.mark.heavy
def test_trainings_and_their_scores_are_rehearsed(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "test.jsonl", oracle_rows("target"))
    c = job(
        tmp_path,
        target={"source": "target.jsonl", "test": "./test.jsonl"},
        finetune={"epochs": 1},
        evaluation={"metrics": ["loss"], "seeds": 1, "subsets": ["base", "random"]},
    )
    stages = {
        s["stage"]: s for s in plan(c, tmp_path / "ws", calibrate(c, tmp_path / "ws"))["forecast"]["stages"]
    }
    assert stages["fine-tune"]["seconds"] > 0 and stages["fine-tune"]["disk_mb"] > 0
    assert stages["evaluate"]["seconds"] > 0


def test_a_budget_must_be_a_time(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--budget"):
        calibrate(job(tmp_path), tmp_path / "ws", budget=0)


def test_a_large_matrix_is_rehearsed_on_a_part_of_its_rows(tmp_path: Path) -> None:
    rows = [{"prompt": f"what is {k}", "response": f"the number {k}"} for k in range(6000)]
    write_jsonl(tmp_path / "many.jsonl", rows)
    c = job(tmp_path, pool={"source": "many.jsonl"}, target={"source": "self"})
    inputs = read_inputs(c)
    part = reduced(c, inputs)
    work = counted(c, Workspace(tmp_path / "ws"), part).work
    assert work["train-influence-network"].amount <= 2600
    kept = [e.prompt for e in part[0].examples]
    assert len(kept) == len(set(kept)) > 50
    # Evenly over the pool, not its beginning.
    assert int(kept[-1].split()[-1]) > 5900


@pytest.fixture
def priced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Config, Problem]:
    register(monkeypatch)
    for side, n in (("pool", ROWS), ("target", COLUMNS)):
        rows = [{"prompt": e.prompt, "response": e.response} for e in examples(side, 0, n)]
        write_jsonl(tmp_path / f"{side}.jsonl", rows)
    c = priced_config("priced", labels="block").model_copy(update={"base_dir": str(tmp_path)})
    ws = Workspace.create(tmp_path / "ws")
    refs = [
        store_dataset(ws, i.examples, dataset=i.name, role=i.role, block_rows=16, fingerprint=i.fingerprint)
        for i in read_inputs(c)
    ]
    return c, Problem.load(ws, c, keys_of(c), refs)


def test_values_that_are_there_are_not_left(priced: tuple[Config, Problem]) -> None:
    c, problem = priced
    inputs = read_inputs(c)
    work = counted(c, problem.ws, inputs).work
    whole = left_of(c, problem.ws, inputs, work).items
    assert whole == {name: w.items for name, w in work.items()}
    design = plan_exact(problem)
    files = sorted(p for p in problem.ws.root.rglob("*") if p.is_file())
    shard = design.shards[0]
    assert left_of(c, problem.ws, inputs, work).items["exact-influence"] == design.pairs
    assert sorted(p for p in problem.ws.root.rglob("*") if p.is_file()) == files
    compute_exact(problem, create(c, "cpu"), shard)
    some = left_of(c, problem.ws, inputs, work).items
    assert some["exact-influence"] == design.pairs - shard.pairs
    assert some["embed"] == work["embed"].items
    store = problem.vectors("row")
    store.write(problem.rows[:7], np.ones((7, 4), np.float32))
    assert left_of(c, problem.ws, inputs, work).items["embed"] == work["embed"].items - 7
