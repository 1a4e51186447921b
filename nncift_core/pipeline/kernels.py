"""Which kernel predicts the networks' matrices in a workspace: measured once, recorded, part of the keys."""

from __future__ import annotations

import json
from importlib.metadata import version
from typing import Any

from nncift_core.config import Config
from nncift_core.errors import IntegrityError
from nncift_core.estimator import network_calibration
from nncift_core.estimator.network_calibration import Calibration
from nncift_core.store.files import write_json
from nncift_core.store.locks import locked
from nncift_core.store.workspace import Workspace

# Of the embeddings that the measurement is made with; the order of the kernels does not hang on it.
_DIMENSION = 384
_NETWORKS = ("mlp", "mlp-paper")


def needs_kernel(config: Config, architecture: str) -> bool:
    """Whether an estimator of this name may be a network."""
    names = config.estimator.candidates if architecture == "auto" else [architecture]
    return any(name in _NETWORKS for name in names)


def recorded(ws: Workspace) -> Calibration | None:
    """The calibration of the workspace, if it fits the libraries that are installed here. Reads only.

    Raises IntegrityError for a damaged record.
    """
    path = ws.calibration_file
    if not path.is_file():
        return None
    try:
        found = Calibration.from_record(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as e:
        raise IntegrityError(f"{path}: {e}. Delete the file") from e
    # Another version may give other bits: what it made is kept under other keys.
    fits = found.kernel in network_calibration.installed() and found.identity()["version"] == version(
        found.kernel
    )
    return found if fits else None


def settle_kernel(ws: Workspace, hidden: int) -> dict[str, Any]:
    """The identity of the workspace's kernel, measured now where there is none; this process uses it."""
    with locked(ws.lock("calibration")):
        found = recorded(ws)
        if found is None:
            found = network_calibration.calibrate(hidden, _DIMENSION)
            write_json(ws.calibration_file, found.record())
    network_calibration.use(found.record())
    return found.identity()
