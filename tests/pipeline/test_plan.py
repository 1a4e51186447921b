"""`nncift plan` counts the labels that a run would ask for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import ORACLES, write_jsonl
from pipeline.priced import COLUMNS, ROWS, config, examples, register

from nncift_core.config import Config, parse_config
from nncift_core.pipeline.exact import plan_exact
from nncift_core.pipeline.inputs import read_inputs
from nncift_core.pipeline.plan import plan
from nncift_core.pipeline.problem import Problem, keys_of
from nncift_core.store.dataset_writer import store_dataset
from nncift_core.store.workspace import Workspace


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    register(monkeypatch)
    for side, n in (("pool", ROWS), ("target", COLUMNS)):
        rows = [{"prompt": e.prompt, "response": e.response} for e in examples(side, 0, n)]
        write_jsonl(tmp_path / f"{side}.jsonl", rows)
    return tmp_path


def configured(folder: Path, function: str, **settings: Any) -> Config:
    return config(function, **settings).model_copy(update={"base_dir": str(folder)})


def stored(folder: Path, c: Config) -> Problem:
    ws = Workspace.create(folder / "ws")
    refs = [
        store_dataset(ws, i.examples, dataset=i.name, role=i.role, block_rows=16, fingerprint=i.fingerprint)
        for i in read_inputs(c)
    ]
    return Problem.load(ws, c, keys_of(c), refs)


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize(
    ("function", "settings"),
    [
        ("priced", {}),
        ("priced", {"labels": "block"}),
        ("priced", {"labels": "block", "block_ratio": 4.0}),
        ("priced", {"labels": "all-targets"}),
        ("priced", {"label_fraction": 1}),
        ("uncounted", {}),
        ("linear", {}),
        ("free", {}),
        ("free", {"labels": "scattered"}),
        ("single", {}),
        ("free-single", {}),
    ],
)
def test_plan_and_run_agree(folder: Path, function: str, settings: dict[str, Any], kept: bool) -> None:
    c = configured(folder, function, **settings)
    run = plan_exact(stored(folder, c)) if kept else None
    found = plan(c, folder / "ws")
    run = run or plan_exact(stored(folder, c))
    assert found["label_design"] == run.design.kind
    assert found["label_pairs"] == len(run.labels()[0])
    assert found["exact_pairs"] == run.pairs
    if function in ("priced", "uncounted"):
        rows, columns = run.labels()
        most = min(COLUMNS, len(set(columns.tolist())) + len(run.audit_rows))
        assert found["forward_passes"] == run.pairs + most


def test_plan_follows_a_kept_design(folder: Path) -> None:
    c = configured(folder, "priced")
    labels = plan_exact(stored(folder, c)).labels()
    path = folder / "pool.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(lines[4:]), encoding="utf-8")
    found = plan(c, folder / "ws")
    left = plan_exact(stored(folder, c)).labels()
    assert found["label_pairs"] == len(left[0]) < len(labels[0])


def test_plan_asks_no_texts_of_a_model_that_is_not_here(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hub model is not fetched to plan: pairs count alike, which is never too few."""
    c = configured(folder, "priced")
    counted = plan(c, folder / "ws")["label_pairs"]
    monkeypatch.setattr("nncift_core.forecast.work.CATALOGUE", {"priced": _Teacher()})
    monkeypatch.setattr("nncift_core.forecast.work.is_local", lambda *_: False)
    found = plan(c, folder / "ws")
    assert found["label_pairs"] == 12 * 5 > counted


class _Teacher:
    teacher = True


def test_the_disk_forecast_counts_what_estimators_read(tmp_path: Path) -> None:
    """Per text: an embedding, one of its response, and the forward-pass features of a model of width 64."""
    rows = [{"prompt": f"what is {k}", "response": f"the number {k}"} for k in range(900)]
    write_jsonl(tmp_path / "pool.jsonl", rows)

    def forecast(*groups: str, kept: str = "all", **influence: Any) -> float:
        made = parse_config(
            {
                "pool": {"source": "pool.jsonl"},
                "shards": {"store_matrix": kept},
                "language_model": {"model": str(ORACLES / "tiny-lm")},
                "influence": {"function": "delift", "labels": "block", "label_fraction": 0.1, **influence},
                "estimator": {"architecture": "ridge", "features": list(groups)},
            },
            base_dir=tmp_path,
        )
        disk: float = plan(made, tmp_path / "ws")["forecast_disk_mb"]
        return disk

    # The baselines beside every estimate read the embedding.
    least = forecast("lengths")
    assert least > 900 * 384 * 4 / 1e6
    assert forecast("lengths", "response") - least == pytest.approx(900 * 384 * 4 / 1e6, abs=0.1)
    forward = 4 + 3 * 64 + 64 * 64
    assert forecast("lengths", "loss") - least == pytest.approx(900 * forward * 4 / 1e6, abs=0.1)
    assert least - forecast("lengths", kept="none") == pytest.approx(900**2 * 0.99 * 4 / 1e6, rel=0.1)
    everything = forecast("response", "loss", label_fraction=1)
    assert everything == forecast("lengths", label_fraction=1) < 900**2 * 4.2 / 1e6 + 1
