"""Identities of trainings: what decides a result and nothing else, so that none is trained twice.

Rows are told by their content ids and labels, hashed as bytes: lists of a million numbers are slow as text.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt

from nncift_core.config_prune import TrainingConfig

# Settings that change what is kept of a training, but not the model.
LOOKS = frozenset({"checkpoints", "log_every", "log_epochs", "keep_logits"})
_FULL_ONLY = frozenset({"encoder_rate", "max_tokens"})
# A single layer has none between.
_HIDDEN = frozenset({"hidden", "dropout"})


def array_digest(array: npt.NDArray[Any]) -> str:
    """SHA-256 (first 32 hex characters) of an array's type, shape and bytes, as little-endian numbers."""
    told = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    found = hashlib.sha256(f"{told.dtype.str}{told.shape}".encode())
    found.update(told.data.cast("B") if told.size else b"")
    return found.hexdigest()[:32]


def read_settings(training: TrainingConfig, *, looks: bool) -> dict[str, Any]:
    """The settings that a training of its mode and head reads, JSON-ready; looks: those of `LOOKS` too.

    With a frozen encoder nobody reads the encoder's learning rate or `max_tokens`, and a linear head has no
    hidden layer and no dropout.
    """
    unread = _FULL_ONLY if training.mode == "frozen" else frozenset[str]()
    unread |= _HIDDEN if training.head == "linear" else frozenset()
    unread |= frozenset() if looks else LOOKS
    return training.model_dump(mode="json", exclude=set(unread))
