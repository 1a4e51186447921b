"""Where a fine-tune runs: in this process, in others of this machine, or over several hosts."""

from __future__ import annotations

from pathlib import Path

from nncift_core.config import Config
from nncift_core.errors import UserError
from nncift_core.finetune.hosts import Invite, fine_tune_over_hosts
from nncift_core.finetune.process import fine_tune_apart
from nncift_core.finetune.rows import TrainingRows
from nncift_core.finetune.student import settings
from nncift_core.finetune.training import FineTuned, Progress, fine_tune_here


def fine_tune(
    config: Config,
    rows: TrainingRows,
    seed: int,
    device: str,
    folder: Path,
    progress: Progress | None = None,
    checkpoints: Path | None = None,
    invite: Invite | None = None,
) -> FineTuned:
    """Train the student on `rows` and write the result and the tokenizer's files.

    Of adapters that is adapter_model.safetensors and adapter_config.json, of a whole model (method "full")
    model.safetensors and config.json. folder: existing and empty, else ValueError; device: "cpu", "mps" or
    "cuda:N" (for several `finetune.devices` any: it runs on those of `training_devices`, which the caller
    keeps free of other trainings); progress(done, total) optimiser steps; checkpoints: a folder, which need
    not exist, for what a killed call left and the next goes on from; invite: with several `finetune.hosts`
    how the others hear of it (else ValueError). The result is a function of
    `fine_tune_key`, not of the order of rows; on another device, or on several, it differs by rounding, and
    with dropout by the batches that `batch_tokens` makes.

    Raises UserError (a response without tokens, `finetune.targets` that match nothing, an unusable model,
    fewer GPUs than wanted, a `finetune.rendezvous` that is not here) and RunError (`Diverged`, too little
    memory, a child process that died, hosts that did not come or left).
    """
    if not len(rows):
        raise ValueError("no rows to train on")
    if not folder.is_dir() or any(folder.iterdir()):
        raise ValueError(f"{folder} is not an empty folder")
    own = settings(config)
    if own.devices > 1 and not device.startswith("cuda"):
        raise UserError(
            f'{own.devices} devices are wanted, and the student runs on "{device}"',
            field="finetune.devices",
            mend="Several devices must be GPUs: remove the key, or run where there are some.",
        )
    if own.hosts > 1:
        if invite is None:
            raise ValueError("nobody would hear of a training over several hosts")
        return fine_tune_over_hosts(config, rows, seed, device, folder, invite, progress, checkpoints)
    where = fine_tune_apart if device.startswith("cuda") else fine_tune_here
    return where(config, rows, seed, device, folder, progress, checkpoints)
