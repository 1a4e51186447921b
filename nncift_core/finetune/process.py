"""A fine-tune in a process of its own, or in one for each of its GPUs.

Libraries take the first GPU they see, or all of them, and remember it for the process. So a fine-tune on
"cuda:N" gets a child process in which that GPU is the only one, and one on several GPUs a launcher with a
child for each. Parent and child exchange JSON files in a temporary folder; the child's stdout carries
progress, one "done total" a line; its stdin is a pipe that closes with the parent, whichever way that ends,
and the child with it.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import nncift_core
from nncift_core.config import Config, parse_config
from nncift_core.errors import NnciftError, RunError, UserError
from nncift_core.finetune.gpus import training_devices
from nncift_core.finetune.methods import Diverged
from nncift_core.finetune.rows import TrainingRows
from nncift_core.finetune.student import settings
from nncift_core.finetune.training import FineTuned, Progress, fine_tune_here

# Run with two files: a spec to read, a result to write.
CHILD = "nncift_core.finetune"
_TAIL = 2000
_GRACE_S = 10
# Seconds between two looks at what else may end a training.
_LOOK_S = 1.0
# Left by launchers of distributed training, under which a lone process would wait for others.
_LAUNCHER = (
    *("RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"),
    *("MASTER_ADDR", "MASTER_PORT"),
)


def fine_tune_apart(
    config: Config,
    rows: TrainingRows,
    seed: int,
    device: str,
    folder: Path,
    progress: Progress | None = None,
    checkpoints: Path | None = None,
) -> FineTuned:
    """`fine_tune` in child processes, one for each of `finetune.devices`; "cuda:N" counts as here.

    On several GPUs it takes those of `training_devices`, whichever `device` is.
    """
    count = settings(config).devices
    gpus = training_devices(config) if count > 1 and device.startswith("cuda") else [device]
    with tempfile.TemporaryDirectory() as scratch:
        spec_file, result_file = Path(scratch) / "spec.json", Path(scratch) / "result.json"
        spec = child_spec(config, rows, seed, device, folder, checkpoints)
        spec_file.write_text(json.dumps(spec), encoding="utf-8")
        command = [*launcher(count), str(spec_file), str(result_file)]
        with open(Path(scratch) / "stderr.txt", "w+b") as errors:
            code = run_child(command, child_env(*gpus), errors, progress)
            # With several processes the launcher ends with a code of its own when one of them gave up.
            if not result_file.is_file() or (code and count == 1):
                raise RunError(f"the fine-tuning process ended with code {code}: {tail(errors)}")
            found = json.loads(result_file.read_text(encoding="utf-8"))
            if code and "fine_tuned" in found:
                raise RunError(f"a fine-tuning process ended with code {code}: {tail(errors)}")
        return result_of(found)


def launcher(count: int) -> list[str]:
    """The command that starts `count` children on this machine, their two files to follow.

    Several are started by torch's own launcher, which gives each its number and ends all when one fails.
    """
    if count == 1:
        return [sys.executable, "-m", CHILD]
    several = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}", "-m"]
    return [sys.executable, *several, CHILD]


def child_spec(
    config: Config,
    rows: TrainingRows,
    seed: int,
    device: str,
    folder: Path,
    checkpoints: Path | None = None,
    *,
    writes: bool = True,
) -> dict[str, Any]:
    """What the child reads: JSON of everything that `fine_tune_here` is called with there.

    writes: whether this host's first child writes `folder` and `checkpoints`; of several hosts one does.
    """
    import torch

    return {
        # Unset keys stay unset: some may stand only beside others.
        "config": config.model_dump(mode="json", exclude_unset=True),
        "base_dir": config.base_dir,
        "rows": asdict(rows),
        "seed": seed,
        "device": "cuda" if device.startswith("cuda") else device,
        "folder": str(folder.resolve()),
        "checkpoints": None if checkpoints is None else str(checkpoints.resolve()),
        # Another number of threads sums in another order.
        "threads": torch.get_num_threads(),
        "writes": writes,
    }


def run_child(
    command: list[str],
    env: dict[str, str],
    errors: IO[bytes],
    progress: Progress | None,
    watch: Callable[[], None] | None = None,
) -> int:
    """Exit code of the child; it is ended when this is left in another way.

    watch: called about once a second, with or without progress; what it raises ends the child.
    """
    process = subprocess.Popen(
        command,
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    reader = threading.Thread(target=_read, args=(process.stdout, lines), daemon=True)
    reader.start()
    with process:
        try:
            while (line := _next_line(lines, watch)) is not None:
                done, total = map(int, line.split())
                if progress is not None:
                    progress(done, total)
            return process.wait()
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(_GRACE_S)
                except subprocess.TimeoutExpired:
                    process.kill()
            # Children of a launcher that was killed end with this pipe, and only then their stdout does.
            process.stdin.close()
            reader.join()


def _read(stream: IO[str], lines: queue.SimpleQueue[str | None]) -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)


def _next_line(lines: queue.SimpleQueue[str | None], watch: Callable[[], None] | None) -> str | None:
    """The next line of the child, None at their end."""
    if watch is None:
        return lines.get()
    while True:
        watch()
        try:
            return lines.get(timeout=_LOOK_S)
        except queue.Empty:
            continue


def child_env(*devices: str) -> dict[str, str]:
    """This process's environment, with the GPUs `devices` ("cuda:N") as the only visible ones, in that order.

    Raises RunError where CUDA_VISIBLE_DEVICES names no more than N devices.
    """
    env = {k: v for k, v in os.environ.items() if k not in _LAUNCHER and not k.startswith("ACCELERATE_")}
    root = str(Path(nncift_core.__file__).resolve().parents[1])
    env["PYTHONPATH"] = os.pathsep.join(p for p in (root, env.get("PYTHONPATH")) if p)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = None if visible is None else [name.strip() for name in visible.split(",")]
    chosen = []
    for device in (d for d in devices if d.startswith("cuda")):
        number = int(device.partition(":")[2] or 0)
        if names is not None and number >= len(names):
            raise RunError(f"no {device}: CUDA_VISIBLE_DEVICES is {visible}")
        chosen.append(str(number) if names is None else names[number])
    return {**env, "CUDA_VISIBLE_DEVICES": ",".join(chosen)} if chosen else env


def tail(errors: IO[bytes]) -> str:
    """The last words of a child's stderr."""
    errors.seek(0)
    text = errors.read().decode("utf-8", "replace").strip()
    return text[-_TAIL:] or "it wrote no message"


