"""Which GPUs share one training, where `finetune.devices` asks for several."""

from __future__ import annotations

from nncift_core.config import Config
from nncift_core.devices import available_devices, check_device, resolve_devices
from nncift_core.errors import UserError
from nncift_core.finetune.student import settings


def training_devices(config: Config) -> list[str]:
    """The `finetune.devices` GPUs of one training, as "cuda:N".

    The first that `execution.devices` names; where `finetune.device` names one, that and the next ones of
    this machine, the first after the last. Raises UserError where there are fewer.
    """
    own = settings(config)
    if own.device == "auto":
        found = [d for d in resolve_devices(config.execution.devices) if d.startswith("cuda")]
        where = "execution.devices names"
    else:
        first = check_device(own.device, "finetune.device")
        here = [d for d in available_devices() if d.startswith("cuda")]
        at = here.index(first) if first in here else None
        found, where = [] if at is None else [*here[at:], *here[:at]], "there are"
    found = list(dict.fromkeys(found))
    if own.devices > len(found):
        most = f"Use at most {len(found)}." if found else "Remove the key, or run where there are some."
        raise UserError(
            f"{own.devices} GPUs are wanted for one training, and {where} {len(found)}",
            field="finetune.devices",
            mend=most,
        )
    return found[: own.devices]
