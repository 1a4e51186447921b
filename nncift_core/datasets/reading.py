"""`read_dataset`: from a config section to validated examples and a report of what was found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from nncift_core.config import DatasetConfig
from nncift_core.config_prune import LabelledRows
from nncift_core.datasets.hub import hub_rows
from nncift_core.datasets.identity import dataset_name
from nncift_core.datasets.readers import Place, Row, read_rows
from nncift_core.datasets.shapes import Shape, map_row, recognise
from nncift_core.datasets.sources import file_format, locate, places_text
from nncift_core.datasets.values import BadRow, clean_record, shown
from nncift_core.errors import UserError
from nncift_core.hashing import content_hash
from nncift_core.records import Example, ReadReport

_SHOWN = 10
_Bad = tuple[Place, str]


AnyRows = DatasetConfig | LabelledRows


class Kind(Protocol):
    """What rows are read as."""

    def shape(self, columns: Sequence[str], mapping: Mapping[str, str], file: str, line: int | None) -> Any:
        """What the columns of a file are; raises UserError when they cannot be told."""
        ...

    def example(self, row: dict[str, Any], shape: Any, number: int, split: str | None) -> tuple[Example, int]:
        """A row as an example, with an empty record, and turns of a conversation that were left out.

        number: of the row; split: that of a hub data set. Raises BadRow with the reason.
        """
        ...


class Instructions:
    """Rows of prompt and response."""

    def shape(self, columns: Sequence[str], mapping: Mapping[str, str], file: str, line: int | None) -> Shape:
        """As `recognise`."""
        return recognise(columns, mapping, file, line)

    def example(
        self, row: dict[str, Any], shape: Shape, number: int, split: str | None
    ) -> tuple[Example, int]:
        """As `map_row`."""
        mapped = map_row(row, shape)
        values = mapped.optional
        example = Example(
            prompt=mapped.prompt,
            response=mapped.response,
            row_number=number,
            source=values.get("source"),
            source_id=values.get("id"),
            task=values.get("task"),
            split=values.get("split") or split,
            label=values.get("label"),
        )
        return example, mapped.after


@dataclass
class _Reading:
    """What has been gathered so far, over all files."""

    config: AnyRows
    kind: Kind
    hub: bool
    examples: list[Example] = field(default_factory=list)
    bad: list[_Bad] = field(default_factory=list)
    shapes: list[str] = field(default_factory=list)
    splits: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    seen: int = 0
    taken: int = 0

    def full(self) -> bool:
        return self.config.limit is not None and self.taken >= self.config.limit


def read_dataset(
    config: AnyRows, base_dir: str, kind: Kind | None = None
) -> tuple[list[Example], ReadReport]:
    """Read every row that `config` names; relative sources start from `base_dir`; kind: instructions if None.

    Order: files by path, rows as they stand; `split` filters, then `limit` takes the first rows,
    then each row is checked. Conversations are rendered as in `split_conversation`; with an input
    column the prompt is prompt + newline + input. Texts are never stripped or altered.

    Raises UserError naming file and line or row (counted from 1): for a source that is not found, a
    broken file (also with on_bad_rows = "drop"), columns that cannot be told, and rows without
    prompt or response (unless on_bad_rows = "drop"; when none is left, always).
    """
    located = locate(config.source, base_dir)
    reading = _Reading(config, kind or Instructions(), hub=located.kind == "hub")
    files: list[str] = []
    if located.kind == "hub":
        files.append(located.hub_id)
        rows = hub_rows(located.hub_id, config.split, places_text(config.source, base_dir))
        _read_file(reading, rows, located.hub_id)
    for file in located.files:
        if not reading.full():
            files.append(file.label)
            _read_file(reading, read_rows(file), file.label)
    _check_any_row(reading, config.source)
    _check_bad_rows(reading)
    hashes = {content_hash(e.prompt, e.response) for e in reading.examples}
    changed = [f"{what} ({n} times)" for what, n in reading.counts.items()]
    report = ReadReport(
        dataset=dataset_name(config),
        files=tuple(files),
        shape=" + ".join(dict.fromkeys(reading.shapes)),
        rows=len(reading.examples),
        dropped=tuple(f"{place} {reason}" for place, reason in reading.bad),
        duplicates=len(reading.examples) - len(hashes),
        note="; ".join([*located.notes, *changed]),
    )
    return reading.examples, report


def _read_file(reading: _Reading, rows: Iterable[tuple[Place, Row]], label: str) -> None:
    """Read one file's rows into `reading`; its shape is told from the columns of all rows taken."""
    before = reading.seen
    taken = list(_take(reading, rows, label))
    if reading.seen == before:
        raise UserError("the file has no rows", file=label, mend="Name a file that has rows.")
    if not taken:
        return
    columns = list(dict.fromkeys(name for _, row in taken for name in row))
    first = taken[0][0]
    mapping = {str(role): name for role, name in reading.config.columns.items()}
    header = (file_format(label) or ("",))[0] in ("csv", "tsv")
    line = 1 if header else first.number if first.unit == "line" else None
    shape = reading.kind.shape(columns, mapping, label, line)
    reading.shapes.append(shape.name)
    # Each row is freed as soon as its example is made: a file may have millions.
    taken.reverse()
    while taken:
        place, row = taken.pop()
        try:
            example = _example(reading, shape, row)
        except BadRow as e:
            reading.bad.append((place, str(e)))
        else:
            reading.examples.append(example)
        reading.taken += 1


