"""Rotary angles that follow the length of a sequence ("dynamic" and "longrope" scaling)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch


def length_dependent(model: Any) -> bool:
    """Whether a transformers `model` turns keys and queries by angles that depend on the longest sequence
    of a forward pass, in any kind of layer."""
    config = model.config
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    given = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None)
    if not isinstance(given, Mapping):
        return False
    kinds = [part for part in (given, *given.values()) if isinstance(part, Mapping)]
    names = [str(part.get("rope_type") or part.get("type")) for part in kinds]
    return any("dynamic" in name or name == "longrope" for name in names)


def forget_lengths(module: torch.nn.Module) -> None:
    """Set dynamic rotary angles back to those of short sequences.

    transformers keeps the angles of the longest sequence so far until one comes that needs none, so that
    values would depend on what was computed before.
    """
    for part in module.modules():
        short = getattr(part, "original_max_seq_len", None)
        kind = getattr(part, "rope_type", None)
        by_layer = (
            {f"{name}_": own for name, own in kind.items()} if isinstance(kind, Mapping) else {"": kind}
        )
        for prefix, kind in by_layer.items():
            original = getattr(part, f"{prefix}original_inv_freq", None)
            if short is not None and original is not None and "dynamic" in str(kind):
                now = getattr(part, f"{prefix}inv_freq")
                part.register_buffer(f"{prefix}inv_freq", original.to(now.device), persistent=False)
                setattr(part, f"{prefix}max_seq_len_cached", short)
