"""The quickstart's jobs: built-in pool, targets and models; nothing is fetched."""

from __future__ import annotations

from typing import Any

from nncift_core.config import Config, parse_config

_SHARED: dict[str, Any] = {
    "pool": {"source": "builtin:pool"},
    "influence": {"function": "delift", "label_fraction": 0.15, "audit_pairs": 300},
    "selection": {"fraction": 0.1},
    # What buys most in least time: response embeddings double the time of embedding and add little here.
    "estimator": {
        "candidates": ["kernel", "ridge", "mlp"],
        "features": ["embedding", "lengths", "hidden", "error", "loss", "bm25", "proxy"],
    },
}


def quickstart_config() -> Config:
    """Value the built-in pool against GSM8K problems, fine-tune on the subset, compare with random rows.

    The learning rate suits the built-in model, which is a thousand times smaller than usual ones.
    """
    return parse_config(
        {
            **_SHARED,
            "target": {"source": "builtin:target", "split": "validation", "limit": 100, "test": "test"},
            "finetune": {"epochs": 2, "learning_rate": 1.5e-3, "rank": 8, "alpha": 16, "batch_tokens": 4096},
            "evaluation": {"max_new_tokens": 64},
        }
    )


def second_target_config() -> Config:
    """The same pool against banking intents, up to the subset: another target wants other rows."""
    target = {"source": "builtin:target_intent", "split": "validation", "limit": 60}
    return parse_config({**_SHARED, "target": target})
