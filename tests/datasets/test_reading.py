"""`read_dataset`: what must work, and what is refused with file, place and mend."""

from __future__ import annotations

import datetime as dt
import gzip
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from nncift_core.config import DatasetConfig
from nncift_core.datasets import Example, ReadReport, read_dataset
from nncift_core.errors import UserError

A, B = {"prompt": "a", "response": "1"}, {"prompt": "b", "response": "2"}
LINES = b'{"prompt": "a", "response": "1"}\n{"prompt": "b", "response": "2"}\n'


def read(folder: Path, name: str, content: bytes | str, **config: Any) -> tuple[list[Example], ReadReport]:
    data = content.encode("utf-8") if isinstance(content, str) else content
    (folder / name).write_bytes(data)
    return read_dataset(DatasetConfig(source=name, **config), str(folder))


def error(folder: Path, name: str, content: bytes | str, **config: Any) -> str:
    with pytest.raises(UserError) as e:
        read(folder, name, content, **config)
    return str(e.value)


def rows(*items: Any) -> str:
    return "".join(json.dumps(item) + "\n" for item in items)


def table(folder: Path, name: str = "d.parquet", **columns: Any) -> bytes:
    pq.write_table(pa.table(columns), folder / name)
    return (folder / name).read_bytes()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("d.jsonl", LINES),
        ("d.ndjson", b"\xef\xbb\xbf" + LINES),
        ("d.jsonl", LINES.replace(b"\n", b"\r\n")),
        ("d.jsonl", LINES.rstrip()),
        ("d.jsonl", LINES + b"\n  \n\n"),
        ("d.json", json.dumps([A, B], indent=1).encode()),
        ("d.json", b"\xef\xbb\xbf\n" + json.dumps([A, B]).encode()),
        ("d.json", LINES),
        ("d.csv", b"prompt,response\na,1\nb,2\n"),
        ("d.csv", b'\xef\xbb\xbfprompt,response\r\n"a",1\r\n\r\nb,2'),
        ("d.tsv", b"prompt\tresponse\na\t1\nb\t2\n"),
        ("d.jsonl.gz", gzip.compress(LINES, mtime=0)),
        ("d.jsonl.zst", zstandard.compress(LINES[:33]) + zstandard.compress(LINES[33:])),
        ("d.csv.gz", gzip.compress(b"prompt,response\na,1\nb,2\n", mtime=0)),
        ("D.JSON.ZST", zstandard.compress(json.dumps([A, B]).encode())),
    ],
)
def test_formats(tmp_path: Path, name: str, content: bytes) -> None:
    examples, report = read(tmp_path, name, content)
    assert [(e.prompt, e.response, e.row_number) for e in examples] == [("a", "1", 0), ("b", "2", 1)]
    assert [e.record for e in examples] == [A, B]
    assert (report.rows, report.files, report.dropped, report.note) == (2, (name,), (), "")


def test_parquet(tmp_path: Path) -> None:
    day = dt.datetime(2024, 1, 2, 3, 4, 5)
    data = table(
        tmp_path,
        prompt=pa.array(["a"]).dictionary_encode(),
        response=["1"],
        when=[day],
        price=[Decimal("1.50")],
        image=[b"\x00"],
        score=[float("nan")],
        nested=[{"day": day.date(), "blobs": [b"x"]}],
        label=[4],
    )
    examples, report = read(tmp_path, "d.parquet", data)
    assert (examples[0].prompt, examples[0].label) == ("a", "4")
    assert json.loads(json.dumps(examples[0].record, allow_nan=False)) == {
        "prompt": "a",
        "response": "1",
        "when": "2024-01-02T03:04:05",
        "price": "1.50",
        "score": None,
        "nested": {"day": "2024-01-02", "blobs": [None]},
        "label": 4,
    }
    assert 'column "image" holds bytes and is left out of the kept rows (1 times)' in report.note
    assert 'column "score" holds NaN or infinity, kept as null (1 times)' in report.note


