"""How far a training is, in one file: to go on from there, bit-equal, after its process was killed.

The file is safetensors with everything that is no tensor as JSON in its header; nothing is pickled. It is
replaced in one step, so a kill leaves the one before.
"""

from __future__ import annotations

import json
import logging
import os
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from nncift_core.finetune.world import World

_FILE = "state.safetensors"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class State:
    """A training after `steps` optimiser steps: weights, moments and random states; losses so far.

    loss_sum, loss_count: of the pass that is not over yet.
    """

    steps: int
    tensors: dict[str, torch.Tensor]
    losses: list[float]
    loss_sum: float
    loss_count: int


class Checkpoints:
    """The states of one training in `folder`, which is made when the first is saved.

    identity: what the training is a function of; states of another one are not read. minutes between two
    states, 0 for none at all: not even an older one is read then.
    """

    def __init__(self, folder: Path | None, minutes: float, identity: str) -> None:
        self.path = None if folder is None or minutes == 0 else folder / _FILE
        self.minutes, self.identity = minutes, identity
        self._last = time.monotonic()

    def due(self) -> bool:
        """Whether it is time to save."""
        return self.path is not None and time.monotonic() - self._last >= 60 * self.minutes

    def save(self, state: State) -> None:
        """Replace the last state by this one."""
        assert self.path is not None
        self.path.parent.mkdir(parents=True, exist_ok=True)
        known = {
            "identity": self.identity,
            "steps": state.steps,
            "losses": state.losses,
            "loss_sum": state.loss_sum,
            "loss_count": state.loss_count,
        }
        part = self.path.with_name(f".{self.path.name}.{uuid.uuid4().hex[:8]}.part")
        try:
            tensors = {name: t.detach().cpu().contiguous() for name, t in state.tensors.items()}
            save_file(tensors, part, metadata={"state": json.dumps(known)})
            with part.open("rb+") as f:
                os.fsync(f.fileno())
            os.replace(part, self.path)
        finally:
            part.unlink(missing_ok=True)
        self._last = time.monotonic()

    def load(self) -> State | None:
        """The last state of this training; None when there is none, or (told in the log) it is damaged."""
        if self.path is None or not self.path.is_file():
            return None
        try:
            with safe_open(self.path, framework="pt") as f:
                known: dict[str, Any] = json.loads((f.metadata() or {})["state"])
                if known.pop("identity") != self.identity:
                    return None
                # Copies: the file is mapped into memory, and gone when the training is over.
                tensors = {name: f.get_tensor(name).clone() for name in f.keys()}  # noqa: SIM118
            return State(tensors=tensors, **known)
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as e:
            _log.warning("a training starts anew: its state cannot be read (%s)", e)
            return None


def spread(state: State | None, world: World, device: str) -> State | None:
    """The writer's state on every process of `world`: other hosts have no file to read it from."""
    if world.size == 1:
        return state
    own = state.tensors if state is not None else {}
    told: dict[str, Any] = {"there": state is not None}
    if state is not None:
        shapes = [[name, list(t.shape), str(t.dtype).removeprefix("torch.")] for name, t in own.items()]
        told |= {"tensors": shapes, "steps": state.steps, "losses": state.losses}
        told |= {"loss_sum": state.loss_sum, "loss_count": state.loss_count}
    # repr of a float loses nothing, so losses come over as they are.
    told = json.loads(world.spread_text(device, json.dumps(told)))
    if not told.pop("there"):
        return None
    tensors = {}
    for name, shape, dtype in told.pop("tensors"):
        given = own[name] if world.writes else torch.empty(shape, dtype=getattr(torch, dtype))
        # One at a time, so that the device holds no second copy of all.
        tensors[name] = world.spread(given.to(device).reshape(-1)).cpu().reshape(shape)
    return State(tensors=tensors, **told)


def snapshot(
    named: Mapping[str, torch.Tensor], optimizer: torch.optim.Optimizer, device: str
) -> dict[str, torch.Tensor]:
    """Weights `named`, what the optimiser keeps of each, and the random states of CPU and `device`."""
    found = {f"weight/{name}": p for name, p in named.items()}
    for name, p in named.items():
        found |= {f"{what}/{name}": value for what, value in optimizer.state[p].items()}
    found["random/cpu"] = torch.get_rng_state()
    if device.startswith("cuda"):
        found["random/device"] = torch.cuda.get_rng_state(device)
    elif device == "mps":
        found["random/device"] = torch.mps.get_rng_state()
    return found


def restore(
    tensors: dict[str, torch.Tensor],
    named: Mapping[str, torch.Tensor],
    optimizer: torch.optim.Optimizer,
    device: str,
) -> None:
    """Put everything that `snapshot` found back where it was."""
    left = dict(tensors)
    with torch.no_grad():
        for name, p in named.items():
            p.copy_(left.pop(f"weight/{name}"))
    torch.set_rng_state(left.pop("random/cpu"))
    other = left.pop("random/device", None)
    if other is not None and device.startswith("cuda"):
        torch.cuda.set_rng_state(other, device)
    elif other is not None and device == "mps":
        torch.mps.set_rng_state(other)
    for key, value in left.items():
        what, _, name = key.partition("/")
        # The step count stays on the CPU, where the optimiser reads it.
        optimizer.state[named[name]][what] = value if value.ndim == 0 else value.to(named[name].device)
