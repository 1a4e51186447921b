"""Shapes: which columns are read as prompt and response."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nncift_core.config import DatasetConfig
from nncift_core.datasets import Example, read_dataset
from nncift_core.errors import UserError


def read(folder: Path, rows: list[dict[str, Any]], **config: Any) -> tuple[list[Example], str, str]:
    (folder / "d.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    examples, report = read_dataset(DatasetConfig(source="d.jsonl", **config), str(folder))
    return examples, report.shape, report.note


@pytest.mark.parametrize(
    ("row", "shape", "prompt", "response"),
    [
        ({"prompt": " p ", "response": "r\n"}, "prompt/response", " p ", "r\n"),
        ({"instruction": "i", "input": "x", "output": "o"}, "alpaca", "i\nx", "o"),
        ({"instruction": "i", "input": "", "output": "o"}, "alpaca", "i", "o"),
        ({"instruction": "i", "input": None, "output": "o"}, "alpaca", "i", "o"),
        ({"instruction": "i", "output": "o"}, "alpaca", "i", "o"),
        ({"question": "q", "answer": "a"}, "question/answer", "q", "a"),
        ({"input": "q", "output": "a"}, "input/output", "q", "a"),
        ({"prompt": "q", "completion": "a"}, "prompt/completion", "q", "a"),
    ],
)
def test_pairs(tmp_path: Path, row: dict[str, Any], shape: str, prompt: str, response: str) -> None:
    examples, found, _ = read(tmp_path, [row])
    assert (found, examples[0].prompt, examples[0].response) == (shape, prompt, response)
    assert examples[0].record == row


def turns(*pairs: tuple[str, str]) -> list[dict[str, str]]:
    return [{"role": role, "content": text} for role, text in pairs]


def test_messages_of_one_user_turn_are_its_text(tmp_path: Path) -> None:
    rows = [{"prompt": "title", "messages": turns(("user", "hi"), ("assistant", "ho"))}]
    examples, shape, _ = read(tmp_path, rows)
    assert (shape, examples[0].prompt, examples[0].response) == ("messages", "hi", "ho")


def test_longer_conversations_are_rendered_and_later_turns_counted(tmp_path: Path) -> None:
    chat = turns(("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"))
    rows = [{"messages": [*chat, {"role": "user", "content": "bye"}]}]
    examples, _, note = read(tmp_path, rows)
    assert examples[0].prompt == "System: s\nUser: a\nAssistant: b\nUser: c"
    assert examples[0].response == "d"
    assert note == "turns after the last assistant turn left out (1 times)"


def test_sharegpt(tmp_path: Path) -> None:
    chat = [{"from": "system", "value": "s"}, {"from": "human", "value": "h"}, {"from": "gpt", "value": "g"}]
    examples, shape, _ = read(tmp_path, [{"conversations": chat}])
    assert (shape, examples[0].prompt, examples[0].response) == ("conversations", "System: s\nUser: h", "g")


@pytest.mark.parametrize(
    ("chat", "reason"),
    [
        (turns(("user", "a")), "messages has no assistant turn"),
        (turns(("assistant", "a")), "messages has nothing before the response"),
        (turns(("user", " "), ("assistant", "a")), "messages has nothing before the response"),
        (turns(("user", "a"), ("assistant", " ")), "response is empty"),
        (
            turns(("user", "a"), ("tool", "b"), ("assistant", "c")),
            "messages turn 2 has the role 'tool'; known: user",
        ),
        ([{"role": "user", "content": [{"type": "text"}]}], "messages turn 1 has a content that is not text"),
        ([{"role": "user"}], "messages turn 1 lacks role and content (or from and value); found: role"),
        ([7], "messages turn 1 is no object"),
        ("text", "messages is no list of turns"),
        (None, "messages is null"),
    ],
)
def test_bad_conversations(tmp_path: Path, chat: Any, reason: str) -> None:
    good = {"messages": turns(("user", "a"), ("assistant", "b"))}
    with pytest.raises(UserError) as e:
        read(tmp_path, [good, {"messages": chat}])
    assert str(e.value).startswith(f"d.jsonl:2: {reason}")
    assert 'on_bad_rows = "drop"' in str(e.value)


@pytest.mark.parametrize(
    ("row", "parts"),
    [
        (
            {"foo": "a", "bar": "b"},
            ['columns found: "foo", "bar"; wanted prompt and response', "columns = {prompt ="],
        ),
        (
            {"prompt": "a", "completion": "b", "response": "c"},
            ["more than one reading", 'prompt = "prompt", response = "completion"', 'response = "response"}'],
        ),
        (
            {"prompt": "a", "response": "b", "messages": []},
            ["more than one reading", 'messages = "messages"'],
        ),
        (
            {"instruction": "a", "context": "c", "response": "b"},
            ['"context" may belong to the prompt', 'input = "context"}'],
        ),
        (
            {"system": "a", "conversations": []},
            ['"system" may belong', 'columns = {messages = "conversations"}'],
        ),
    ],
)
def test_unclear_columns(tmp_path: Path, row: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(UserError) as e:
        read(tmp_path, [row])
    assert str(e.value).startswith("d.jsonl:1: columns found: ")
    for part in parts:
        assert part in str(e.value)


def test_the_mapping_wins(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "response": "b", "q": "Q", "ctx": "C", "key": 7, "kind": "t", "messages": []}]
    columns = {"prompt": "q", "input": "ctx", "response": "prompt", "id": "key", "task": "kind"}
    examples, shape, _ = read(tmp_path, rows, columns=columns)
    assert (examples[0].prompt, examples[0].response, shape) == ("Q\nC", "a", "q+ctx/prompt")
    assert (examples[0].source_id, examples[0].task) == ("7", "t")


def test_a_half_mapping_takes_the_other_half_from_the_usual_names(tmp_path: Path) -> None:
    examples, _, _ = read(
        tmp_path, [{"instruction": "i", "input": "x", "gold": "g"}], columns={"response": "gold"}
    )
    assert (examples[0].prompt, examples[0].response) == ("i\nx", "g")


def test_context_is_read_as_input_when_mapped(tmp_path: Path) -> None:
    columns = {"prompt": "instruction", "input": "context", "response": "response"}
    examples, _, _ = read(tmp_path, [{"instruction": "i", "context": "c", "response": "r"}], columns=columns)
    assert examples[0].prompt == "i\nc"


def test_a_mapped_column_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UserError) as e:
        read(tmp_path, [{"prompt": "a", "response": "b"}], columns={"response": "gold", "id": "key"})
    assert str(e.value) == (
        'd.jsonl:1: columns found: "prompt", "response"; wanted "gold" (as response), "key" (as id). '
        "Mend `columns` in the config."
    )


def test_messages_exclude_the_pair_mapping(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="columns maps messages and also prompt, response or input"):
        read(tmp_path, [{"a": [], "b": ""}], columns={"messages": "a", "prompt": "b"})


def test_optional_columns_become_text(tmp_path: Path) -> None:
    row = {
        "prompt": "p",
        "response": "r",
        "id": 3,
        "source": "web",
        "task": None,
        "split": "dev",
        "label": [1],
    }
    example = read(tmp_path, [row])[0][0]
    assert (example.source_id, example.source, example.task) == ("3", "web", None)
    assert (example.split, example.label) == ("dev", "[1]")