@pytest.mark.parametrize(
    "text",
    [
        "x" * 200_000,
        "bell \x07 nul \x00 esc \x1b",
        "\u2028 \u0085 \x0b \x0c lines",
        "שלום \u202eabc",
        "👩‍👩‍👧 e\u0301",
        "{prompt} {{x}} {% raw %} <|im_start|> {0} %s",
        "  kept  \n",
        'quo"te,comma\tand\r\nbreaks',
    ],
)
def test_text_is_kept_as_it_stands(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, "d.jsonl", rows({"prompt": text, "response": text}))[0][0].prompt == text
    quoted = '"' + text.replace('"', '""') + '"'
    example = read(tmp_path, "d.csv", f"prompt,response\n{quoted},{quoted}\n")[0][0]
    assert (example.prompt, example.response) == (text, text)
    data = table(tmp_path, prompt=[text], response=[text])
    assert read(tmp_path, "d.parquet", data)[0][0].response == text


def test_duplicates_stay_and_are_counted(tmp_path: Path) -> None:
    same = {"prompt": "e\u0301", "response": "r"}
    composed = {"prompt": "\u00e9", "response": "r"}
    examples, report = read(tmp_path, "d.jsonl", rows(A, A, B, A, same, composed))
    assert (len(examples), report.rows, report.duplicates) == (6, 6, 3)


def test_csv_numbers_are_text_and_places_are_lines(tmp_path: Path) -> None:
    content = 'prompt,response\n"one\ntwo",4\n\nx,\ny,NaN\n'
    examples, report = read(tmp_path, "d.csv", content, on_bad_rows="drop")
    assert [(e.prompt, e.response, e.row_number) for e in examples] == [("one\ntwo", "4", 0), ("y", "NaN", 2)]
    assert report.dropped == ("d.csv:5 response is empty",)


def test_split_then_limit(tmp_path: Path) -> None:
    data = rows(*({**A, "prompt": f"{i}", "split": "dev" if i % 2 else "train"} for i in range(6)))
    examples, report = read(tmp_path, "d.jsonl", data, split="dev", limit=2)
    assert [(e.prompt, e.row_number, e.split) for e in examples] == [("1", 0, "dev"), ("3", 1, "dev")]
    assert report.dataset == "d[dev]"
    assert len(read(tmp_path, "d.jsonl", data, split="dev")[0]) == 3
    assert error(tmp_path, "d.jsonl", data, split="test") == (
        'd.jsonl: no row has the split "test"; splits found: "dev" (3), "train" (3). '
        "Set split to one of these."
    )
    fold = rows({**A, "fold": 1}, {**B, "fold": 2})
    assert [e.prompt for e in read(tmp_path, "d.jsonl", fold, split="2", columns={"split": "fold"})[0]] == [
        "b"
    ]
    assert error(tmp_path, "d.jsonl", rows(A), split="dev").startswith(
        'd.jsonl:1: split = "dev" is set, but the row has no column "split". Remove split, or name the column'
    )


def test_limit_stops_reading(tmp_path: Path) -> None:
    assert len(read(tmp_path, "d.jsonl", LINES + b"broken", limit=2)[0]) == 2
    assert "d.jsonl:3: broken JSON" in error(tmp_path, "d.jsonl", LINES + b"broken", limit=3)


GZ, ZST = gzip.compress(LINES * 50, mtime=0), zstandard.compress(LINES * 50)


