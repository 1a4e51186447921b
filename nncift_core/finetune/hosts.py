"""One training over several hosts: on the host that runs the job, and on those that take part.

Every host starts torch's launcher with the same rendezvous, and that a process for each of its devices, which
sum their gradients by accelerate as on one machine. The job's host alone reads and writes files: its first
process spreads the state that a broken training goes on from, and writes states, progress and the result.
"""

from __future__ import annotations

import json
import socket
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from nncift_core.config import Config
from nncift_core.errors import RunError, UserError
from nncift_core.finetune.gpus import training_devices
from nncift_core.finetune.invitation import Invitation, invitation
from nncift_core.finetune.meeting import Broken, Guest, Meeting, reason
from nncift_core.finetune.process import CHILD, child_env, child_spec, result_of, run_child, tail
from nncift_core.finetune.rows import TrainingRows
from nncift_core.finetune.student import settings
from nncift_core.finetune.training import FineTuned, Progress

# Puts an invitation where the other hosts find it, while the context lasts.
Invite = Callable[[Invitation], AbstractContextManager[None]]

# The launcher waits longer than the meeting, whose message says how many came.
_LONGER_S = 60


def fine_tune_over_hosts(
    config: Config,
    rows: TrainingRows,
    seed: int,
    device: str,
    folder: Path,
    invite: Invite,
    progress: Progress | None = None,
    checkpoints: Path | None = None,
) -> FineTuned:
    """`fine_tune` on this host and on those that follow the invitation; this one has the result.

    progress(0, 0) is called every second or so while hosts are waited for.
    """
    own = settings(config)
    if device == "mps":
        raise UserError(
            "a training over several hosts runs on GPUs of NVIDIA or on CPUs, not on mps",
            field="finetune.hosts",
            mend='Set finetune.device = "cpu", or hosts = 1.',
        )
    gpus = training_devices(config) if own.devices > 1 else [device]
    asked = invitation(config, rows, seed, device)
    spec = child_spec(config, rows, seed, device, folder, checkpoints)
    # In this order: whoever waits for its turn has no place to meet yet.
    with invite(asked), Meeting(asked) as meeting:

        def watch() -> None:
            meeting.watch()
            if progress is not None and not meeting.complete:
                progress(0, 0)

        found, failure = _share(asked, asked.rendezvous[0], spec, child_env(*gpus), progress, watch)
        if found is not None and failure is None:
            return result_of(found)
        if found is not None and "fine_tuned" not in found:
            # What this host says itself is clearer than what others make of it.
            return result_of(found)
        if (why := meeting.blame()) is not None:
            raise RunError(why)
        raise Broken(f"a process of the training {failure}")


def take_part(asked: Invitation, config: Config, guest: Guest, progress: Progress | None = None) -> FineTuned:
    """Train this host's share of `asked` by the config of `invited_config`, as the `guest` who came.

    Writes nothing. Raises UserError and RunError like `fine_tune`; the job's host is told.
    """
    try:
        with tempfile.TemporaryDirectory() as scratch:
            spec = child_spec(config, asked.rows, asked.seed, asked.device, Path(scratch), writes=False)
            spec["threads"] = asked.threads
            gpus = training_devices(config) if asked.device == "cuda" else []
            address = _address_towards(*asked.rendezvous)
            found, failure = _share(asked, address, spec, child_env(*gpus), progress, guest.watch)
        if found is None or (failure and "fine_tuned" in found):
            raise Broken(guest.blame() or f"a process of the training {failure}")
        done = result_of(found)
    except BaseException as e:
        guest.leave(reason(e))
        raise
    guest.leave()
    return done


def hosts_launcher(asked: Invitation, address: str) -> list[str]:
    """The command that starts this host's children, their two files to follow; address: of this host, for
    the others.

    No host is told to hold the rendezvous' store: the job's process does, which outlives its launcher.
    """
    host, port = asked.rendezvous
    timeout = int(asked.finetune.get("join_timeout_s", 600)) + _LONGER_S
    return [
        *(sys.executable, "-m", f"{CHILD}.launch"),
        *(f"--nnodes={asked.hosts}", f"--nproc-per-node={asked.devices}", f"--local-addr={address}"),
        *("--rdzv-backend=c10d", f"--rdzv-endpoint={host}:{port}"),
        # Of this start alone: what a broken one left running meets nobody.
        f"--rdzv-id={asked.key[:16]}-{asked.attempt}",
        f"--rdzv-conf=is_host=false,join_timeout={timeout}",
        *("-m", CHILD),
    ]


def _share(
    asked: Invitation,
    address: str,
    spec: dict[str, Any],
    env: dict[str, str],
    progress: Progress | None,
    watch: Callable[[], None],
) -> tuple[dict[str, Any] | None, str | None]:
    """What this host's children found, None without a result; and how its launcher failed, None if not."""
    with tempfile.TemporaryDirectory() as scratch:
        spec_file, result_file = Path(scratch) / "spec.json", Path(scratch) / "result.json"
        spec_file.write_text(json.dumps(spec), encoding="utf-8")
        command = [*hosts_launcher(asked, address), str(spec_file), str(result_file)]
        with open(Path(scratch) / "stderr.txt", "w+b") as errors:
            code = run_child(command, env, errors, progress, watch)
            failure = f"ended with code {code}: {tail(errors)}" if code else None
        if not result_file.is_file():
            return None, failure or "ended without a result"
        return json.loads(result_file.read_text(encoding="utf-8")), failure


def _address_towards(host: str, port: int) -> str:
    """This host's address as `host` sees it, whatever names it has."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
        # Sends nothing: it only looks up the route.
        link.connect((host, port))
        return str(link.getsockname()[0])
