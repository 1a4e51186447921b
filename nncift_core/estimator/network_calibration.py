"""Which kernel computes the network's matrix: measured once, recorded, and named by what decides its bits.

The kernels agree within rounding, not in bits, so a choice by the clock must not be made anew in every
process: the workspace records what `calibrate` measured, puts `identity` of the record into its keys, and
hands the record to `use`. Without a record the choice does not depend on time: numba where it is installed.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any, Literal, cast, get_args

import numpy as np

from nncift_core.devices import usable_cores

Kernel = Literal["numba", "torch"]

_KERNELS: tuple[Kernel, ...] = get_args(Kernel)
_ROWS, _COLUMNS = 512, 1024
_TRIALS = 3

_recorded: Kernel | None = None


@dataclass(frozen=True)
class Calibration:
    """What was measured, and which kernel won.

    pairs_per_second: of every kernel that is installed, on `rows` x `columns` pairs of embeddings
    [`dimension`] with `hidden` units by `threads` threads; numba, torch: versions (None when missing).
    """

    kernel: Kernel
    pairs_per_second: dict[str, float]
    hidden: int
    dimension: int
    rows: int
    columns: int
    threads: int
    numba: str | None
    torch: str | None

    def record(self) -> dict[str, Any]:
        """All fields, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Calibration:
        """From a `record`; raises ValueError for a field missing or unknown, and an unknown kernel."""
        try:
            made = cls(**record)
        except TypeError as e:
            raise ValueError(f"not the record of a calibration ({e}): calibrate again") from e
        if made.kernel not in _KERNELS:
            raise ValueError(_unknown(made.kernel))
        return made

    def identity(self) -> dict[str, str | None]:
        """What decides the bits of a matrix, for its key: the kernel and its library's version, no time."""
        return {"kernel": self.kernel, "version": self.numba if self.kernel == "numba" else self.torch}


def installed() -> tuple[Kernel, ...]:
    """Kernels that can be used here, by preference."""
    return tuple(k for k in _KERNELS if find_spec(k) is not None)


def checked(kernel: str) -> Kernel:
    """The kernel, if it is known and installed; raises ValueError otherwise."""
    if kernel not in _KERNELS:
        raise ValueError(_unknown(kernel))
    if kernel not in installed():
        raise ValueError(f"kernel {kernel!r} needs the package {kernel!r}: install it, or calibrate again")
    return kernel


def usable_threads() -> int:
    """Threads a kernel may use: processors open to this process, and not more than torch is set to."""
    import torch

    return max(1, min(usable_cores(), torch.get_num_threads()))


def in_use() -> Kernel:
    """The recorded kernel (`use`), else numba where it is installed, else torch."""
    return installed()[0] if _recorded is None else _recorded


def use(record: Mapping[str, Any] | None) -> Kernel:
    """Let every prediction of this process use the recorded kernel; None: as without a record.

    Raises ValueError for what is no record, and for a kernel that is not installed here.
    """
    global _recorded
    _recorded = None if record is None else checked(Calibration.from_record(record).kernel)
    return in_use()


def calibrate(hidden: int, dimension: int, *, rows: int = _ROWS, columns: int = _COLUMNS) -> Calibration:
    """Time every installed kernel on a made network and embeddings; the fastest of three runs counts.

    Compilation is not counted. Raises ValueError for sizes below 1.
    """
    if min(hidden, dimension, rows, columns) < 1:
        raise ValueError(f"sizes must be at least 1, got {[hidden, dimension, rows, columns]}")
    from nncift_core.estimator.network import InfluenceNetwork

    rng = np.random.default_rng(0)
    weights = (rng.normal(size=s) for s in ((hidden, 2 * dimension), hidden, (1, hidden), 1))
    network = InfluenceNetwork.from_weights(*weights)
    e, t = (rng.normal(size=(n, dimension)).astype(np.float32) for n in (rows, columns))
    rates: dict[str, float] = {}
    for kernel in installed():
        network.predict(e[:1], t[:1], kernel=kernel)
        taken = []
        for _ in range(_TRIALS):
            start = time.perf_counter()
            network.predict(e, t, kernel=kernel)
            taken.append(time.perf_counter() - start)
        rates[kernel] = rows * columns / min(taken)
    return Calibration(
        kernel=cast(Kernel, max(rates, key=rates.__getitem__)),
        pairs_per_second=rates,
        hidden=hidden,
        dimension=dimension,
        rows=rows,
        columns=columns,
        threads=usable_threads(),
        numba=_version("numba"),
        torch=_version("torch"),
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _unknown(kernel: object) -> str:
    return f"unknown kernel {kernel!r}: choose one of {', '.join(_KERNELS)}"
