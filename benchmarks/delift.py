"""Exact DELIFT on built-in rows: batched tokens per second beside one sequence at a time, in one run.

Run: python benchmarks/delift.py [--rows 16 --columns 16]
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
import torch
from machine import machine

from nncift_core.builtin import data_path
from nncift_core.config import parse_config
from nncift_core.influence.contract import Rows
from nncift_core.influence.registry import create
from nncift_core.language_models import load_language_model


def rows_of(name: str, count: int) -> Rows:
    """The first rows of a built-in data set, spread over its length."""
    lines = data_path(name).read_text(encoding="utf-8").splitlines()
    picked = [json.loads(lines[i]) for i in np.linspace(0, len(lines) - 1, count).astype(int)]
    return Rows(
        np.arange(count, dtype=np.int64),
        tuple(r["instruction"] for r in picked),
        tuple(r["output"] for r in picked),
    )


def one_at_a_time(rows: Rows, columns: Rows) -> tuple[np.ndarray, int]:
    """The plain formula, one forward pass per sequence (the public way); and the tokens it read."""
    config = parse_config({"pool": {"source": "builtin:pool"}})
    lm = load_language_model(config.language_model, "cpu")
    t, tokens = config.influence.delift, 0

    def distance(prompt: str, response: str) -> float:
        nonlocal tokens
        head = lm.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        tail = lm.tokenizer(response, add_special_tokens=False)["input_ids"] + [lm.eos_id]
        head = head[-(lm.context_length - len(tail)) :]
        tokens += len(head) + len(tail)
        with torch.inference_mode():
            logits = lm.model(torch.tensor([head + tail])).logits[0].float()
        p = torch.log_softmax(logits[len(head) - 1 : -1], -1).exp()
        true = p[torch.arange(len(tail)), torch.tensor(tail)]
        return float((true - 1).norm() / len(tail) ** 0.5)

    out = np.empty((len(rows), len(columns)), np.float32)
    for j, (x, y) in enumerate(zip(columns.prompts, columns.responses, strict=True)):
        without = distance(t.template_without.replace("{prompt}", x), y)
        for i, (ex, ey) in enumerate(zip(rows.prompts, rows.responses, strict=True)):
            shown = t.template_with.replace("{example_prompt}", ex).replace("{example_response}", ey)
            out[i, j] = without - distance(shown.replace("{prompt}", x), y)
    return out, tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--columns", type=int, default=16)
    args = parser.parse_args()
    rows, columns = rows_of("pool", args.rows), rows_of("target", args.columns)
    function = create(parse_config({"pool": {"source": "builtin:pool"}}), "cpu")
    function.tile(rows.take(np.arange(2)), columns.take(np.arange(2)))
    start = time.perf_counter()
    slow, tokens = one_at_a_time(rows, columns)
    slow_seconds = time.perf_counter() - start
    start = time.perf_counter()
    fast = create(parse_config({"pool": {"source": "builtin:pool"}}), "cpu").tile(rows, columns)
    fast_seconds = time.perf_counter() - start
    print(machine(), f"; {torch.get_num_threads()} torch threads")
    print(f"{slow.size} pairs, {tokens:,} tokens, largest difference {np.abs(fast - slow).max():.1e}")
    for name, seconds in (("one at a time", slow_seconds), ("batched", fast_seconds)):
        print(f"{name:14} {slow.size / seconds:8.1f} pairs/s {tokens / seconds:10,.0f} tokens/s")
    print(f"ratio {slow_seconds / fast_seconds:.2f}")


if __name__ == "__main__":
    main()
