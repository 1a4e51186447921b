"""LESS features beside the public recipe, in one run, one thread, on the builtin model; and peak memory.

The public recipe: one example at a time, `loss.backward()`, and a dense +-1 matrix drawn anew, block by
block, for every example (by `randint`, torch's quickest draw of these). Ours: batched per-example gradients,
and signs made once for many examples. Both are of one checkpoint; gradients, Adam direction, projection and
norm are counted. Rows: the builtin pool, spread. Seconds are CPU time of the one thread, so that what else
the machine does counts less; gradients are measured in turns. Memory: growth of a process's peak.

Run: OMP_NUM_THREADS=1 python benchmarks/less.py [--rows 64 --public-rows 2]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import machine

from nncift_core.builtin import data_path
from nncift_core.config import LanguageModelConfig, LessConfig
from nncift_core.gradients.checkpoints import Checkpoint
from nncift_core.gradients.features import GradientFeatures, adam_direction_
from nncift_core.gradients.per_sample import PerSample, Sequences, gradient_budget
from nncift_core.gradients.projection import Projection
from nncift_core.influence.contract import Rows
from nncift_core.influence.less import Less
from nncift_core.language_models import load_language_model

KINDS = ("rademacher", "count-sketch", "none")
COLUMNS, BLOCK = 8192, 4096
ROUNDS = 3


def examples(count: int) -> Rows:
    """Rows of the builtin pool, spread over its length."""
    lines = data_path("pool").read_text(encoding="utf-8").splitlines()
    picked = [json.loads(lines[i]) for i in np.linspace(0, len(lines) - 1, count).astype(int)]
    return Rows(
        np.arange(count, dtype=np.int64),
        tuple(r["instruction"] for r in picked),
        tuple(r["output"] for r in picked),
    )


def less(kind: Any, folder: Path, fit: bool = False) -> Less:
    """LESS as configured by default (rank 128 on q, k, v, o), one checkpoint of a tiny warm-up."""
    lm = load_language_model(LanguageModelConfig(), "cpu")
    function = Less(lambda: lm, lm.key, LessConfig(epochs=1, batch_size=8, projection=kind))
    if fit:
        function.fit_state(examples(16), folder)
    function.load_state(folder)
    return function


def one_backward(function: Less, sequences: Sequences) -> tuple[torch.Tensor, float]:
    """Gradients [n, D] the public way, one example at a time; and the seconds taken."""
    model, parameters = function.adapted.model.model, function.adapted.parameters
    for p in parameters.values():
        p.requires_grad_(True)
    out = torch.empty(len(sequences), function.adapted.dimension)
    start = time.process_time()
    for k, (prompt, response) in enumerate(zip(sequences.prompts, sequences.responses, strict=True)):
        ids = torch.tensor([[*prompt, *response]])
        labels = ids.clone()
        labels[0, : len(prompt)] = -100
        model.zero_grad()
        model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels).loss.backward()
        torch.cat([p.grad.view(-1) for p in parameters.values() if p.grad is not None], out=out[k])
    seconds = time.process_time() - start
    for p in parameters.values():
        p.requires_grad_(False)
        p.grad = None
    return out, seconds


def batched(function: Less, sequences: Sequences) -> tuple[torch.Tensor, float]:
    """The same gradients our way."""
    out = torch.empty(len(sequences), function.adapted.dimension)
    budget = gradient_budget(function.batch_tokens, "cpu")
    start = time.process_time()
    for index, g, _ in PerSample(function.adapted).blocks(sequences, budget):
        out[index] = g
    return out, time.process_time() - start


def public_projection(g: torch.Tensor) -> float:
    """Seconds to project one gradient [D] by a dense matrix drawn anew in blocks."""
    start = time.process_time()
    out, draw = torch.zeros(COLUMNS), torch.Generator().manual_seed(0)
    for at in range(0, len(g), BLOCK):
        part = g[at : at + BLOCK]
        signs = torch.randint(0, 2, (len(part), COLUMNS), generator=draw, dtype=torch.float32).mul_(2).sub_(1)
        out += part @ signs
    torch.nn.functional.normalize(out, dim=0)
    return time.process_time() - start


def line(name: str, rows: int, tokens: int, seconds: float, base: float | None = None) -> None:
    """One row of figures; base: seconds a row of what it is compared with."""
    ratio = "" if base is None else f"{base / (seconds / rows):10.2f} x"
    print(f"{name:44} {rows / seconds:9.2f} rows/s {tokens / seconds:10.0f} tokens/s{ratio}")


def peak(kind: str, count: int, folder: str) -> None:
    """Print the growth of this process's peak memory over the features of `count` rows, in MB."""
    function = less(kind, Path(folder))
    function.features(examples(4), "row")
    before = high_water()
    function.features(examples(count), "row")
    print(high_water() - before)


