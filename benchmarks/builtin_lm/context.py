"""Does the builtin model read the example before a target? DELIFT of same-intent and other examples.

Run from the repository root: python -m benchmarks.builtin_lm.context
"""

from __future__ import annotations

import json

import numpy as np

from nncift_core.builtin import data_path
from nncift_core.config import parse_config
from nncift_core.influence.contract import Rows
from nncift_core.influence.registry import create


def read(name: str) -> list[dict[str, str]]:
    """Rows of a built-in data set."""
    return [json.loads(line) for line in data_path(name).open(encoding="utf-8")]


def as_rows(records: list[dict[str, str]]) -> Rows:
    """Texts for the influence function."""
    ids = np.arange(len(records), dtype=np.int64)
    return Rows(ids, tuple(r["instruction"] for r in records), tuple(r["output"] for r in records))


def main() -> None:
    """Print the mean influence of both kinds of example, and how often the same intent helps more."""
    pool = [r for r in read("pool") if r["source"] == "banking77"]
    same, other, targets = [], [], []
    for target in read("target_intent"):
        alike = [r for r in pool if r["output"] == target["output"]]
        if alike:
            same.append(alike[0])
            other.append(next(r for r in pool[len(targets) :] if r["output"] != target["output"]))
            targets.append(target)
    function = create(parse_config({"pool": {"source": "builtin:pool"}}), "cpu")
    columns = as_rows(targets)
    a, b = function.pairs(as_rows(same), columns), function.pairs(as_rows(other), columns)
    print(f"{len(targets)} targets with an example of the same intent in the pool")
    print(f"mean influence   same intent {a.mean():.3f}   another intent {b.mean():.3f}")
    print(f"the same intent helps more for {int((a > b).sum())} of {len(targets)}")


if __name__ == "__main__":
    main()
