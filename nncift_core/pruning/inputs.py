"""Reading the labelled rows of a prune job, checked before anything is started or written."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Sequence

from nncift_core.config_prune import LabelledRows, PruneConfig
from nncift_core.datasets.identity import dataset_name, source_fingerprint
from nncift_core.datasets.labelled import read_labelled, unlabelled_note
from nncift_core.datasets.sources import locate
from nncift_core.devices import check_device, resolve_devices
from nncift_core.errors import UserError
from nncift_core.hashing import digest
from nncift_core.pipeline.inputs import Input, LabelledRole
from nncift_core.pruning.fit_for import check_settings

_PATH_SIGNS = "/\\.*:"
# Raise this when the same file would be read as other labelled rows.
_READING = 2


def sources(config: PruneConfig) -> list[tuple[LabelledRole, LabelledRows]]:
    """The sets that a config names: rows to prune, rows to evaluate on, new rows.

    `data.test` and `data.new` with a path's signs are sources, else splits of `data.source`.
    """
    data = config.data
    shared = {"columns": data.columns, "unlabelled": data.unlabelled, "on_bad_rows": data.on_bad_rows}
    train = {"source": data.source, "name": data.name, "split": data.split, "limit": data.limit}
    found: list[tuple[LabelledRole, LabelledRows]] = [
        ("train", LabelledRows.model_validate({**train, **shared}))
    ]
    given: list[tuple[LabelledRole, str, int | None]] = [("test", data.test, data.limit_test)]
    given += [("new", data.new, None)] if data.new is not None else []
    for role, named, limit in given:
        if any(sign in named for sign in _PATH_SIGNS):
            where = {"source": named}
        elif data.split is None:
            raise UserError(
                f'"{named}" is a split, but its rows are also among those to prune',
                field=f"data.{role}",
                mend=f"Set data.split to another split, or let data.{role} name a file.",
            )
        else:
            where = {"source": data.source, "split": named}
        found.append((role, LabelledRows.model_validate({**where, "limit": limit, **shared})))
    return found


def read_labelled_input(role: LabelledRole, rows: LabelledRows, base_dir: str) -> Input:
    """Read one set; raises UserError as `read_labelled`."""
    examples, report = read_labelled(rows, base_dir)
    fingerprint = digest([_READING, source_fingerprint(rows, base_dir), sorted(rows.unlabelled)])
    return Input(role, dataset_name(rows), rows, fingerprint, tuple(examples), report)


def read_labelled_inputs(config: PruneConfig) -> list[Input]:
    """Every set of the job, checked against one another.

    Raises UserError for wrong rows, fewer than two classes, a class with a single row, labels of other rows
    that no training row has, pairs beside single texts, and test or new rows that are those to prune.
    """
    _check_sources(config)
    inputs = [read_labelled_input(role, rows, config.base_dir) for role, rows in sources(config)]
    train = inputs[0]
    counts = Counter(str(e.label) for e in train.examples)
    where = train.report.files[0] if train.report.files else train.name
    if len(counts) < 2:
        raise UserError(
            f"all rows to prune have the label {next(iter(counts))!r}: there is nothing to tell apart",
            file=where,
            mend="Name rows of at least two classes, or another label column (data.columns).",
        )
    lonely = sorted(name for name, n in counts.items() if n == 1)
    if lonely:
        more = f" and {len(lonely) - 5} more classes" if len(lonely) > 5 else ""
        raise UserError(
            f"a class needs at least two rows, and these have one: {', '.join(map(repr, lonely[:5]))}{more}",
            file=where,
            mend="Add rows of these classes, merge them into others, or leave them out." + _no_label(lonely),
        )
    for other in inputs[1:]:
        _check_labels(other, counts, config.data.limit)
        _check_shape(train, other)
    _check_held_out(train, inputs[1])
    check_settings(config, counts)
    return inputs


def labels_note(inputs: Sequence[Input]) -> str:
    """What to tell of labels that may say that a row has none; "" for nothing."""
    return unlabelled_note({str(e.label) for i in inputs for e in i.examples})


def _check_sources(config: PruneConfig) -> None:
    """Refuse test or new rows whose source is that of the rows to prune, read whole."""
    where = _files(config.data.source, config.base_dir)
    for role, rows in sources(config)[1:]:
        if rows.split is None and _files(rows.source, config.base_dir) == where:
            raise UserError(
                f"the {role} rows are read from the source of the rows to prune, which are among them",
                file=rows.source,
                field=f"data.{role}",
                mend="Name another file, or another split of data.source.",
            )


def _files(source: str, base_dir: str) -> set[str]:
    """What a source stands for: real paths, or an id of the hub."""
    found = locate(source, base_dir)
    return {found.hub_id} if found.kind == "hub" else {os.path.realpath(f.path) for f in found.files}


def _no_label(names: Collection[str]) -> str:
    """What else to say where one of these labels may say that there is none."""
    sign = next((s for s in ("-1", "-") if s in names), None)
    return f' If "{sign}" says that a row has none: data.unlabelled = ["{sign}"].' if sign else ""


def _check_labels(other: Input, counts: Counter[str], limit: int | None) -> None:
    unknown = Counter(str(e.label) for e in other.examples if str(e.label) not in counts)
    if not unknown:
        return
    label, n = unknown.most_common(1)[0]
    cut = f" data.limit = {limit} reads the first rows only: raise it." if limit is not None else ""
    known = ", ".join(repr(name) for name in sorted(counts)[:4]) + (", ..." if len(counts) > 4 else "")
    first = next(e for e in other.examples if str(e.label) == label)
    more = f" and {len(unknown) - 1} more labels" if len(unknown) > 1 else ""
    raise UserError(
        f"row {first.row_number + 1} of the {other.role} rows has the label {label!r} ({n} rows{more}), "
        "which no row to prune has: no model could learn it",
        file=other.report.files[0] if other.report.files else other.name,
        mend="Mend the labels, or add training rows that have them."
        + cut
        + f" Known labels: {known}."
        + _no_label(unknown),
    )


def _check_shape(train: Input, other: Input) -> None:
    pairs = [any(e.response for e in i.examples) for i in (train, other)]
    if pairs[0] != pairs[1]:
        which = "pairs of texts" if pairs[0] else "single texts"
        raise UserError(
            f"the rows to prune are {which}, the {other.role} rows are not",
            file=other.report.files[0] if other.report.files else other.name,
            mend="Name the columns of both alike (data.columns).",
        )


def _check_held_out(train: Input, test: Input) -> None:
    known = {(e.prompt, e.response) for e in train.examples}
    if all((e.prompt, e.response) in known for e in test.examples):
        raise UserError(
            "all test rows are also among the rows to prune: none is held out",
            file=test.report.files[0] if test.report.files else test.name,
            field="data.test",
            mend="Name rows that are held out from data.source.",
        )


def check_prune_devices(config: PruneConfig) -> None:
    """Raise UserError for a device that the config names and this machine lacks; those of other machines
    (`execution.runner`) are checked there."""
    if config.execution.runner != "local":
        return
    resolve_devices(config.execution.devices)
    if config.encoder.device != "auto":
        check_device(config.encoder.device, "encoder.device")
