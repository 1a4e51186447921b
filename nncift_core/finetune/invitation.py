"""What the other hosts of a training are told, and whether a host may take part in it."""

from __future__ import annotations

import socket
import time
import uuid
from dataclasses import asdict, dataclass
from typing import Any

from nncift_core import __version__
from nncift_core.config import Config, parse_config
from nncift_core.errors import UserError
from nncift_core.finetune.rows import TrainingRows
from nncift_core.finetune.student import fine_tune_key, settings, student, student_key, student_name

# Where a host finds the student, and what it may do with it, is its own affair.
_OWN = ("model", "revision", "dtype", "trust_remote_code", "device")


@dataclass(frozen=True)
class Invitation:
    """A training that waits for other hosts.

    key: `fine_tune_key`; attempt: this start of it, which no other has; asked_at: seconds since the epoch;
    host: the job's machine; student, student_key: which model must be there, under whatever path; device:
    "cuda" or "cpu", on every host; finetune: `[finetune]` of the job without what each host decides; threads:
    of a process, since another number sums in another order.
    """

    key: str
    attempt: str
    asked_at: float
    host: str
    nncift: str
    torch: str
    student: str
    student_key: str
    device: str
    finetune: dict[str, Any]
    rows: TrainingRows
    seed: int
    threads: int

    @property
    def hosts(self) -> int:
        """How many take part, the job's own among them."""
        return int(self.finetune["hosts"])

    @property
    def devices(self) -> int:
        """Processes of each host."""
        return int(self.finetune.get("devices", 1))

    @property
    def rendezvous(self) -> tuple[str, int]:
        """Host and port where they meet."""
        host, _, port = str(self.finetune["rendezvous"]).rpartition(":")
        return host, int(port)

    def to_json(self) -> dict[str, Any]:
        """As a JSON document."""
        return asdict(self)

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> Invitation:
        """What `to_json` gave; raises KeyError and TypeError for anything else."""
        rows = TrainingRows(**{name: tuple(values) for name, values in found["rows"].items()})
        return cls(**{**found, "rows": rows})


def invitation(config: Config, rows: TrainingRows, seed: int, device: str) -> Invitation:
    """The invitation to the training that `fine_tune` is about to begin on `device`."""
    import torch

    return Invitation(
        key=fine_tune_key(config, rows.content_hashes, seed),
        attempt=uuid.uuid4().hex,
        asked_at=time.time(),
        host=socket.gethostname(),
        nncift=__version__,
        torch=torch.__version__,
        student=_named(config),
        student_key=student_key(config),
        device="cuda" if device.startswith("cuda") else device,
        finetune=settings(config).model_dump(mode="json", exclude_unset=True, exclude=set(_OWN)),
        rows=rows,
        seed=seed,
        threads=torch.get_num_threads(),
    )


def invited_config(own: Config, asked: Invitation) -> Config:
    """The config by which this host, whose own is `own`, takes part: its `[finetune]` is the job's but for
    where the student lies and on which device it runs.

    Raises UserError where versions or the student are others than the job's: the host would train
    something else.
    """
    import torch

    for what, here, there in (
        ("nncift", __version__, asked.nncift),
        ("torch", str(torch.__version__), asked.torch),
    ):
        if here != there:
            raise UserError(
                f"{what} is {here} on {socket.gethostname()} and {there} on {asked.host}, which runs the job",
                mend="Install the same version on all hosts.",
            )
    section = settings(own).model_dump(mode="json", exclude_unset=True)
    data = own.model_dump(mode="json", exclude_unset=True)
    data["finetune"] = asked.finetune | {name: section[name] for name in _OWN if name in section}
    found = parse_config(data, base_dir=own.base_dir)
    if student_key(found) != asked.student_key:
        raise UserError(
            f"the student on {socket.gethostname()}, {_named(found)}, is not the job's, {asked.student}: "
            "their weights, templates or dtypes differ",
            field="finetune.model",
            mend=f"Give this host the same files and settings as {asked.host}, which runs the job.",
        )
    return found


def _named(config: Config) -> str:
    return f"{student_name(config)} in {student(config).dtype} (key {student_key(config)[:16]})"