def high_water() -> float:
    """This process's peak memory in MB; getrusage would count the parent's before the exec."""
    text = Path("/proc/self/status").read_text()
    return int(text.partition("VmHWM:")[2].split()[0]) / 1024


def compare(folder: Path, count: int, public_rows: int) -> None:
    """Print the table."""
    rows = examples(count)
    function = less("rademacher", folder, fit=True)
    sequences, _ = function._sequences(rows)
    tokens = sum(map(len, sequences.prompts)) + sum(map(len, sequences.responses))
    d = function.adapted.dimension
    print(f"{count} rows of {tokens / count:.0f} tokens, D = {d:,}, one checkpoint, K = {COLUMNS:,}\n")
    features: GradientFeatures = function._features
    checkpoint = Checkpoint.load(folder / "checkpoint-1.safetensors")
    features.load(checkpoint)
    m, v = function.adapted.flat(checkpoint.exp_avg), function.adapted.flat(checkpoint.exp_avg_sq)
    for warm in (one_backward, batched):
        warm(function, sequences.take(np.arange(4)))
    seconds: dict[str, list[float]] = {"plain": [], "mine": []}
    for _ in range(ROUNDS):
        plain, taken = one_backward(function, sequences)
        seconds["plain"].append(taken)
        mine, taken = batched(function, sequences)
        seconds["mine"].append(taken)
    plain_seconds, mine_seconds = min(seconds["plain"]), min(seconds["mine"])
    ratios = [a / b for a, b in zip(seconds["plain"], seconds["mine"], strict=True)]
    off = ((plain - mine).norm(dim=1) / plain.norm(dim=1)).max()
    line("gradients: batch 1, backward per example", count, tokens, plain_seconds)
    line("gradients: batched per example", count, tokens, mine_seconds, plain_seconds / count)
    print(f"by round {min(ratios):.2f} to {max(ratios):.2f}; largest relative difference {off:.1e}\n")
    start = time.process_time()
    for g in plain[:public_rows]:
        adam_direction_(g, m, v)
    directed = time.process_time() - start
    projected = sum(public_projection(g) for g in plain[:public_rows])
    public = plain_seconds / count + (directed + projected) / public_rows
    line(f"features: public recipe ({public_rows} rows projected)", 1, tokens // count, public)
    for kind in KINDS:
        features.projection = Projection(d, COLUMNS, kind, 1)
        # Compiles the loops for many and for few rows.
        features.projection.apply(torch.zeros(1, d))
        features.projection.apply(torch.zeros(17, d))
        start = time.process_time()
        features.compute(sequences, adam=True)
        line(f"features: {kind}", count, tokens, time.process_time() - start, public)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--public-rows", type=int, default=2)
    parser.add_argument("--peak", nargs=3, metavar=("KIND", "ROWS", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if args.peak:
        peak(args.peak[0], int(args.peak[1]), args.peak[2])
        return
    print(f"{machine()}; {torch.get_num_threads()} torch thread")
    with tempfile.TemporaryDirectory() as folder:
        compare(Path(folder), args.rows, args.public_rows)
        print()
        for count in (4 * args.rows, 16 * args.rows):
            command = [sys.executable, __file__, "--peak", "count-sketch", str(count), folder]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            print(f"peak memory over the features of {count:5} rows: {float(done.stdout):.0f} MB")


if __name__ == "__main__":
    main()
