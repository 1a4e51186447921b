"""Make the pools, targets and test sets of the paper's tables (15,000, 5,000 and 5,000 rows) from the hub.

Run: python examples/paper/prepare.py mixinstruct | alpaca | mmlu [FOLDER]

Writes FOLDER/NAME/{pool,target,test}.jsonl (FOLDER: where this file lies). Needs the network; the configs
here read nothing else from the hub but the models. Rows are drawn with seed 0.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

SIZES = {"pool": 15_000, "target": 5_000, "test": 5_000}
LETTERS = "ABCD"


def instruction(row: dict[str, Any]) -> dict[str, Any]:
    """A row of MixInstruct or Alpaca: instruction, with its input below, and the reference answer."""
    prompt = row["instruction"] + (f"\n{row['input']}" if row.get("input") else "")
    return {"prompt": prompt, "response": row["output"]}


def question(row: dict[str, Any]) -> dict[str, Any]:
    """A row of MMLU: the question with lettered options, and the letter of the right one."""
    options = "\n".join(f"{letter}. {text}" for letter, text in zip(LETTERS, row["choices"], strict=True))
    return {
        "prompt": f"{row['question']}\n{options}\nAnswer:",
        "response": LETTERS[int(row["answer"])],
        "task": row.get("subject") or "mmlu",
    }


# Hub data set, its configuration, splits by what they become ("" for one split that is cut), and the reading.
SOURCES: dict[str, tuple[str, str | None, dict[str, str], Callable[[dict[str, Any]], dict[str, Any]]]] = {
    "mixinstruct": (
        "llm-blender/mix-instruct", None,
        {"pool": "train", "target": "validation", "test": "test"}, instruction,
    ),
    "alpaca": ("yahma/alpaca-cleaned", None, {"": "train"}, instruction),
    "mmlu": (
        "cais/mmlu", "all",
        {"pool": "auxiliary_train", "target": "validation", "test": "test"}, question,
    ),
}  # fmt: skip


def parts(
    name: str, load: Callable[[str], Iterable[dict[str, Any]]]
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """(pool | target | test, its rows): as many as `SIZES` says, or all where there are fewer."""
    _, _, splits, read = SOURCES[name]
    rng = np.random.default_rng(0)
    if "" in splits:
        rows = [read(row) for row in load(splits[""])]
        order, at = rng.permutation(len(rows)), 0
        for part, size in SIZES.items():
            yield part, [rows[k] for k in order[at : at + size]]
            at += size
        return
    for part, split in splits.items():
        rows = [read(row) for row in load(split)]
        yield part, [rows[k] for k in rng.permutation(len(rows))[: SIZES[part]]]


def main(name: str, folder: Path) -> None:
    import datasets

    hub_id, config, _, _ = SOURCES[name]
    out = folder / name
    out.mkdir(parents=True, exist_ok=True)
    for part, rows in parts(name, lambda split: datasets.load_dataset(hub_id, config, split=split)):
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (out / f"{part}.jsonl").write_text(text, encoding="utf-8")
        print(f"{out / part}.jsonl: {len(rows):,} rows")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3) or sys.argv[1] not in SOURCES:
        raise SystemExit(f"usage: python examples/paper/prepare.py {' | '.join(SOURCES)} [FOLDER]")
    main(sys.argv[1], Path(sys.argv[2]) if len(sys.argv) > 2 else Path(__file__).parent)
