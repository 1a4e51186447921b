"""Exact SelectIT on built-in rows beside one prompt at a time with all logits, in one run, on one thread.

With the product's prompts, which share the row, and with the oracle's, which begin differently. Seconds are
CPU seconds of this process, the better of two tries for each side, so that other programs matter less.

Run: python benchmarks/selectit.py [--rows 96]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from machine import machine

from nncift_core.builtin import data_path
from nncift_core.config import parse_config
from nncift_core.influence.contract import Rows
from nncift_core.influence.selectit import Rater, SelectIT, rating_prompts

TESTS = Path(__file__).parents[1] / "tests"
sys.path.insert(0, str(TESTS / "influence"))

from plain_selectit import sentence_score, token_probability  # noqa: E402


def rows_of(name: str, count: int) -> Rows:
    """Rows of a built-in data set, spread over its length."""
    lines = data_path(name).read_text(encoding="utf-8").splitlines()
    picked = [json.loads(lines[i]) for i in np.linspace(0, len(lines) - 1, count).astype(int)]
    return Rows(
        np.arange(count, dtype=np.int64),
        tuple(r["instruction"] for r in picked),
        tuple(r["output"] for r in picked),
    )


def one_at_a_time(rater: Rater, prompts: tuple[str, ...], rows: Rows) -> tuple[np.ndarray, int]:
    """Values by the plain formula, and the tokens it read."""
    out, tokens = [], 0
    for x, y in zip(rows.prompts, rows.responses, strict=True):
        texts = [p.replace("{prompt}", x).replace("{response}", y) for p in prompts]
        ids = [rater.model.tokenize([text])[0][-(rater.model.context_length or 0) :] for text in texts]
        tokens += sum(map(len, ids))
        out.append(sentence_score(token_probability(rater.model.model, ids, rater.forms), 0.2))
    return np.array(out), tokens


def compare(name: str, prompts: list[str] | None, rows: Rows) -> None:
    """One line per side, and the ratio of their times."""
    config = {"pool": {"source": "builtin:pool"}, "influence": {"function": "selectit"}}
    config["influence"]["selectit"] = {} if prompts is None else {"prompts": prompts}  # type: ignore[index]
    function = SelectIT.from_config(parse_config(config), "cpu")
    function.values(rows.take(np.arange(2)))  # loads the model and looks at its cache
    (rater,) = function.raters
    slow_seconds = fast_seconds = float("inf")
    for _ in range(2):
        start = time.process_time()
        slow, tokens = one_at_a_time(rater, rating_prompts(prompts), rows)
        slow_seconds = min(slow_seconds, time.process_time() - start)
        start = time.process_time()
        fast = function.values(rows)
        fast_seconds = min(fast_seconds, time.process_time() - start)
    print(f"{name}: {tokens:,} tokens in prompts, largest difference {np.abs(fast - slow).max():.1e}")
    for way, seconds in (("one at a time", slow_seconds), ("batched", fast_seconds)):
        print(f"  {way:14} {len(rows) / seconds:8.1f} rows/s {tokens / seconds:10,.0f} tokens/s")
    print(f"  ratio {slow_seconds / fast_seconds:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=96)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = rows_of("pool", args.rows)
    with np.load(TESTS / "data" / "oracles" / "selectit.npz", allow_pickle=False) as oracle:
        others = [str(p) for p in oracle["rating_prompts"]]
    print(machine(), f"; {torch.get_num_threads()} torch threads; {len(rows)} rows, 5 prompts each")
    compare("own prompts", None, rows)
    compare("the oracle's prompts", others, rows)


if __name__ == "__main__":
    main()
