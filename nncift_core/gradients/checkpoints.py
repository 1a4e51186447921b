"""Checkpoints of a warm-up training: adapter weights with their Adam moments, by parameter name.

One safetensors file each: tensors `weight/NAME`, `exp_avg/NAME`, `exp_avg_sq/NAME` in float32, NAME as in
`adapters.py`, and one metadata entry `nncift` with the rest as JSON. So a moment can never be taken for
another parameter's, which optimiser files with numbered states allow.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from nncift_core.errors import IntegrityError, RunError
from nncift_core.gradients.adapters import Adapted, Shape
from nncift_core.hashing import canonical_json

FORMAT = "nncift-checkpoint/1"
_ENTRY = "nncift"
_PARTS = ("weight", "exp_avg", "exp_avg_sq")

Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """The adapters after an epoch, on the CPU.

    epoch: from 1; steps: optimiser steps so far; learning_rate: mean over the epoch's steps; shape: of the
    adapters; model_key: `LanguageModel.key` of the model they belong to; weight, exp_avg, exp_avg_sq: by
    parameter name.
    """

    epoch: int
    steps: int
    learning_rate: float
    shape: Shape
    model_key: str
    weight: Tensors
    exp_avg: Tensors
    exp_avg_sq: Tensors

    def save(self, path: Path) -> None:
        """Write the file; equal checkpoints give equal bytes."""
        targets = self.shape.targets
        about = {
            "format": FORMAT,
            "epoch": self.epoch,
            "steps": self.steps,
            "learning_rate": self.learning_rate,
            "rank": self.shape.rank,
            "alpha": self.shape.alpha,
            "targets": targets if isinstance(targets, str) else list(targets),
            "model": self.model_key,
        }
        tensors = {
            f"{part}/{name}": tensor.detach().to("cpu", torch.float32).contiguous()
            for part in _PARTS
            for name, tensor in getattr(self, part).items()
        }
        save_file(tensors, path, metadata={_ENTRY: canonical_json(about)})

    @classmethod
    def load(cls, path: Path) -> Checkpoint:
        """Read a file of `save`; raises IntegrityError for anything else."""
        found: dict[str, dict[str, torch.Tensor]] = {part: {} for part in _PARTS}
        try:
            with safe_open(path, "pt") as file:
                about: dict[str, Any] = json.loads((file.metadata() or {}).get(_ENTRY, "{}"))
                for key in file.keys():  # noqa: SIM118
                    part, _, name = key.partition("/")
                    if part not in found:
                        raise IntegrityError(f"the checkpoint {path.name} holds an unknown tensor {key}")
                    found[part][name] = file.get_tensor(key)
        except (OSError, SafetensorError, json.JSONDecodeError) as e:
            raise IntegrityError(f"the checkpoint {path.name} cannot be read ({e})") from e
        if about.get("format") != FORMAT:
            raise IntegrityError(f"{path.name} is no checkpoint of the format {FORMAT}")
        targets = about["targets"]
        return cls(
            epoch=about["epoch"],
            steps=about["steps"],
            learning_rate=about["learning_rate"],
            shape=Shape(
                about["rank"], about["alpha"], targets if targets == "all-linear" else tuple(targets)
            ),
            model_key=about["model"],
            **found,
        )

    def check(self, adapted: Adapted) -> None:
        """Whether this checkpoint belongs to `adapted`.

        Raises RunError for another model or scale, IntegrityError naming the first parameter that is missing,
        unknown, of another shape or not finite.
        """
        if self.model_key != adapted.model.key:
            raise RunError(
                f"checkpoint {self.epoch} was trained on another language model than the one at hand"
            )
        mine, other = self.shape, adapted.shape
        if (mine.rank, mine.alpha) != (other.rank, other.alpha):
            raise RunError(
                f"checkpoint {self.epoch} has rank {mine.rank} and alpha {mine.alpha:g}, "
                f"the adapters have {other.rank} and {other.alpha:g}"
            )
        shapes = {name: tuple(p.shape) for name, p in adapted.parameters.items()}
        for part in _PARTS:
            self._check_part(part, getattr(self, part), shapes)

    def _check_part(self, part: str, tensors: Tensors, shapes: Mapping[str, tuple[int, ...]]) -> None:
        where = f"checkpoint {self.epoch}: {part}"
        for name, shape in shapes.items():
            if name not in tensors:
                raise IntegrityError(f"{where} lacks {name}, which the model's adapters have")
            if tuple(tensors[name].shape) != shape:
                raise IntegrityError(
                    f"{where} of {name} is {list(tensors[name].shape)}, the model's adapter {list(shape)}"
                )
            if not bool(torch.isfinite(tensors[name]).all()):
                raise IntegrityError(f"{where} of {name} holds a number that is not finite")
        extra = sorted(tensors.keys() - shapes.keys())
        if extra:
            raise IntegrityError(f"{where} has {extra[0]}, which the model's adapters lack")