@pytest.mark.parametrize("drop", ["error", "drop"])
@pytest.mark.parametrize(
    ("name", "content", "start", "mend"),
    [
        ("d.jsonl", LINES + b'{"prompt": "c"\n', "d.jsonl:3: broken JSON: Expecting", "Mend the JSON"),
        ("d.jsonl", LINES + b'{"prompt":\n', "d.jsonl:3: broken JSON: Expecting", "Mend the JSON"),
        ("d.jsonl", LINES + b"[1]\n", "d.jsonl:3: a list, not an object", 'Write one {"prompt"'),
        ("d.jsonl", b"null\n", "d.jsonl:1: null, not an object", 'Write one {"prompt"'),
        ("d.jsonl", b'\n{"a": 1, "a": 2}\n', 'd.jsonl:2: broken JSON: key given twice: "a"', "Mend the JSON"),
        ("d.jsonl", b'{"a":' + b"[" * 200_000, "d.jsonl:1: broken JSON: nested too deeply", "Mend the JSON"),
        (
            "d.jsonl",
            b'{"a":' + b"1" * 5000 + b"}",
            "d.jsonl:1: broken JSON: Exceeds the limit",
            "Mend the JSON",
        ),
        ("d.jsonl", LINES + b'{"prompt": "\xe9"}', "d.jsonl:3: not UTF-8 (byte 0xe9 at byte 13", "as UTF-8"),
        ("d.jsonl", LINES.decode().encode("utf-16"), "d.jsonl:1: not UTF-8 (byte 0xff at byte 1", "as UTF-8"),
        ("d.json", b"[\n" + b'{"a": 1},\n', "d.json:2: broken JSON", "Mend the JSON"),
        (
            "d.json",
            b'[{"prompt": "a", "response": "b"}, 3]',
            "d.json row 2: a number, not an object",
            "Write one",
        ),
        (
            "d.json",
            b'{\n"prompt": "a"}',
            "d.json:1: the file holds one object, an array",
            "one object per line",
        ),
        ("d.json", LINES + b"{", "d.json:3: broken JSON", "Mend the JSON"),
        ("d.json", b"[]", "d.json: the file has no rows", "that has rows"),
        ("d.jsonl", b"\n \n", "d.jsonl: the file has no rows", "that has rows"),
        ("d.csv", b"prompt,response\n", "d.csv: the file has no rows", "that has rows"),
        ("d.csv", b"prompt,response\na,1\nb\n", "d.csv:3: 1 fields, the header has 2", "in double quotes"),
        ("d.csv", b'prompt,response\na,1\n"b\nc,2\n', "d.csv:3: broken CSV record", "Close the quotes"),
        ("d.csv", b"prompt,prompt\na,1\n", 'd.csv:1: column named twice: "prompt"', "Rename"),
        ("d.csv", b"prompt,response\na,1\n\xff,2\n", "d.csv:3: not UTF-8 (byte 0xff", "as UTF-8"),
        ("d.csv", b"x,y\na,1\n", 'd.csv:1: columns found: "x", "y"; wanted', "columns = {prompt"),
        ("d.jsonl.gz", GZ[:-4], "d.jsonl.gz: cannot be decompressed as gzip (Truncated", "write it again"),
        ("d.jsonl.gz", LINES, "d.jsonl.gz: cannot be decompressed as gzip (", "write it again"),
        ("d.jsonl.zst", ZST[:-4], "d.jsonl.zst: cannot be decompressed as zstd (Truncated", "write it again"),
        ("d.jsonl.zst", LINES, "d.jsonl.zst: cannot be decompressed as zstd (", "write it again"),
        *(
            (f"d.{s}", b"", f"d.{s}: the file is empty (0 bytes)", "Write it again")
            for s in ("jsonl", "json", "csv", "parquet", "jsonl.gz")
        ),
        ("d.parquet", b"PAR1 no", "d.parquet: broken or truncated Parquet (", "copy the file again"),
    ],
)
def test_broken_files(tmp_path: Path, name: str, content: bytes, start: str, mend: str, drop: str) -> None:
    message = error(tmp_path, name, content, on_bad_rows=drop)
    assert message.startswith(start)
    assert mend in message


