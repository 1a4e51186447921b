"""One model of a comparison: trained into the workspace, gone on with after a stop, described beside."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from finetune.small import FAST
from huggingface_hub import ModelCard
from stored_jobs import exact_job

from nncift_core.config import parse_config
from nncift_core.finetune import fine_tune_key, load_fine_tuned
from nncift_core.pipeline.downstream import (
    Cell,
    check_student,
    is_trained,
    masks_table,
    train_cell,
    trained_weights,
    training_card,
)
from nncift_core.pipeline.problem import Problem
from nncift_core.store.collection.leftovers import find_leftovers
from nncift_core.store.lineage import Lineage


def problem(folder: Path, **finetune: Any) -> Problem:
    """A stored job with a student."""
    folder.mkdir()
    found = exact_job(folder).problem()
    settings = {k: v for k, v in ({**FAST, "epochs": 1} | finetune).items() if v is not None}
    given = found.config.model_dump(mode="json", exclude={"base_dir", "evaluation"}, exclude_unset=True)
    return replace(found, config=parse_config(given | {"finetune": settings}, base_dir=folder))


def cell(world: Problem, seed: int = 0) -> Cell:
    rows = np.arange(6)
    hashes = [f"{c:016x}" for c in world.pool.content_ids[rows].tolist()]
    return Cell("selected", seed, rows, fine_tune_key(world.config, hashes, seed))


def test_an_adapter_is_published_whole_with_what_it_is(tmp_path: Path) -> None:
    world = problem(tmp_path / "job")
    one, told = cell(world), list[int]()
    assert not is_trained(world.ws, one.key)
    assert train_cell(world, one, "cpu", "runs/r/subsets.parquet", told.append) == 6 == sum(told)
    folder = world.ws.adapter_dir(one.key)
    assert is_trained(world.ws, one.key) and trained_weights(world.ws, one.key).suffix == ".safetensors"
    published = {p.name for p in folder.iterdir() if not p.name.endswith(".manifest.json")}
    assert published == {
        "README.md", "adapter_config.json", "adapter_model.safetensors", "tokenizer.json",
        "tokenizer_config.json", "training.json",
    }  # fmt: skip
    # The folder stands for its weights in the lineage.
    assert Lineage(world.ws).main_file(world.ws.relative(folder)) == world.ws.relative(
        trained_weights(world.ws, one.key)
    )
    card = ModelCard((folder / "README.md").read_text(encoding="utf-8"))
    assert one.key in card.text and str(tmp_path) not in card.text
    for name in ("README.md", "tokenizer.json"):
        (folder / name).unlink()
    # As adapters of an older version are stored.
    assert is_trained(world.ws, one.key)


def test_the_card_notes_which_tokens_were_learned(tmp_path: Path) -> None:
    world = problem(tmp_path / "job")
    first, second = cell(world), cell(world, seed=1)
    for one in (first, second):
        train_cell(world, one, "cpu", "p")
    rows = masks_table(world, "r", [Cell("base", None, np.empty(0, np.int64), "k"), first, second])
    assert {r["seed"] for r in rows} == {0} and len({r["train_id"] for r in rows}) == 3
    text = "".join(r["text"] for r in rows if r["train_id"] == rows[0]["train_id"] and r["learned"])
    where = world.pool.example_ids.tolist().index(rows[0]["train_id"])
    texts = world.pool.texts(world.pool.content_ids[[where]])
    assert text.startswith(texts.responses[0]) and len(text) > len(texts.responses[0])
    path = world.ws.adapter_dir(first.key) / "training.json"
    card = training_card(world.ws, first.key)
    path.write_text(json.dumps({k: v for k, v in card.items() if k != "masks"}), encoding="utf-8")
    assert masks_table(world, "r", [first]) == []


def test_a_whole_model_is_published_and_loaded(tmp_path: Path) -> None:
    world = problem(tmp_path / "job", method="full", rank=None)
    one = cell(world)
    train_cell(world, one, "cpu", "p")
    assert is_trained(world.ws, one.key) and trained_weights(world.ws, one.key).name == "model.safetensors"
    folder = world.ws.adapter_dir(one.key)
    assert load_fine_tuned(world.config, folder, "cpu").model.config.hidden_size == 64
    assert ModelCard((folder / "README.md").read_text()).data.library_name == "transformers"
    trained_weights(world.ws, one.key).write_bytes(b"damaged")
    assert not is_trained(world.ws, one.key)


def test_a_training_that_was_stopped_goes_on_and_leaves_no_scratch(tmp_path: Path) -> None:
    world = problem(tmp_path / "job", epochs=3, checkpoint_minutes=1e-9)
    one = cell(world)

    def stop(_rows: int) -> None:
        if (world.ws.training_dir(one.key) / "state.safetensors").is_file():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_cell(world, one, "cpu", "p", stop)
    kept = world.ws.training_dir(one.key)
    assert kept.is_dir() and not is_trained(world.ws, one.key)
    # Young scratch is no leftover: a training may be going on with it.
    assert list(find_leftovers(world.ws, {}, [])) == []
    train_cell(world, one, "cpu", "p")
    assert training_card(world.ws, one.key)["resumed_at"] == 1 and not kept.exists()


def test_a_budget_of_tokens_counts_every_row_once(tmp_path: Path) -> None:
    world = problem(tmp_path / "job", epochs=None, tokens=900)
    told: list[int] = []
    assert train_cell(world, cell(world), "cpu", "p", told.append) == 6 == sum(told)
    assert 900 <= training_card(world.ws, cell(world).key)["seen_tokens"] < 2000


def test_a_method_that_cannot_run_here_is_refused_before_hours_pass(tmp_path: Path) -> None:
    import torch

    from nncift_core.errors import UserError

    if torch.cuda.is_available():
        pytest.skip("a GPU is here")
    with pytest.raises(UserError, match="finetune.method"):
        check_student(problem(tmp_path / "job", method="qlora").config, fetch=False)