def result_of(found: dict[str, Any]) -> FineTuned:
    """What a child wrote into its result file; raises the error it tells of."""
    if "user_error" in found:
        raise UserError(**found["user_error"])
    if "diverged" in found:
        raise Diverged(found["diverged"])
    if "run_error" in found:
        raise RunError(found["run_error"])
    tuned = found["fine_tuned"]
    return FineTuned(**{**tuned, "losses": tuple(tuned["losses"])})


def child(spec_file: str, result_file: str) -> int:
    """The child's whole work: read the spec, train, write the result or the error; returns the exit code."""
    # Whatever a library prints goes to stderr, so that it is not taken for progress.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    threading.Thread(target=end_with_parent, daemon=True).start()
    spec = json.loads(Path(spec_file).read_text(encoding="utf-8"))
    import torch

    torch.set_num_threads(spec["threads"])
    rows = TrainingRows(**{name: tuple(values) for name, values in spec["rows"].items()})
    # Each host has a first child of its own, which speaks for it.
    local, alone = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")) == 1
    device = f"cuda:{local}" if spec["device"] == "cuda" else spec["device"]
    found: dict[str, Any]
    try:
        config = parse_config(spec["config"], base_dir=spec["base_dir"])
        tuned = fine_tune_here(
            config,
            rows,
            spec["seed"],
            device,
            Path(spec["folder"]),
            (lambda done, total: print(done, total, file=out, flush=True)) if local == 0 else None,
            Path(spec["checkpoints"]) if spec["checkpoints"] else None,
            alone=alone,
            writes=spec["writes"] and local == 0,
        )
        found = {"fine_tuned": asdict(tuned)}
    except UserError as e:
        places = {"file": e.file, "line": e.line, "row": e.row, "field": e.field}
        found = {"user_error": {"what": e.what, "mend": e.mend, **places}}
    except Diverged as e:
        found = {"diverged": e.what}
    except NnciftError as e:
        found = {"run_error": str(e)}
    told = "fine_tuned" in found
    if local == 0 or not told:
        part = Path(f"{result_file}.{local}")
        part.write_text(json.dumps(found), encoding="utf-8")
        part.replace(result_file)
    # Others wait for this one's share of a sum: the launcher ends them.
    return 0 if told or alone else 3


def end_with_parent() -> None:
    """End this process when its stdin does, that is with whoever holds the other end of the pipe."""
    # A raw read: a buffered one would hold a lock that a normal end of this process needs.
    while os.read(0, 1):
        pass
    os._exit(1)
