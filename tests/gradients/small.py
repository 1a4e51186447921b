"""What the tests of this folder share: the oracle's model, rows and checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from nncift_core.config import LanguageModelConfig, LessConfig
from nncift_core.gradients.adapters import Adapted, Shape, attach
from nncift_core.gradients.checkpoints import Checkpoint
from nncift_core.gradients.per_sample import Sequences
from nncift_core.influence.contract import Rows
from nncift_core.influence.less import Less
from nncift_core.language_models import LanguageModel, load_language_model
from nncift_core.sequences import encode_prompts

ORACLES = Path(__file__).parents[1] / "data" / "oracles"
TINY = str(ORACLES / "tiny-lm")
QKVO = ("k_proj", "o_proj", "q_proj", "v_proj")
SHAPE = Shape(4, 8, QKVO)


def tiny() -> LanguageModel:
    torch.set_num_threads(1)
    return load_language_model(LanguageModelConfig(model=TINY), "cpu")


def tiny_adapted(shape: Shape = SHAPE) -> Adapted:
    return attach(tiny(), shape)


def oracle_rows(side: str, count: int | None = None) -> Rows:
    lines = (ORACLES / "examples.jsonl").read_text(encoding="utf-8").splitlines()
    found = [x for x in map(json.loads, lines) if x["side"] == side][:count]
    first = 0 if side == "pool" else 1000
    return Rows(
        np.arange(first, first + len(found)),
        tuple(x["prompt"] for x in found),
        tuple(x["response"] for x in found),
    )


def rows_of(*examples: tuple[str, str], first: int = 0) -> Rows:
    ids = np.arange(first, first + len(examples))
    return Rows(ids, tuple(p for p, _ in examples), tuple(r for _, r in examples))


def sequences_of(model: LanguageModel, rows: Rows) -> Sequences:
    """The token rule with the plain template, nothing cut."""
    prompts = encode_prompts(model, rows.prompts, LessConfig().template)
    responses = [[*ids, model.eos_id] for ids in model.tokenize(rows.responses)]
    return Sequences([[*model.bos_ids, *p] for p in prompts], responses)


def from_peft(folder: Path, model_key: str) -> Checkpoint:
    """The product's checkpoint from an oracle's peft adapter with its moments by name."""
    about = json.loads((folder / "checkpoint.json").read_text())
    shape = json.loads((folder / "adapter_config.json").read_text())
    weight = load_file(folder / "adapter_model.safetensors")
    moments = load_file(folder / "optimizer.safetensors")
    return Checkpoint(
        epoch=about["epoch"],
        steps=about["global_step"],
        learning_rate=about["learning_rate"],
        shape=Shape(shape["r"], shape["lora_alpha"], tuple(sorted(shape["target_modules"]))),
        model_key=model_key,
        weight=weight,
        exp_avg={name: moments[f"{name}.exp_avg"] for name in weight},
        exp_avg_sq={name: moments[f"{name}.exp_avg_sq"] for name in weight},
    )


def oracle_checkpoint(number: int, model_key: str) -> Checkpoint:
    return from_peft(ORACLES / "less" / f"checkpoint-{number}", model_key)


def oracle_state(folder: Path, model_key: str) -> Path:
    """A state folder of the oracle's two checkpoints."""
    folder.mkdir(exist_ok=True)
    found = [oracle_checkpoint(k, model_key) for k in (1, 2)]
    for k, checkpoint in enumerate(found, 1):
        checkpoint.save(folder / f"checkpoint-{k}.safetensors")
    total = sum(c.learning_rate for c in found)
    state = {"format": "nncift-less/1", "weights": [c.learning_rate / total for c in found]}
    (folder / "state.json").write_text(json.dumps(state))
    return folder


def less(model: LanguageModel | None = None, seed: int = 0, batch_tokens: int = 8192, **config: Any) -> Less:
    """LESS with the oracle's adapters; `config` changes settings."""
    settings = LessConfig(**{"rank": 4, "alpha": 8, "targets": list(QKVO), "projection": "none", **config})
    model = model or tiny()
    return Less(lambda: model, model.key, settings, seed, batch_tokens)


def values(function: Less, pool: Rows, target: Rows) -> np.ndarray:
    """Influence [len(pool), len(target)] through features."""
    rows = Rows(pool.content_ids, pool.prompts, pool.responses, features=function.features(pool, "row"))
    columns = Rows(
        target.content_ids, target.prompts, target.responses, features=function.features(target, "column")
    )
    return function.tile(rows, columns)
