"""Labelled rows: which column is the text, its pair, the label; which rows are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nncift_core.config_prune import LabelledRows
from nncift_core.datasets.labelled import LABELS, PAIRS, TEXTS, read_labelled, unlabelled_note
from nncift_core.errors import UserError
from nncift_core.records import Example, ReadReport

Row = dict[str, Any]


def read(folder: Path, rows: list[Row], **config: Any) -> tuple[list[Example], ReadReport]:
    (folder / "d.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return read_labelled(LabelledRows(source="d.jsonl", **config), str(folder))


def refused(folder: Path, rows: list[Row], **config: Any) -> UserError:
    with pytest.raises(UserError) as e:
        read(folder, rows, **config)
    return e.value


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("label", LABELS)
def test_usual_names_of_single_texts_are_known(tmp_path, text, label):
    examples, report = read(tmp_path, [{label: "a", text: " One.\n", "extra": 1}])
    assert (examples[0].prompt, examples[0].response, examples[0].label) == (" One.\n", "", "a")
    assert report.shape == "text"
    assert examples[0].record == {label: "a", text: " One.\n", "extra": 1}


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_usual_names_of_pairs_are_known(tmp_path, first, second):
    examples, report = read(tmp_path, [{second: "two", first: "one", "label": "a"}])
    assert (examples[0].prompt, examples[0].response, report.shape) == ("one", "two", "text pair")


def test_columns_of_the_config_win_over_usual_names(tmp_path):
    row = {"text": "t", "label": "l", "body": "b", "topic": "c", "title": "h"}
    examples, _ = read(tmp_path, [row], columns={"text": "body", "label": "topic"})
    assert (examples[0].prompt, examples[0].response, examples[0].label) == ("b", "", "c")
    examples, _ = read(tmp_path, [row], columns={"text": "title", "text_pair": "body"})
    assert (examples[0].prompt, examples[0].response, examples[0].label) == ("h", "b", "l")


def test_a_named_text_alone_is_no_pair_even_beside_its_usual_partner(tmp_path):
    row = {"premise": "p", "hypothesis": "h", "label": "l"}
    examples, report = read(tmp_path, [row], columns={"text": "hypothesis"})
    assert (examples[0].prompt, examples[0].response, report.shape) == ("h", "", "text")


def test_the_text_of_a_named_second_text_is_its_usual_partner(tmp_path):
    row = {"premise": "p", "hypothesis": "h", "label": "l"}
    assert read(tmp_path, [row], columns={"text_pair": "hypothesis"})[0][0].prompt == "p"
    row = {"sentence": "s", "other": "o", "label": "l"}
    assert read(tmp_path, [row], columns={"text_pair": "other"})[0][0].prompt == "s"
    error = refused(tmp_path, [{"a": "s", "other": "o", "label": "l"}], columns={"text_pair": "other"})
    assert "text_pair is named, but not text" in str(error)


def test_a_column_that_has_another_role_is_not_taken_for_the_label(tmp_path):
    row = {"text": "t", "label": "l", "category": "news", "class": "c"}
    examples, _ = read(tmp_path, [row], columns={"group": "category", "id": "class"})
    assert (examples[0].label, examples[0].task, examples[0].source_id) == ("l", "news", "c")
    examples, _ = read(
        tmp_path, [{"content": "t", "target": "body", "label": "x"}], columns={"text": "target"}
    )
    assert (examples[0].prompt, examples[0].label) == ("body", "x")


@pytest.mark.parametrize(
    ("row", "what", "mend"),
    [
        ({"text": "t", "label": "a", "intent": "b"}, "may be the label: label, intent", "label ="),
        ({"text": "t", "kind": "a"}, "no column of labels", "label ="),
        ({"body": "t", "label": "a"}, "no column of text", "text ="),
        ({"text": "t", "review": "r", "label": "a"}, "more than one reading is possible", "text ="),
        ({"premise": "p", "label": "a"}, 'there is no "hypothesis"', "text_pair ="),
        ({"sentence2": "p", "label": "a"}, 'there is no "sentence1"', "text_pair ="),
        ({"text_pair": "p", "label": "a"}, 'there is no "text"', "text_pair ="),
        (
            {"premise": "p", "hypothesis": "h", "sentence1": "a", "sentence2": "b", "label": "x"},
            "more than one reading is possible",
            "text_pair",
        ),
    ],
)  # fmt: skip
def test_columns_that_cannot_be_told_are_named_with_the_mend(tmp_path, row, what, mend):
    error = refused(tmp_path, [row])
    assert what in error.what and all(f'"{c}"' in error.what for c in row)
    assert mend in error.mend
    assert (error.file, error.line) == ("d.jsonl", 1)


@pytest.mark.parametrize("role", ["text", "text_pair", "label", "group", "id", "split"])
def test_a_column_that_the_config_names_must_exist(tmp_path, role):
    error = refused(tmp_path, [{"text": "t", "label": "a"}], columns={role: "lost"})
    assert f'wanted "lost" (as {role})' in str(error) and '"text", "label"' in str(error)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({"text": "t", "label": None}, 'no label (column "label")'),
        ({"text": "t"}, 'no label (column "label")'),
        ({"text": "t", "label": "  "}, 'no label (column "label")'),
        ({"text": "t", "label": ""}, 'no label (column "label")'),
        ({"text": "t", "label": ["a", "b"]}, "is list"),
        ({"text": "t", "label": {"a": 1}}, "is dict"),
        ({"text": " \n", "label": "a"}, 'column "text" is empty'),
        ({"text": None, "label": "a"}, 'column "text" is null'),
        ({"label": "a"}, 'column "text" is missing'),
        ({"text": 5, "label": "a"}, 'column "text" is int'),
        ({"text": "\ud800", "label": "a"}, "text"),
        ({"text": "t", "label": "\ud800"}, "label"),
    ],
)
def test_rows_that_cannot_be_used_are_named_or_dropped_and_counted(tmp_path, bad, reason):
    rows = [{"text": "x", "label": "a"}, bad, {"text": "y", "label": "b"}, bad]
    error = refused(tmp_path, rows)
    assert reason in error.what and "2 bad of 4 rows: lines 2, 4" in error.what
    assert (error.file, error.line) == ("d.jsonl", 2)
    assert 'on_bad_rows = "drop"' in error.mend
    examples, report = read(tmp_path, rows, on_bad_rows="drop")
    assert [e.prompt for e in examples] == ["x", "y"]
    assert [e.row_number for e in examples] == [0, 2]
    assert len(report.dropped) == 2 and reason in report.dropped[0]


def test_a_pair_needs_both_texts(tmp_path):
    rows = [
        {"premise": "p", "hypothesis": "h", "label": "a"},
        {"premise": "p", "hypothesis": "", "label": "a"},
    ]
    assert 'column "hypothesis" is empty' in str(refused(tmp_path, rows))


def test_numbers_become_the_text_of_labels(tmp_path):
    rows = [{"text": "a", "label": 0}, {"text": "b", "label": 1}, {"text": "c", "label": True}]
    assert [e.label for e in read(tmp_path, rows)[0]] == ["0", "1", "True"]
    pq.write_table(pa.table({"text": ["a", "b"], "label": [0, 3]}), tmp_path / "n.parquet")
    examples, _ = read_labelled(LabelledRows(source="n.parquet"), str(tmp_path))
    assert [e.label for e in examples] == ["0", "3"]


def test_a_label_that_is_no_number_in_a_table_is_missing(tmp_path):
    pq.write_table(pa.table({"text": ["a", "b"], "label": [1.0, float("nan")]}), tmp_path / "n.parquet")
    with pytest.raises(UserError, match="row 2: the row has no label"):
        read_labelled(LabelledRows(source="n.parquet"), str(tmp_path))


def test_group_id_and_split_are_kept_as_text_and_may_be_missing(tmp_path):
    rows = [
        {"text": "a", "label": "x", "domain": 3, "key": "k1", "part": "train"},
        {"text": "b", "label": "x", "domain": None, "key": None, "part": "train"},
    ]
    columns = {"group": "domain", "id": "key", "split": "part"}
    examples, _ = read(tmp_path, rows, columns=columns)
    assert [(e.task, e.source_id, e.split) for e in examples] == [
        ("3", "k1", "train"), (None, None, "train"),
    ]  # fmt: skip
    usual, _ = read(tmp_path, [{"text": "a", "label": "x", "group": "g", "id": 7, "split": "s"}])
    assert (usual[0].task, usual[0].source_id, usual[0].split) == ("g", "7", "s")


def test_a_split_is_filtered_before_the_limit_counts(tmp_path):
    rows = [{"text": str(k), "label": "a", "split": "test" if k % 2 else "train"} for k in range(10)]
    examples, _ = read(tmp_path, rows, split="test", limit=3)
    assert [e.prompt for e in examples] == ["1", "3", "5"]
    assert 'no row has the split "dev"; splits found: "test" (5), "train" (5)' in str(
        refused(tmp_path, rows, split="dev")
    )


def test_a_csv_with_usual_names_is_read_like_any_file(tmp_path):
    (tmp_path / "d.csv").write_text("text,intent\nhello,greet\n,greet\n", encoding="utf-8")
    with pytest.raises(UserError, match=r'd\.csv:3: column "text" is empty'):
        read_labelled(LabelledRows(source="d.csv"), str(tmp_path))


def test_whitespace_around_a_label_is_no_part_of_it(tmp_path):
    rows = [{"text": "x", "label": label} for label in ("a", "a ", "\ta\n", "a b")]
    assert [e.label for e in read(tmp_path, rows)[0]] == ["a", "a", "a", "a b"]


def test_labels_that_say_that_there_is_none_make_bad_rows(tmp_path):
    rows = [{"text": "x", "label": 0}, {"text": "y", "label": -1}, {"text": "z", "label": " - "}]
    assert [e.label for e in read(tmp_path, rows)[0]] == ["0", "-1", "-"]
    error = refused(tmp_path, rows, unlabelled=["-1 ", "-"])
    assert 'no label (column "label" is "-1", see data.unlabelled)' in error.what and "2 bad" in error.what
    examples, report = read(tmp_path, rows, unlabelled=["-1", "-"], on_bad_rows="drop")
    assert [e.label for e in examples] == ["0"] and len(report.dropped) == 2


@pytest.mark.parametrize(
    ("labels", "sign"),
    [
        ({"-1", "0", "1", "2"}, "-1"),
        ({"-1", "0", "2"}, ""),
        ({"-1", "1"}, ""),
        ({"-1", "yes"}, ""),
        ({"-", "entailment", "neutral"}, "-"),
        ({"-", "+"}, "-"),
        ({"-"}, ""),
        ({"0", "1"}, ""),
    ],
)
def test_a_label_that_may_say_that_there_is_none_is_told(labels, sign):
    note = unlabelled_note(labels)
    assert (f'data.unlabelled = ["{sign}"]' in note) if sign else note == ""