def _take(reading: _Reading, rows: Iterable[tuple[Place, Row]], label: str) -> Iterator[tuple[Place, Row]]:
    """Rows of the split wanted, as many as the limit still allows."""
    config = reading.config
    column = config.columns.get("split", "split")
    wanted = None if reading.hub else config.split
    room = None if config.limit is None else config.limit - reading.taken
    for place, row in rows:
        reading.seen += 1
        if wanted is not None:
            if column not in row:
                raise place.error(
                    f'split = "{wanted}" is set, but the row has no column "{column}"',
                    'Remove split, or name the column: columns = {split = "..."}.',
                )
            reading.splits[str(row[column])] += 1
            if str(row[column]) != wanted:
                continue
        yield place, row
        if room is not None:
            room -= 1
            if room == 0:
                break


def _example(reading: _Reading, shape: Any, row: dict[str, Any]) -> Example:
    split = reading.config.split if reading.hub else None
    example, after = reading.kind.example(row, shape, reading.taken, split)
    counts: Counter[str] = Counter()
    record = clean_record(row, counts)
    if after:
        counts["turns after the last assistant turn left out"] += 1
    reading.counts.update(counts)
    return replace(example, record=record)


def _check_any_row(reading: _Reading, source: str) -> None:
    if reading.taken == 0:
        found = ", ".join(f'"{shown(name)}" ({n})' for name, n in sorted(reading.splits.items()))
        raise UserError(
            f'no row has the split "{reading.config.split}"; splits found: {found or "none"}',
            file=source,
            mend="Set split to one of these.",
        )


def _check_bad_rows(reading: _Reading) -> None:
    """Refuse bad rows, or their being all there is."""
    if not reading.bad or (reading.config.on_bad_rows == "drop" and reading.examples):
        return
    (first, reason), total = reading.bad[0], len(reading.bad)
    places = [place for place, _ in reading.bad[:_SHOWN]]
    if len({place.file for place, _ in reading.bad}) == 1:
        listed = f"{first.unit}{'s' if total > 1 else ''} " + ", ".join(str(p.number) for p in places)
    else:
        listed = ", ".join(str(p) for p in places)
    more = f" and {total - _SHOWN} more" if total > _SHOWN else ""
    mend = 'Mend them, or set on_bad_rows = "drop" to leave them out.'
    if not reading.examples:
        mend = "No usable row is left: mend the file, or name its columns in the config."
    raise first.error(f"{reason}; {total} bad of {reading.taken} rows: {listed}{more}", mend)
