"""Reading what a config names, once per process, before anything is started or written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nncift_core.config import Config, DatasetConfig
from nncift_core.config_prune import LabelledRows
from nncift_core.datasets import dataset_name, read_dataset, source_fingerprint
from nncift_core.devices import check_device, pick, resolve_devices
from nncift_core.errors import UserError
from nncift_core.finetune import training_devices
from nncift_core.functions import CATALOGUE
from nncift_core.language_models import check_language_model, is_local
from nncift_core.placement import slot_groups
from nncift_core.records import Example, ReadReport
from nncift_core.store.dataset_writer import store_dataset
from nncift_core.store.references import DatasetRef
from nncift_core.store.workspace import Workspace

_PATH_SIGNS = "/\\.*:"
Role = Literal["pool", "target", "existing", "test"]
LabelledRole = Literal["train", "test", "new"]


@dataclass(frozen=True)
class Input:
    """One data set of the job in its role, with its rows and the identity of its source."""

    role: Role | LabelledRole
    name: str
    config: DatasetConfig | LabelledRows
    fingerprint: str
    examples: tuple[Example, ...]
    report: ReadReport


_CACHE: dict[str, tuple[tuple[Example, ...], ReadReport]] = {}


def sources(config: Config) -> list[tuple[Role, DatasetConfig]]:
    """Every data set that a config names, with its role: pool, targets, existing, test.

    Rows of `target.test` are read when there is something to evaluate, that is with `[finetune]`.
    """
    found: list[tuple[Role, DatasetConfig]] = [("pool", config.pool)]
    found += [("target", d) for d in config.target.datasets()]
    if config.selection.existing is not None:
        found.append(("existing", config.selection.existing))
    if config.finetune is not None:
        found += [("test", d) for d in held_out(config)]
    return found


def held_out(config: Config) -> list[DatasetConfig]:
    """The data sets of `target.test`: a split of every target source (of the pool for "self"), or sources.

    A plain word is a split; anything with a path's signs is a source ("./test" for a folder). Raises
    UserError for a split when no other split is named to value against: its rows would be on both sides.
    """
    target, limit = config.target, config.evaluation.limit
    named = [target.test] if isinstance(target.test, str) else target.test or []
    found: list[DatasetConfig] = []
    for name in named:
        if any(sign in name for sign in _PATH_SIGNS):
            like = target if target.datasets() else config.pool
            shared = {"columns": like.columns, "on_bad_rows": like.on_bad_rows, "limit": limit}
            found.append(DatasetConfig.model_validate({"source": name, **shared}))
            continue
        split_sources = target.datasets() or [config.pool]
        if any(d.split in (None, name) for d in split_sources):
            side = "target" if target.datasets() else "pool"
            raise UserError(
                f'"{name}" is a split, but its rows would also be valued',
                field="target.test",
                mend=f"Set {side}.split to another split, or let target.test name a file.",
            )
        found += [d.model_copy(update={"split": name, "limit": limit}) for d in split_sources]
    return found


def read_input(role: Role, dataset: DatasetConfig, base_dir: str) -> Input:
    """Read and validate one data set; a second call with unchanged files costs only their hashes."""
    fingerprint = source_fingerprint(dataset, base_dir)
    if fingerprint not in _CACHE:
        examples, report = read_dataset(dataset, base_dir)
        _CACHE[fingerprint] = (tuple(examples), report)
    examples_, report_ = _CACHE[fingerprint]
    return Input(role, dataset_name(dataset), dataset, fingerprint, examples_, report_)


def store_input(ws: Workspace, found: Input, block_rows: int) -> DatasetRef:
    """Store the rows of one data set in blocks of at most `block_rows`; its reference says what reading
    found."""
    ref = store_dataset(
        ws,
        found.examples,
        dataset=found.name,
        role=found.role,
        block_rows=block_rows,
        fingerprint=found.fingerprint,
    )
    report = found.report
    extra = {"duplicates": report.duplicates, "dropped": report.dropped, "note": report.note}
    return ref.model_copy(update=extra)


def read_inputs(config: Config) -> list[Input]:
    """Every data set of the job, validated; raises UserError as `read_dataset` does.

    Also refuses two data sets of one role under one name, whose rows could not be told apart.
    """
    if config.pool.source == "self":
        raise UserError('"self" is a target', field="pool.source", mend="Name the pool's file here.")
    inputs = [read_input(role, dataset, config.base_dir) for role, dataset in sources(config)]
    seen: set[tuple[str, str]] = set()
    for i in inputs:
        if (i.role, i.name) in seen:
            raise UserError(
                f"two {i.role} data sets are named {i.name!r}",
                field=i.role,
                mend="Rename one file, or value them in separate runs with `name = ...`.",
            )
        seen.add((i.role, i.name))
    return inputs


def forget_inputs() -> None:
    """Free the rows that `read_input` keeps; the next call reads the files again."""
    _CACHE.clear()


def check_teacher(config: Config, *, fetch: bool) -> None:
    """Raise UserError for a language model whose settings no run could use.

    fetch: whether a hub model may be downloaded for it; otherwise only local ones are looked at.
    """
    section = config.language_model
    if not CATALOGUE[config.influence.function].teacher or not (fetch or is_local(section, config.base_dir)):
        return
    if config.execution.runner == "local":
        slot = slot_groups(resolve_devices(config.execution.devices), section.devices)[0][0]
        device = pick(section.device, slot[0], "language_model.device")
    else:
        # Its device is on another machine, which checks what the weights need.
        section, device = section.model_copy(update={"quantization": "none"}), "cpu"
        slot = (device,) * section.devices
    check_language_model(section, device, config.base_dir, slot)


def check_devices(config: Config) -> None:
    """Raise UserError for a device that the config names and this machine lacks, and for a teacher or a
    training on more than there are. Devices of other machines (`execution.runner`) are checked there."""
    several = config.finetune is not None and config.finetune.devices > 1
    if several and config.execution.runner == "ray":
        raise UserError(
            "a slot of a Ray cluster trains one model on its own GPU",
            field="finetune.devices",
            mend='Set it to 1, or runner = "local" on a machine with so many GPUs.',
        )
    if config.execution.runner != "local":
        return
    slot_groups(resolve_devices(config.execution.devices), config.language_model.devices)
    devices = {"encoder": config.encoder.device, "language_model": config.language_model.device}
    if config.finetune is not None:
        devices["finetune"] = config.finetune.device
    for section, device in devices.items():
        if device != "auto":
            check_device(device, f"{section}.device")
    if several:
        training_devices(config)
