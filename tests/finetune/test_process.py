"""A fine-tuning in a process of its own: same result, told errors, a certain end, one GPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from finetune.small import ROWS, Trained, gap, job, rows_of, same, tuned

from nncift_core.config import Config
from nncift_core.errors import RunError, UserError
from nncift_core.finetune import Diverged, training_devices
from nncift_core.finetune.process import child_env, child_spec, fine_tune_apart, launcher
from nncift_core.pipeline.inputs import check_devices


def test_a_process_of_its_own_gives_the_same_adapter(trained: Trained, tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    done, weights = tuned(tmp_path / "a", by=fine_tune_apart, progress=lambda a, b: steps.append((a, b)))
    assert same(weights, trained[1]) and done == trained[0]
    shapes = [(folder / "adapter_config.json").read_bytes() for folder in (trained[2], tmp_path / "a")]
    assert shapes[0] == shapes[1]
    assert steps == [(k, 6) for k in range(1, 7)]
    same_tokenizer = (
        folder.joinpath("tokenizer.json").read_bytes() for folder in (trained[2], tmp_path / "a")
    )
    assert len(set(same_tokenizer)) == 1


def test_its_user_errors_come_through(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="example 1000, pool row 0") as e:
        tuned(tmp_path / "a", rows=rows_of([("p", "")]), by=fine_tune_apart)
    assert e.value.what.startswith("1 of 1") and e.value.mend.startswith("Give these rows")


def test_its_divergence_comes_through(tmp_path: Path) -> None:
    with pytest.raises(Diverged, match=r"learning_rate: .*not a finite number") as e:
        tuned(tmp_path / "a", job(learning_rate=1e30), by=fine_tune_apart)
    assert e.value.what == "the training loss"


def test_its_death_is_told_with_its_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONHOME", str(tmp_path / "nowhere"))
    with pytest.raises(RunError, match=r"(?s)ended with code.*encodings"):
        tuned(tmp_path / "a", by=fine_tune_apart)


def children() -> list[psutil.Process]:
    found = psutil.Process().children(recursive=True)
    return [p for p in found if "nncift_core.finetune" in p.cmdline()]


def test_it_ends_when_its_caller_gives_up(tmp_path: Path) -> None:
    alive: list[int] = []

    def give_up(_done: int, _total: int) -> None:
        alive.append(len(children()))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tuned(tmp_path / "a", job(epochs=100_000), by=fine_tune_apart, progress=give_up)
    assert alive == [1] and children() == []


def test_it_ends_when_its_callers_end_of_the_pipe_closes(tmp_path: Path) -> None:
    """As happens when the caller is killed: stdin is at its end from the start here."""
    folder, spec, result = tmp_path / "a", tmp_path / "spec.json", tmp_path / "result.json"
    folder.mkdir()
    spec.write_text(json.dumps(child_spec(job(), ROWS, 0, "cpu", folder)), encoding="utf-8")
    command = [sys.executable, "-m", "nncift_core.finetune", str(spec), str(result)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, env=child_env("cpu"), timeout=120)
    assert done.returncode == 1 and not result.exists() and not any(folder.iterdir())


@pytest.mark.parametrize(
    ("visible", "device", "expected"),
    [(None, "cuda:2", "2"), (None, "cuda", "0"), ("5,7", "cuda:1", "7"), ("GPU-a, GPU-b", "cuda:1", "GPU-b")],
)
def test_its_gpu_is_the_only_one_it_sees(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, device: str, expected: str
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    env = child_env(device)
    assert env["CUDA_VISIBLE_DEVICES"] == expected
    assert not {"WORLD_SIZE", "ACCELERATE_USE_CPU"} & env.keys()


def test_a_gpu_that_is_not_visible_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    with pytest.raises(RunError, match="cuda:1"):
        child_env("cuda:1")
    assert child_env("cpu")["CUDA_VISIBLE_DEVICES"] == "5"


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, nncift_core.finetune; print({'torch', 'peft', 'transformers'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("visible", "devices", "expected"),
    [
        ("5,7,8", ("cuda:1", "cuda:2"), "7,8"),
        ("5, 7,8", ("cuda:2", "cuda:0"), "8,5"),
        (None, ("cuda:1", "cuda:3"), "1,3"),
    ],
)
def test_several_gpus_are_seen_in_their_order(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, devices: tuple[str, ...], expected: str
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert child_env(*devices)["CUDA_VISIBLE_DEVICES"] == expected


def on_gpus(slots: list[str] | str, **finetune: Any) -> Config:
    """A config with slots on GPUs."""
    found = job(**finetune)
    return found.model_copy(update={"execution": found.execution.model_copy(update={"devices": slots})})


@pytest.mark.parametrize(
    ("slots", "device", "expected"),
    [
        ("auto", "auto", ["cuda:0", "cuda:1"]),
        (["cuda:3", "cuda:3", "cpu", "cuda:1", "cuda:0"], "auto", ["cuda:3", "cuda:1"]),
        (["cpu"], "cuda:2", ["cuda:2", "cuda:3"]),
        (["cuda"], "cuda:3", ["cuda:3", "cuda:0"]),
    ],
)
def test_several_gpus_are_the_first_slots_or_those_from_the_named_one_on(
    monkeypatch: pytest.MonkeyPatch, slots: list[str] | str, device: str, expected: list[str]
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    found = on_gpus(slots, devices=2, device=device)
    assert training_devices(found) == expected
    check_devices(found)


@pytest.mark.parametrize(("slots", "device"), [(["cuda:1", "cuda:1"], "auto"), ("auto", "cpu")])
def test_a_training_on_more_gpus_than_there_are_is_refused_before_the_run(
    monkeypatch: pytest.MonkeyPatch, slots: list[str] | str, device: str
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    with pytest.raises(UserError, match="finetune.devices: 2 GPUs are wanted") as e:
        check_devices(on_gpus(slots, devices=2, device=device))
    assert e.value.mend
    check_devices(on_gpus(slots, device=device))


def test_several_devices_are_started_by_torchs_launcher_and_must_be_gpus(tmp_path: Path) -> None:
    assert launcher(1)[1:] == ["-m", "nncift_core.finetune"]
    several = launcher(3)
    assert several[2] == "torch.distributed.run" and "--nproc-per-node=3" in several
    assert several[-1] == "nncift_core.finetune"
    with pytest.raises(UserError, match='2 devices are wanted, and the student runs on "cpu"') as e:
        tuned(tmp_path / "a", job(devices=2))
    assert e.value.field == "finetune.devices"


@pytest.mark.heavy
def test_two_processes_train_the_adapter_that_one_does(trained: Trained, tmp_path: Path) -> None:
    """On the CPU, where the product would not do it: the sums between processes are the same."""
    steps: list[tuple[int, int]] = []
    done, weights = tuned(
        tmp_path / "a", job(devices=2), by=fine_tune_apart, progress=lambda a, b: steps.append((a, b))
    )
    assert gap(weights, trained[1]) < 1e-4 and steps == [(k, 6) for k in range(1, 7)]
    assert done.losses == pytest.approx(trained[0].losses, abs=1e-5)


@pytest.mark.heavy
def test_an_error_of_two_processes_comes_through(tmp_path: Path) -> None:
    with pytest.raises(Diverged, match="learning_rate"):
        tuned(tmp_path / "a", job(devices=2, learning_rate=1e30), by=fine_tune_apart)
