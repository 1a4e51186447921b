"""A training that was killed goes on where it was and gives the same weights."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from finetune.small import ROWS, job, same, tuned

from nncift_core.finetune import FineTuned, fine_tune
from nncift_core.finetune.checkpoints import Checkpoints, State

# Dropout, so that the random state counts; nine steps, of which the third ends a pass.
SETTINGS = {"epochs": 3, "dropout": 0.2, "weight_decay": 0.1, "checkpoint_minutes": 1e-9}
KILLED = """
import os, signal, sys
from pathlib import Path
from finetune.small import ROWS, job
from nncift_core.finetune import fine_tune
from finetune.test_checkpoints import SETTINGS
import torch
torch.set_num_threads(int(sys.argv[3]))
def die(done, total):
    if done == int(sys.argv[4]):
        os.kill(os.getpid(), signal.SIGKILL)
fine_tune(job(**SETTINGS), ROWS, 0, "cpu", Path(sys.argv[1]), die, Path(sys.argv[2]))
"""


def resumed(tmp_path: Path, kept: Path, **settings: object) -> tuple[FineTuned, dict[str, torch.Tensor]]:
    return tuned(tmp_path, job(**{**SETTINGS, **settings}), checkpoints=kept)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[FineTuned, dict[str, torch.Tensor]]:
    return tuned(tmp_path_factory.mktemp("whole") / "a", job(**SETTINGS))


@pytest.mark.parametrize("step", [3, 5])
def test_a_training_broken_off_after_any_step_ends_bit_equal(
    uninterrupted: tuple[FineTuned, dict[str, torch.Tensor]], tmp_path: Path, step: int
) -> None:
    def stop(done: int, _total: int) -> None:
        if done == step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tuned(tmp_path / "broken", job(**SETTINGS), progress=stop, checkpoints=tmp_path / "kept")
    told, weights = resumed(tmp_path / "a", tmp_path / "kept")
    assert same(weights, uninterrupted[1])
    assert told.resumed_at == step and told.losses == uninterrupted[0].losses


@pytest.mark.heavy
@pytest.mark.parametrize("step", [3, 5])
def test_a_training_killed_after_any_step_ends_bit_equal(
    uninterrupted: tuple[FineTuned, dict[str, torch.Tensor]], tmp_path: Path, step: int
) -> None:
    (tmp_path / "killed").mkdir()
    tests = Path(__file__).parents[1]
    command = [sys.executable, "-c", KILLED, str(tmp_path / "killed"), str(tmp_path / "kept")]
    done = subprocess.run(
        [*command, str(torch.get_num_threads()), str(step)],
        env={"PYTHONPATH": f"{tests}:{tests.parent}", "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        timeout=200,
    )
    assert done.returncode == -9 and not any((tmp_path / "killed").iterdir())
    told, weights = resumed(tmp_path / "a", tmp_path / "kept")
    assert same(weights, uninterrupted[1])
    assert told.resumed_at == step and told.losses == uninterrupted[0].losses
    assert told.steps == uninterrupted[0].steps == 9


def test_states_of_other_settings_and_damaged_ones_are_not_gone_on_from(
    uninterrupted: tuple[FineTuned, dict[str, torch.Tensor]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept = tmp_path / "kept"
    resumed(tmp_path / "other", kept, weight_decay=0.2)
    told, weights = resumed(tmp_path / "a", kept)
    assert told.resumed_at == 0 and same(weights, uninterrupted[1])
    (kept / "state.safetensors").write_bytes(b"half a file")
    told, weights = resumed(tmp_path / "b", kept)
    assert told.resumed_at == 0 and same(weights, uninterrupted[1])
    assert "its state cannot be read" in caplog.text


def test_no_state_is_kept_where_none_is_wanted(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    fine_tune(job(checkpoint_minutes=0, epochs=1), ROWS, 0, "cpu", tmp_path / "a", None, tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def test_a_state_comes_back_as_it_was_and_time_decides_when(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path / "kept", 60.0, "one")
    assert not kept.due() and kept.load() is None
    state = State(3, {"a": torch.tensor([1.5], dtype=torch.bfloat16)}, [0.1 + 0.2], 1 / 3, 7)
    kept.save(state)
    found = kept.load()
    assert found is not None and torch.equal(found.tensors["a"], state.tensors["a"])
    assert (found.steps, found.losses, found.loss_sum, found.loss_count) == (3, [0.1 + 0.2], 1 / 3, 7)
    assert Checkpoints(tmp_path / "kept", 60.0, "two").load() is None
    assert [p.name for p in (tmp_path / "kept").iterdir()] == ["state.safetensors"]
