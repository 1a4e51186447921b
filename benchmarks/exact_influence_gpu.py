"""DELIFT, LESS and SelectIT on a Llama-style model with random weights: throughput, peak memory, back-off.

For a machine with a GPU, on which only `nncift_core` and its libraries are needed (no Prefect, no DuckDB).
Prints for each function tokens/s, pairs/s or rows/s, and the device's peak memory; then DELIFT once more with
a share of the memory and a batch that does not fit into it, which must end in the same values.

Run: python benchmarks/exact_influence_gpu.py [--size 0.5 --rows 64 --columns 64 --rank 128]
     (on a CPU, to see that it works: --size 0.01 --rows 4 --columns 4 --rank 4)
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from delift import examples
from machine import machine
from transformers import LlamaConfig, LlamaForCausalLM

from nncift_core.builtin import lm_path
from nncift_core.config import Config, parse_config
from nncift_core.influence.contract import InfluenceFunction, Rows
from nncift_core.influence.delift import Delift
from nncift_core.influence.less import Less
from nncift_core.influence.registry import create
from nncift_core.influence.selectit import SelectIT

# Parameters in billions -> hidden size, layers, heads, feed-forward size.
SHAPES = {0.01: (256, 4, 4, 768), 0.5: (1024, 28, 16, 4096), 1.5: (1792, 28, 14, 7168)}


def build(size: float, folder: Path, dtype: torch.dtype) -> None:
    """Random weights and the builtin tokenizer as a local model folder."""
    hidden, layers, heads, inner = SHAPES[size]
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32_000,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads // 2,
        intermediate_size=inner,
        max_position_embeddings=4096,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=1,
    )
    model = LlamaForCausalLM(config).to(dtype)
    print(f"{sum(p.numel() for p in model.parameters()) / 1e9:.2f} G parameters, {dtype}")
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(lm_path() / name, folder / name)


def job(folder: Path, name: str, device: str, batch_tokens: int, rank: int) -> Config:
    """The settings of one function on the random model."""
    return parse_config(
        {
            "pool": {"source": "builtin:pool"},
            "influence": {"function": name, "less": {"rank": rank, "epochs": 1, "warm_up_rows": 16}},
            "language_model": {"model": str(folder), "device": device, "batch_tokens": batch_tokens},
            "execution": {"devices": [device]},
        }
    )


def watch(device: str) -> float:
    """Seconds now, after all work of the device; forgets its peak memory."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    return time.perf_counter()


def line(name: str, count: int, unit: str, tokens: int, start: float, device: str) -> None:
    """Figures of what has been computed since `start`."""
    peak = ""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
        peak = f"{torch.cuda.max_memory_allocated() / 2**30:8.2f} GiB at most"
    seconds = time.perf_counter() - start
    print(f"{name:28} {count / seconds:10.1f} {unit}/s {tokens / seconds:12,.0f} tokens/s {peak}", flush=True)


def delift(function: InfluenceFunction, rows: Rows, columns: Rows, device: str, name: str) -> np.ndarray:
    """Time a tile; tokens are those read, shared prefixes once."""
    assert isinstance(function, Delift)
    read, _ = function.tokens(rows, columns)
    start = watch(device)
    values = function.tile(rows, columns)
    line(name, values.size, "pairs", read, start, device)
    return values


def less(function: InfluenceFunction, rows: Rows, device: str) -> None:
    """Time warm-up and features of one checkpoint."""
    assert isinstance(function, Less)
    with tempfile.TemporaryDirectory() as folder:
        sequences, _ = function._sequences(rows)
        tokens = int(sequences.lengths().sum())
        start = watch(device)
        function.fit_state(rows.take(np.arange(min(16, len(rows)))), Path(folder))
        line("less, warm-up of 16 rows", min(16, len(rows)), "rows", 0, start, device)
        function.load_state(Path(folder))
        start = watch(device)
        function.features(rows, "row")
        line("less, features", len(rows), "rows", tokens, start, device)


def selectit(function: InfluenceFunction, rows: Rows, device: str) -> None:
    """Time the ratings; tokens are those of the prompts, shared or not."""
    assert isinstance(function, SelectIT)
    tokens = sum(len(ids) for row in function._sequences(function.raters[0].model, rows)[0] for ids in row)
    start = watch(device)
    function.values(rows)
    line("selectit", len(rows), "rows", tokens, start, device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=float, default=0.5, choices=sorted(SHAPES))
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--columns", type=int, default=64)
    parser.add_argument("--rank", type=int, default=128)
    parser.add_argument("--batch-tokens", type=int, default=65_536)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    print(machine())
    rows, columns = examples("pool", args.rows), examples("target", args.columns)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        build(args.size, path, torch.bfloat16 if device != "cpu" else torch.float32)

        def made(name: str, tokens: int = args.batch_tokens) -> InfluenceFunction:
            return create(job(path, name, device, tokens, args.rank), device)

        function = made("delift")
        function.tile(rows.take(np.arange(2)), columns.take(np.arange(2)))
        values = delift(function, rows, columns, device, "delift")
        less(made("less"), rows, device)
        selectit(made("selectit"), rows, device)
        if device == "cpu":
            print("back-off: needs a GPU")
            return
        used = torch.cuda.memory_allocated() + (2 << 30)
        torch.cuda.set_per_process_memory_fraction(used / torch.cuda.get_device_properties(0).total_memory)
        again = delift(made("delift", 1 << 24), rows, columns, device, "delift, memory short")
        print(f"largest difference after the back-off {np.abs(values - again).max():.1e}")


if __name__ == "__main__":
    main()
