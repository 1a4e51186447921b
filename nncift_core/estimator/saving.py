"""A fitted estimator as one file: safetensors with the arrays, and JSON in its metadata for the rest."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from nncift_core.errors import IntegrityError
from nncift_core.estimator.contract import Estimator
from nncift_core.estimator.registry import class_of

FORMAT = "nncift-estimator-1"
_KEY = "estimator"


def save(estimator: Estimator, path: str | Path) -> None:
    """Write a fitted estimator; equal states give equal bytes."""
    arrays, settings = estimator.state()
    header = {"format": FORMAT, "name": estimator.name, "settings": settings}
    content = json.dumps(header, sort_keys=True, allow_nan=False)
    save_file({k: np.ascontiguousarray(x) for k, x in arrays.items()}, str(path), metadata={_KEY: content})


def load(path: str | Path) -> Estimator:
    """Read what `save` wrote: an estimator that predicts the same bits.

    Raises IntegrityError for an absent or broken file, one of another kind, and an unknown estimator.
    """
    try:
        with safe_open(str(path), framework="np") as file:
            header = json.loads((file.metadata() or {}).get(_KEY, "null"))
            if not isinstance(header, dict) or header.get("format") != FORMAT:
                raise IntegrityError(f"{path}: not an estimator of this format ({FORMAT})")
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return class_of(header["name"]).from_state(arrays, header["settings"])
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as e:
        raise IntegrityError(f"{path}: broken estimator file ({e})") from e
