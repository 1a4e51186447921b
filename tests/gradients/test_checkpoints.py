"""Checkpoint files: what is written is read, and nothing that does not fit is taken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from gradients.small import SHAPE, oracle_checkpoint, tiny_adapted
from safetensors.torch import save_file

from nncift_core.errors import IntegrityError, RunError
from nncift_core.gradients.adapters import Adapted, Shape
from nncift_core.gradients.checkpoints import Checkpoint

NAME = "base_model.model.model.layers.0.self_attn.k_proj.lora_A.weight"


@pytest.fixture(scope="module")
def adapted() -> Adapted:
    return tiny_adapted()


@pytest.fixture(scope="module")
def checkpoint(adapted: Adapted) -> Checkpoint:
    return oracle_checkpoint(1, adapted.model.key)


def test_the_oracles_checkpoint_is_written_and_read(
    checkpoint: Checkpoint, adapted: Adapted, tmp_path: Path
) -> None:
    checkpoint.save(tmp_path / "a.safetensors")
    found = Checkpoint.load(tmp_path / "a.safetensors")
    assert (found.epoch, found.steps, found.learning_rate) == (1, 8, 0.003125)
    assert (found.shape, found.model_key) == (SHAPE, adapted.model.key)
    for part in ("weight", "exp_avg", "exp_avg_sq"):
        mine, other = getattr(found, part), getattr(checkpoint, part)
        assert mine.keys() == other.keys() and len(mine) == 16
        assert all(torch.equal(mine[name], other[name]) for name in mine)
    found.save(tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    found.check(adapted)
    adapted.set_weights(found.weight)
    assert torch.equal(adapted.parameters[NAME].detach(), checkpoint.weight[NAME])


def test_all_linear_and_another_scale_are_remembered(checkpoint: Checkpoint, tmp_path: Path) -> None:
    replace(checkpoint, shape=Shape(4, 0.5, "all-linear")).save(tmp_path / "a.safetensors")
    assert Checkpoint.load(tmp_path / "a.safetensors").shape == Shape(4, 0.5, "all-linear")


def without(tensors: Any) -> dict[str, torch.Tensor]:
    return {k: v for k, v in tensors.items() if k != NAME}


@pytest.mark.parametrize("part", ["weight", "exp_avg", "exp_avg_sq"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without, f"lacks {NAME}"),
        (lambda t: {**t, "layers.7.lora_A.weight": torch.zeros(1)}, "has layers.7.lora_A.weight, which"),
        (lambda t: {**t, NAME: t[NAME].T}, rf"of {NAME} is \[64, 4\], the model's adapter \[4, 64\]"),
        (lambda t: {**t, NAME: t[NAME] * torch.nan}, f"of {NAME} holds a number that is not finite"),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    checkpoint: Checkpoint, adapted: Adapted, part: str, change: Callable[[Any], Any], message: str
) -> None:
    with pytest.raises(IntegrityError, match=f"checkpoint 1: {part} .*{message}|{part} {message}"):
        replace(checkpoint, **{part: change(getattr(checkpoint, part))}).check(adapted)


def test_another_model_or_scale_is_refused(checkpoint: Checkpoint, adapted: Adapted) -> None:
    with pytest.raises(RunError, match="another language model"):
        replace(checkpoint, model_key="x").check(adapted)
    with pytest.raises(RunError, match="rank 4 and alpha 16, the adapters have 4 and 8"):
        replace(checkpoint, shape=replace(SHAPE, alpha=16)).check(adapted)


def test_files_that_are_no_checkpoints_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    with pytest.raises(IntegrityError, match="c.safetensors cannot be read"):
        Checkpoint.load(path)
    path.write_bytes(b"not a file of tensors")
    with pytest.raises(IntegrityError, match="c.safetensors cannot be read"):
        Checkpoint.load(path)
    save_file({"weight/a": torch.zeros(2)}, path)
    with pytest.raises(IntegrityError, match="no checkpoint of the format"):
        Checkpoint.load(path)
    save_file({"bias/a": torch.zeros(2)}, path)
    with pytest.raises(IntegrityError, match="unknown tensor bias/a"):
        Checkpoint.load(path)
