"""Checks of Python, devices, memory, disk and workspace."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from flows.doctor.core import Check
from flows.doctor.requirements import install, versioned
from nncift_core.store.remote.address import url_of
from nncift_core.store.workspace import Workspace

PYTHON = (3, 11)
GIB = 1024**3
LOW_MEMORY, LOW_DISK = 4 * GIB, 1 * GIB
NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")


def check_python(version: tuple[int, ...] = sys.version_info[:3]) -> list[Check]:
    """This Python's version."""
    found = f"{'.'.join(map(str, version))} ({sys.executable})"
    if version >= PYTHON:
        return [Check("python", "ok", found, "", True)]
    wanted = ".".join(map(str, PYTHON))
    mend = f"install Python {wanted} or newer, then: python{wanted} -m venv .venv"
    return [Check("python", "problem", f"{found}; {wanted} or newer is needed", mend, True)]


def check_devices() -> list[Check]:
    """Every device that torch sees, and a GPU that it does not see."""
    import torch

    from nncift_core.devices import available_devices

    found = []
    for name in available_devices():
        if name.startswith("cuda"):
            gpu = torch.cuda.get_device_properties(name)
            shown = f"{gpu.name}, {_gib(gpu.total_memory)}"
        else:
            shown = "Apple GPU" if name == "mps" else f"{_cores()} cores, torch {torch.__version__}"
        found.append(Check(f"device {name}", "ok", shown, "", name == "cpu"))
    return [*idle_gpu(torch.version.cuda, torch.cuda.device_count()), *found]


def idle_gpu(cuda: str | None, count: int, driver: Path = NVIDIA_DRIVER) -> list[Check]:
    """A GPU that is there while torch cannot use it; nothing when it can, or when there is none.

    cuda: the CUDA version torch was built with; count: GPUs that torch sees.
    """
    if count or not driver.exists():
        return []
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        found, mend = "hidden by CUDA_VISIBLE_DEVICES", "unset CUDA_VISIBLE_DEVICES"
    elif cuda is None:
        found = "an NVIDIA driver is there, but torch has no CUDA"
        mend = install("--force-reinstall", versioned("torch"))
    else:
        found, mend = f"an NVIDIA driver is there, but torch (CUDA {cuda}) sees no GPU", "nvidia-smi"
    return [Check("device cuda", "problem", found, mend, False)]


def check_memory(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> list[Check]:
    """Memory of the machine, or of the control groups (folders below `root`) that `own` names."""
    import psutil

    memory = psutil.virtual_memory()
    total, available, limited = memory.total, memory.available, ""
    for limit, used in _cgroup_memory(root, own):
        if limit < total:
            total, limited = limit, " (a limit of its control group)"
        available = min(available, max(0, limit - used))
    found = f"{_gib(total)}{limited}, {_gib(available)} available"
    if available >= LOW_MEMORY:
        return [Check("memory", "ok", found, "", False)]
    mend = "end other programs, or choose smaller models and batches (batch_tokens, batch_size)"
    return [Check("memory", "problem", f"{found}: little", mend, False)]


def _cgroup_memory(root: Path, own: Path) -> list[tuple[int, int]]:
    """Limit and use in bytes of every control group (v2) this process is in that has a limit.

    Files that can be given back at once (inactive_file) are not counted as used.
    """
    lines = own.read_text().splitlines() if own.is_file() else []
    inside = next((line[3:].strip("/") for line in lines if line.startswith("0::")), "")
    # Inside a container the path may name folders that only the host sees: then the root speaks.
    folders = [root / inside, *(root / inside).parents] if inside else [root]
    found = []
    for folder in (f for f in folders if f.is_relative_to(root) and (f / "memory.max").is_file()):
        limit = (folder / "memory.max").read_text().strip()
        if limit != "max":
            stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            used = int((folder / "memory.current").read_text()) - int(stat.get("inactive_file", 0))
            found.append((int(limit), used))
    return found


def check_disk(workspace: Path) -> list[Check]:
    """Free space on the disk of the workspace, be the folder there or not."""
    root = Workspace(workspace).root
    there = next(p for p in (root, *root.parents) if p.is_dir())
    free = shutil.disk_usage(there).free
    if free >= LOW_DISK:
        return [Check("disk", "ok", f"{_gib(free)} free at {there}", "", True)]
    mend = "name a folder on another disk: nncift doctor --workspace FOLDER"
    return [Check("disk", "problem", f"only {free / 1024**2:,.0f} MiB free at {there}", mend, True)]


def check_workspace(workspace: Path) -> list[Check]:
    """Whether `workspace` can hold results; raises what Workspace.check_usable does."""
    Workspace.check_usable(workspace)
    shown = url_of(workspace) or workspace
    state = "there and usable" if Workspace(workspace).exists() else "not there yet; nncift run makes it"
    return [Check("workspace", "ok", f"{shown}: {state}", "", True)]


def _cores() -> int:
    """Cores this process may use; the machine's where the system does not say."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _gib(size: float) -> str:
    return f"{size / GIB:,.1f} GiB"
