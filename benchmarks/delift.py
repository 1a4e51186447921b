"""Exact DELIFT with shared prefixes beside one pair at a time, in one run, one thread; and its peak memory.

Seconds are CPU time, so that what else the machine does counts less; both ways take turns.

Three cases on built-in rows and the builtin model: the quickstart's pool against both of its targets, and
examples four times as long as the queries. Memory: what a process holds at most during a tile beyond what it
held before, for P and for 4 P pairs.

Run: OMP_NUM_THREADS=1 python benchmarks/delift.py [--rows 16 --columns 24 --batch-tokens 8192]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from machine import machine

from nncift_core.builtin import data_path
from nncift_core.config import LanguageModelConfig
from nncift_core.influence.contract import Rows
from nncift_core.influence.delift import Delift
from nncift_core.language_models import LanguageModel, load_language_model

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from influence.plain_delift import influence as one_pair_at_a_time  # noqa: E402

ROUNDS = 3


def examples(name: str, count: int, joined: int = 1) -> Rows:
    """Rows of a built-in data set at equal steps of its lengths, so of its mean length; `joined` make one."""
    lines = data_path(name).read_text(encoding="utf-8").splitlines()
    found = sorted(map(json.loads, lines), key=lambda r: (len(r["instruction"] + r["output"]), r["output"]))
    steps = (np.arange(count * joined) + 0.5) * len(found) / (count * joined)
    picked = [found[i] for i in steps.astype(int)]
    groups = [picked[k::count] for k in range(count)]
    return Rows(
        np.arange(count, dtype=np.int64),
        tuple("\n".join(r["instruction"] for r in group) for group in groups),
        tuple("\n".join(r["output"] for r in group) for group in groups),
    )


def compare(lm: LanguageModel, name: str, rows: Rows, columns: Rows, batch_tokens: int) -> None:
    """Print pairs/s and tokens/s of both ways, the best of a few rounds each."""
    plain_seconds, shared_seconds = [], []
    for _ in range(ROUNDS):
        start = time.process_time()
        plain, tokens = one_pair_at_a_time(lm, rows, columns)
        plain_seconds.append(time.process_time() - start)
        function = Delift(lambda: lm, lm.key, batch_tokens=batch_tokens)
        start = time.process_time()
        shared = function.tile(rows, columns)
        shared_seconds.append(time.process_time() - start)
    read, alone = function.tokens(rows, columns)
    print(f"\n{name}: {len(rows)} x {len(columns)} pairs of {alone / plain.size:.0f} tokens on average")
    for way, seconds in (
        ("one pair at a time", min(plain_seconds)),
        ("shared prefixes", min(shared_seconds)),
    ):
        print(f"  {way:18} {plain.size / seconds:8.1f} pairs/s {tokens / seconds:10,.0f} tokens/s")
    ratios = [a / b for a, b in zip(plain_seconds, shared_seconds, strict=True)]
    ratio = min(plain_seconds) / min(shared_seconds)
    print(
        f"  ratio {ratio:.2f} (by round {min(ratios):.2f} to {max(ratios):.2f}); tokens read "
        f"{alone / read:.2f} times fewer; largest difference {np.abs(plain - shared).max():.1e}"
    )


def peak_growth(rows: int, columns: int, batch_tokens: int) -> float:
    """MiB that this process's memory rises by at most during a tile, after a small tile (Linux)."""
    lm = load_language_model(LanguageModelConfig(), "cpu")
    function = Delift(lambda: lm, lm.key, batch_tokens=batch_tokens)
    pool, target = examples("pool", rows), examples("target", columns)
    function.tile(pool.take(np.arange(2)), target.take(np.arange(2)))
    # Forget the peak of loading.
    Path("/proc/self/clear_refs").write_text("5")
    before = _resident("VmRSS")
    function.tile(pool, target)
    return _resident("VmHWM") - before


def _resident(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--columns", type=int, default=24)
    parser.add_argument("--batch-tokens", type=int, default=8192)
    parser.add_argument("--peak", action="store_true", help="print the growth of the peak memory only")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.peak:
        print(peak_growth(args.rows, args.columns, args.batch_tokens))
        return
    print(machine(), "; 1 torch thread")
    lm = load_language_model(LanguageModelConfig(), "cpu")
    Delift(lambda: lm, lm.key).tile(examples("pool", 3), examples("target", 8))
    for name, target in (("GSM8K problems", "target"), ("banking questions", "target_intent")):
        pool, asked = examples("pool", args.rows), examples(target, args.columns)
        compare(lm, f"quickstart, {name}", pool, asked, args.batch_tokens)
    long, short = examples("pool", args.rows, joined=4), examples("pool", args.columns)
    compare(lm, "examples four times as long as queries", long, short, args.batch_tokens)
    print()
    for times in (1, 4):
        command = [sys.executable, __file__, "--peak", f"--rows={args.rows * times}"]
        command += [f"--columns={args.columns}", f"--batch-tokens={args.batch_tokens}"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        pairs = args.rows * args.columns * times
        print(f"peak memory of a tile of {pairs} pairs: {float(done.stdout):+.0f} MiB")


if __name__ == "__main__":
    main()
