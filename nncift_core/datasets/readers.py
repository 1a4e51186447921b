"""Files to rows: every format becomes an iterator of (place, the user's row as a dict)."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO, Literal, NamedTuple, cast

import pyarrow as pa
import pyarrow.parquet as pq

from nncift_core.datasets.sources import SourceFile, file_format
from nncift_core.datasets.values import shown
from nncift_core.errors import UserError

Row = dict[str, Any]
_FIELD_LIMIT = 2**31 - 1


class Place(NamedTuple):
    """Where a row stands: line (text formats) or row (Parquet, JSON arrays, hub), counted from 1."""

    file: str
    number: int
    unit: Literal["line", "row"]

    def __str__(self) -> str:
        return f"{self.file}:{self.number}" if self.unit == "line" else f"{self.file} row {self.number}"

    def error(self, what: str, mend: str) -> UserError:
        """The UserError that names this place."""
        if self.unit == "line":
            return UserError(what, file=self.file, line=self.number, mend=mend)
        return UserError(what, file=self.file, row=self.number, mend=mend)


def read_rows(file: SourceFile) -> Iterator[tuple[Place, Row]]:
    """The rows of one file, in order.

    Raises UserError naming file and line or row for a file that is empty, broken, truncated, not
    UTF-8, or whose rows are no objects.
    """
    kind = file_format(file.path.name)
    if kind is None:
        raise UserError("format not told by the file's name", file=file.label, mend="Rename it.")
    try:
        size = file.path.stat().st_size
    except OSError as e:
        raise UserError(f"cannot be opened ({e.strerror})", file=file.label, mend="Mend the path.") from None
    if size == 0:
        raise UserError("the file is empty (0 bytes)", file=file.label, mend="Write it again.")
    readers: dict[str, Callable[[SourceFile], Iterator[tuple[Place, Row]]]] = {
        "jsonl": _jsonl,
        "ndjson": _jsonl,
        "json": _json,
        "csv": _csv,
        "tsv": _csv,
        "parquet": _parquet,
    }
    return readers[kind[0]](file)


# ---- text


def _byte_lines(file: SourceFile) -> Iterator[bytes]:
    """Lines of the (decompressed) file, split at LF only: CR and Unicode line ends are text."""
    compression = (file_format(file.path.name) or ("", None))[1]
    try:
        with _open(file, compression) as stream:
            while line := stream.readline():
                yield line
    except OSError as e:
        if compression:
            raise UserError(
                f"cannot be decompressed as {compression} ({e})",
                file=file.label,
                mend="The file is damaged, cut short or misnamed: write it again.",
            ) from None
        raise UserError(f"cannot be read ({e})", file=file.label, mend="Mend its rights.") from None


def _open(file: SourceFile, compression: str | None) -> BinaryIO:
    if compression is None:
        return open(file.path, "rb")
    # Arrow's stream tells a cut-short file from a whole one; zstandard's own reader does not.
    return io.BufferedReader(pa.input_stream(str(file.path), compression=compression))


def _text_lines(file: SourceFile) -> Iterator[str]:
    """Decoded lines with their line ends; a byte order mark is left out."""
    for number, line in enumerate(_byte_lines(file), 1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as e:
            raise UserError(
                f"not UTF-8 (byte 0x{line[e.start]:02x} at byte {e.start + 1} of the line)",
                file=file.label,
                line=number,
                mend="Save the file as UTF-8.",
            ) from None


def _jsonl(file: SourceFile) -> Iterator[tuple[Place, Row]]:
    return _objects(file, _text_lines(file))


def _objects(file: SourceFile, lines: Iterable[str]) -> Iterator[tuple[Place, Row]]:
    """One JSON object per line; blank lines are passed over."""
    for number, line in enumerate(lines, 1):
        if line.strip():
            place = Place(file.label, number, "line")
            yield place, _object(_parse(line, file, number), place)


def _json(file: SourceFile) -> Iterator[tuple[Place, Row]]:
    """An array of objects, or one object per line when the first line is a whole object."""
    lines = list(_text_lines(file))
    text = "".join(lines)
    first = next((line for line in lines if line.strip()), "")
    if text.lstrip()[:1] != "[" and _is_object(first):
        yield from _objects(file, lines)
        return
    if not first:
        return
    value = _parse(text, file, None)
    if not isinstance(value, list):
        raise UserError(
            f"the file holds {_kind(value)}, an array of objects is wanted",
            file=file.label,
            line=1,
            mend='Write [{"prompt": ..., "response": ...}, ...] or one object per line.',
        )
    for number, item in enumerate(value, 1):
        place = Place(file.label, number, "row")
        yield place, _object(item, place)


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _object(value: Any, place: Place) -> Row:
    if not isinstance(value, dict):
        mend = 'Write one {"prompt": ..., "response": ...} per row.'
        raise place.error(f"{_kind(value)}, not an object", mend)
    return value


def _kind(value: Any) -> str:
    names = {dict: "one object", list: "a list", str: "a text", type(None): "null", bool: "true or false"}
    return names.get(type(value), "a number")


def _parse(text: str, file: SourceFile, line: int | None) -> Any:
    """`json.loads` with the place of an error; a key given twice is an error, too.

    line: where `text` stands in the file; None when it is the whole file.
    """
    try:
        # Without its last line end, a text cut short errs on its own line, not on the one after.
        return json.loads(text.rstrip(), object_pairs_hook=_unique_keys)
    except json.JSONDecodeError as e:
        line, what = (line or 1) + e.lineno - 1, f"{e.msg} at column {e.colno}"
    except RecursionError:
        what = "nested too deeply"
    except ValueError as e:
        what = str(e)
    raise UserError(f"broken JSON: {what}", file=file.label, line=line, mend="Mend the JSON at that place.")


def _unique_keys(pairs: list[tuple[str, Any]]) -> Row:
    # One text for a column's name, whatever the number of rows.
    row = {sys.intern(name): value for name, value in pairs}
    if len(row) < len(pairs):
        raise ValueError(f"key given twice: {_repeated([k for k, _ in pairs])}")
    return row


def _repeated(names: list[str]) -> str:
    return ", ".join(f'"{shown(name)}"' for name, n in Counter(names).items() if n > 1)


def _csv(file: SourceFile) -> Iterator[tuple[Place, Row]]:
    """CSV or TSV with a header; a row's place is the line it starts on."""
    csv.field_size_limit(_FIELD_LIMIT)
    tabs = (file_format(file.path.name) or ("",))[0] == "tsv"
    reader = csv.reader(_text_lines(file), delimiter="\t" if tabs else ",", strict=True)
    header: list[str] | None = None
    for number, cells in _records(reader, file):
        if not cells or (len(cells) == 1 and not cells[0].strip()):
            continue
        if header is None:
            header = cells
            if len(set(header)) < len(header):
                raise UserError(
                    f"column named twice: {_repeated(header)}",
                    file=file.label,
                    line=number,
                    mend="Rename one of them in the header.",
                )
        elif len(cells) != len(header):
            raise UserError(
                f"{len(cells)} fields, the header has {len(header)}",
                file=file.label,
                line=number,
                mend="Put fields that hold the separator, quotes or line ends in double quotes.",
            )
        else:
            yield Place(file.label, number, "line"), dict(zip(header, cells, strict=True))