def test_broken_parquet(tmp_path: Path) -> None:
    whole = table(tmp_path, prompt=["a"] * 100, response=["b"] * 100)
    assert error(tmp_path, "d.parquet", whole[:-30]).startswith("d.parquet: broken or truncated Parquet (")
    none = table(tmp_path, prompt=pa.array([], pa.string()), response=pa.array([], pa.string()))
    assert error(tmp_path, "d.parquet", none).startswith("d.parquet: the file has no rows")
    other = table(tmp_path, x=["a"], y=["b"])
    assert error(tmp_path, "d.parquet", other).startswith('d.parquet: columns found: "x", "y"; wanted prompt')
    raw = pa.array([b"ok", b"\xff"], pa.binary()).view(pa.string())
    latin = table(tmp_path, prompt=raw, response=["a", "b"])
    assert error(tmp_path, "d.parquet", latin).startswith("d.parquet row 2: text that is not UTF-8. Write")


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({"prompt": "c", "response": ""}, "response is empty"),
        ({"prompt": "c", "response": " \n\t"}, "response is empty"),
        ({"prompt": " ", "response": "x"}, "prompt is empty"),
        ({"prompt": "c", "response": None}, "response is null"),
        ({"prompt": "c"}, 'response is missing (columns found: "prompt")'),
        ({"prompt": "c", "response": float("nan")}, "response is NaN, text is wanted"),
        (
            {"prompt": "c", "response": 5},
            'response is a number (5), text is wanted: put it in quotes, as "5"',
        ),
        ({"prompt": "c", "response": True}, "response is of type bool, text is wanted"),
        ({"prompt": ["c"], "response": "x"}, "prompt is a list, text is wanted: keep one text per row"),
        ({"prompt": {"c": 1}, "response": "x"}, "prompt is an object, text is wanted"),
        (
            {"prompt": "\ud800", "response": "x"},
            "prompt holds a lone surrogate (\\ud800), which UTF-8 cannot hold",
        ),
        ({"prompt": "c", "\ud800": "x"}, 'response is missing (columns found: "prompt", "\\ud800")'),
        ({**A, "meta": ["\udfff"]}, 'column "meta" holds a lone surrogate (\\udfff)'),
    ],
)
def test_bad_rows(tmp_path: Path, bad: dict[str, Any], reason: str) -> None:
    data = rows(A, B, bad)
    message = error(tmp_path, "d.jsonl", data)
    assert message.startswith(f"d.jsonl:3: {reason}")
    assert message.endswith(
        '1 bad of 3 rows: line 3. Mend them, or set on_bad_rows = "drop" to leave them out.'
    )
    examples, report = read(tmp_path, "d.jsonl", data, on_bad_rows="drop")
    assert [e.record for e in examples] == [A, B]
    assert len(report.dropped) == 1 and report.dropped[0].startswith(f"d.jsonl:3 {reason}")
    alone = error(tmp_path, "d.jsonl", rows({**A, **bad, "response": ""}), on_bad_rows="drop")
    assert "1 bad of 1 rows: line 1. No usable row is left" in alone


def test_bad_rows_are_listed(tmp_path: Path) -> None:
    data = rows(A, *([{"prompt": "c", "response": ""}] * 12))
    assert error(tmp_path, "d.jsonl", data) == (
        "d.jsonl:2: response is empty; 12 bad of 13 rows: lines 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 2 more. "
        'Mend them, or set on_bad_rows = "drop" to leave them out.'
    )
    _, report = read(tmp_path, "d.jsonl", data, on_bad_rows="drop")
    assert report.dropped == tuple(f"d.jsonl:{n} response is empty" for n in range(2, 14))


def test_bad_rows_over_several_files(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    for name in ("a", "b"):
        (tmp_path / "f" / f"{name}.jsonl").write_text(rows(A, {**B, "response": ""}))
    with pytest.raises(UserError) as e:
        read_dataset(DatasetConfig(source="f"), str(tmp_path))
    assert "f/a.jsonl:2: response is empty; 2 bad of 4 rows: f/a.jsonl:2, f/b.jsonl:2." in str(e.value)


def test_bad_parquet_rows(tmp_path: Path) -> None:
    data = table(tmp_path, prompt=["a", "b", None], response=[["x"], ["y"], ["z"]])
    assert error(tmp_path, "d.parquet", data).startswith(
        "d.parquet row 1: response is a list, text is wanted: keep one text per row, or map another column; "
        "3 bad of 3 rows: rows 1, 2, 3. No usable row is left"
    )
    data = table(tmp_path, prompt=["a", None], response=["x", "y"])
    _, report = read(tmp_path, "d.parquet", data, on_bad_rows="drop")
    assert report.dropped == ("d.parquet row 2 prompt is null",)
