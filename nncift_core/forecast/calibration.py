"""Under which key a workspace keeps unit costs: machine, models and what of the config changes speed."""

from __future__ import annotations

from typing import Any

from nncift_core.config import Config
from nncift_core.forecast.rates import Rates
from nncift_core.hashing import digest
from nncift_core.pipeline.problem import Keys
from nncift_core.store.forecasts import read_calibration, this_machine, write_calibration
from nncift_core.store.workspace import Workspace

# Raise this when rates of an earlier version mean something else.
VERSION = 1
_FASTER = ("device", "batch_tokens", "batch_size")


def calibration_key(config: Config, keys: Keys, machine: dict[str, Any]) -> str:
    """Identity of what is measured: machine, encoder, function (and with it its model), student, estimators,
    metrics, and the settings that change speed but no value. Not of the data, whose sizes are in the work."""
    sections = [config.encoder, config.language_model, *([config.finetune] if config.finetune else [])]
    speed = [{k: getattr(s, k) for k in _FASTER if hasattr(s, k)} for s in sections]
    trained: list[Any] = []
    if config.finetune is not None:
        shape = config.finetune.model_dump(
            mode="json", exclude={"epochs", "tokens", "learning_rate", "model"}
        )
        evaluation = config.evaluation
        asked = [sorted(evaluation.metrics), sorted(evaluation.modes), evaluation.max_new_tokens]
        trained = [shape, *asked]
    e = config.estimator
    estimator = [e.architecture, e.candidates, e.hidden, sorted(e.features)]
    x = config.execution
    where: list[Any] = [x.devices, x.isolation, machine]
    if config.language_model.devices > 1:
        where.append(config.language_model.devices)
    return digest(["calibration", VERSION, where, keys.models(), estimator, trained, speed, config.labels()])


def keep_rates(ws: Workspace, config: Config, keys: Keys, rates: Rates) -> None:
    """Keep a calibration in the workspace."""
    write_calibration(ws, calibration_key(config, keys, this_machine()), rates.record())


def kept_rates(ws: Workspace, config: Config, keys: Keys) -> Rates | None:
    """The calibration that the workspace keeps of such a job on this machine, or None. Reads only.

    Raises IntegrityError for a damaged record.
    """
    record = read_calibration(ws, calibration_key(config, keys, this_machine()))
    return None if record is None else Rates.from_record({k: v for k, v in record.items() if k != "key"})