def _records(reader: Any, file: SourceFile) -> Iterator[tuple[int, list[str]]]:
    while True:
        start = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as e:
            raise UserError(
                f"broken CSV record ({e})",
                file=file.label,
                line=start,
                mend='Close the quotes of that record; a quote inside a field is written "".',
            ) from None
        yield start, cells


# ---- tables


def _parquet(file: SourceFile) -> Iterator[tuple[Place, Row]]:
    try:
        table = pq.ParquetFile(file.path)
    except (pa.ArrowException, OSError) as e:
        raise _broken_parquet(file, e) from None
    with table:
        names = table.schema_arrow.names
        if len(set(names)) < len(names):
            raise UserError(f"column named twice: {_repeated(names)}", file=file.label, mend="Rename one.")
        batches = table.iter_batches(batch_size=1024)
        done = 0
        while True:
            try:
                batch = next(batches, None)
            except (pa.ArrowException, OSError) as e:
                raise _broken_parquet(file, e) from None
            if batch is None:
                return
            yield from arrow_rows(batch, file.label, done)
            done += batch.num_rows


def _broken_parquet(file: SourceFile, error: Exception) -> UserError:
    reason = str(error).splitlines()[0]
    return UserError(
        f"broken or truncated Parquet ({reason})", file=file.label, mend="Write or copy the file again."
    )


def arrow_rows(batch: pa.RecordBatch | pa.Table, label: str, done: int) -> Iterator[tuple[Place, Row]]:
    """Rows of an Arrow batch as dicts; `done` rows came before it. Raises UserError naming the row."""
    try:
        rows = batch.to_pylist()
    except (pa.ArrowException, ValueError, OverflowError):
        rows = [_arrow_row(batch, k, Place(label, done + k + 1, "row")) for k in range(batch.num_rows)]
    for k, row in enumerate(rows):
        yield Place(label, done + k + 1, "row"), row


def _arrow_row(batch: pa.RecordBatch | pa.Table, k: int, place: Place) -> Row:
    try:
        return cast(Row, batch.slice(k, 1).to_pylist()[0])
    except UnicodeDecodeError:
        raise place.error("text that is not UTF-8", "Write the column as UTF-8 text.") from None
    except (pa.ArrowException, ValueError, OverflowError) as e:
        raise place.error(f"a value that Python cannot hold ({e})", "Write that column as text.") from None
