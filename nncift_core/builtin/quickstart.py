"""The quickstart's job: built-in pool, target and models; nothing is fetched."""

from __future__ import annotations

from nncift_core.config import Config, parse_config


def quickstart_config() -> Config:
    """Value the built-in pool against GSM8K problems with `delift` and the built-in language model."""
    return parse_config(
        {
            "pool": {"source": "builtin:pool"},
            "target": {"source": "builtin:target", "split": "validation", "limit": 100},
            "influence": {"function": "delift", "label_fraction": 0.15, "audit_pairs": 300},
            "selection": {"fraction": 0.1},
        }
    )
