"""tiny-lm with rotary angles that follow the length of the sequence, and its plain forward pass."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from nncift_core.config import LanguageModelConfig
from nncift_core.language_models import LanguageModel, load_language_model

TINY = Path(__file__).parent / "data" / "oracles" / "tiny-lm"
KINDS = ("dynamic", "longrope")


def rope_model(kind: str, folder: Path, limit: int = 128) -> LanguageModel:
    """tiny-lm whose angles change beyond `limit` tokens; sequences may have 1,024."""
    for path in TINY.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    half = (config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]) // 2
    rope: dict[str, Any] = {"rope_type": kind, "rope_theta": 10000.0, "factor": 8.0}
    rope["original_max_position_embeddings"] = limit
    if kind == "dynamic":
        config["max_position_embeddings"] = limit
    else:
        rope |= {"short_factor": [1.0] * half, "long_factor": [4.0] * half}
    (folder / "config.json").write_text(json.dumps(config | {"rope_parameters": rope}), encoding="utf-8")
    model = load_language_model(LanguageModelConfig(model=str(folder)), "cpu")
    return replace(model, context_length=1024)


class Fresh:
    """A model's forward pass after one over two tokens, which sets its angles back to those at the start."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __call__(self, **kwargs: Any) -> Any:
        with torch.no_grad():
            self.inner(input_ids=torch.tensor([[5, 6]]))
        return self.inner(**kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def fresh(model: LanguageModel) -> LanguageModel:
    """The model for a plain reference, whose values do not depend on what was computed before."""
    return replace(model, model=Fresh(model.model))
