"""Which device a computation runs on; nothing here changes a value's key."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from nncift_core.errors import UserError

if TYPE_CHECKING:
    import torch

# torch is imported inside the functions: planning needs this module's callers but no tensors, and
# importing torch takes seconds.

# One of these is there when a Linux kernel knows of a GPU: NVIDIA's, Windows' for WSL, AMD's.
_GPU_FILES = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg", "/dev/kfd")


def available_devices() -> list[str]:
    """Every device torch can use here: "cuda:0", ..., "mps" where there is one, and always "cpu"."""
    import torch

    names = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        names.append("mps")
    return [*names, "cpu"]


def check_device(name: str, field: str) -> str:
    """`name` in full ("cuda" becomes "cuda:0"); raises UserError naming the devices that exist."""
    full = {"cuda": "cuda:0", "mps:0": "mps", "cpu:0": "cpu"}.get(name, name)
    present = available_devices()
    if full not in present:
        raise UserError(
            f'no device "{name}" on this machine',
            field=field,
            mend=f'Use "auto" or one of: {", ".join(present)}.',
        )
    return full


def resolve_devices(setting: Literal["auto"] | list[str]) -> list[str]:
    """Devices of `[execution] devices`, in order, duplicates kept (two slots on one device).

    "auto": every CUDA device, else ["cpu"]. Raises UserError for an unknown or absent device.
    """
    if setting == "auto":
        cuda = [name for name in available_devices() if name.startswith("cuda")]
        return cuda or ["cpu"]
    if not setting:
        raise UserError("names no device", field="execution.devices", mend='Use "auto" or list a device.')
    return [check_device(name, "execution.devices") for name in setting]


def pick(setting: str, slot_device: str, field: str = "device") -> str:
    """Device of one model: the slot's own under "auto", else the device the section names."""
    return slot_device if setting == "auto" else check_device(setting, field)


def default_dtype(devices: Literal["auto"] | list[str]) -> Literal["float32", "bfloat16", "float16"]:
    """What dtype "auto" stands for: bfloat16 where every GPU named has it, float16 where one has not,
    float32 where one of the `devices` is no CUDA device ("auto": every GPU, else the CPU).

    Imports torch only on a machine that may have a GPU.
    """
    named = devices != "auto"
    if named and not all(d.startswith("cuda") for d in devices):
        return "float32"
    if not named and sys.platform == "linux" and not any(Path(p).exists() for p in _GPU_FILES):
        return "float32"
    import torch

    if not torch.cuda.is_available():
        return "float32"
    found = [int(d.partition(":")[2] or 0) for d in devices] if named else range(torch.cuda.device_count())
    # is_bf16_supported() also says yes where bfloat16 is only emulated, which is slow. 8: Ampere.
    native = torch.version.hip or all(torch.cuda.get_device_capability(k)[0] >= 8 for k in found)
    return "bfloat16" if native else "float16"


def usable_cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def torch_dtype(name: Literal["auto", "float32", "bfloat16", "float16"]) -> torch.dtype:
    """The torch dtype of a config's dtype name; "auto" as `default_dtype` of every device here."""
    import torch

    name = default_dtype("auto") if name == "auto" else name
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]
