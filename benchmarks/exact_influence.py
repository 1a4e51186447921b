"""Every influence function against its plain implementation, in one run, on one thread; and peak memory.

DELIFT, LESS and SelectIT against the references of the tests (one pair, one example, one prompt at a time)
on built-in rows and the builtin model: `delift.py`, `less.py` and `selectit.py`, which can be run alone.
DELIFT (SE) against one text at a time, BM25 against a loop over words.

Run: OMP_NUM_THREADS=1 python benchmarks/exact_influence.py
"""

from __future__ import annotations

import math
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from delift import examples
from machine import machine

from nncift_core.bm25 import Okapi, WordStatistics, words
from nncift_core.config import BM25Config, EncoderConfig
from nncift_core.encoders import example_text, load_encoder
from nncift_core.influence.contract import Rows

PARTS = ("delift.py", "less.py", "selectit.py")


def report(name: str, unit: str, count: int, plain: float, ours: float, apart: float) -> None:
    """Two lines of figures and their ratio; plain, ours: seconds for `count` units."""
    print(f"\n{name}: {count:,} {unit}")
    print(f"  plain  {count / plain:12,.1f} {unit}/s")
    print(f"  ours   {count / ours:12,.1f} {unit}/s")
    print(f"  ratio {plain / ours:.2f}; largest difference {apart:.1e}")


def texts(rows: Rows) -> list[str]:
    """The text of each row that is embedded or counted."""
    return [example_text(p, r) for p, r in zip(rows.prompts, rows.responses, strict=True)]


def embeddings(rows: Rows, columns: Rows) -> None:
    """DELIFT (SE): every text once, in batches of like lengths, against one text at a time."""
    encoder = load_encoder(EncoderConfig(), "cpu")
    every = texts(rows) + texts(columns)
    encoder.embed(every[:2])
    start = time.perf_counter()
    plain = np.concatenate([encoder.embed([text]) for text in every])
    plain_seconds = time.perf_counter() - start
    start = time.perf_counter()
    ours = encoder.embed(every)
    seconds = time.perf_counter() - start
    m = len(rows)
    apart = np.abs(plain[:m] @ plain[m:].T - ours[:m] @ ours[m:].T).max()
    report("DELIFT (SE)", "texts", len(every), plain_seconds, seconds, float(apart))


def bm25(rows: Rows, columns: Rows) -> None:
    """BM25: a product of word counts against the formula, pair by pair."""
    documents, queries, c = texts(rows), texts(columns), BM25Config()
    statistics = WordStatistics.of(documents)
    index = Okapi(statistics, c.k1, c.b)
    index.scores(documents[:2], queries[:2])
    start = time.perf_counter()
    ours = index.scores(documents, queries)
    seconds = time.perf_counter() - start
    start = time.perf_counter()
    plain = plain_bm25(documents, queries, c)
    report(
        "BM25", "pairs", ours.size, time.perf_counter() - start, seconds, float(np.abs(plain - ours).max())
    )


def plain_bm25(documents: list[str], queries: list[str], c: BM25Config) -> np.ndarray:
    """Robertson's formula, one pair after the other; words are split once."""
    counts, asked = [Counter(words(d)) for d in documents], [set(words(q)) for q in queries]
    mean = sum(sum(d.values()) for d in counts) / len(counts)
    found = Counter(word for d in counts for word in d)
    out = np.zeros((len(documents), len(queries)))
    for i, d in enumerate(counts):
        length = c.k1 * (1 - c.b + c.b * sum(d.values()) / mean)
        for j, query in enumerate(asked):
            for word in query & d.keys():
                idf = math.log(1 + (len(counts) - found[word] + 0.5) / (found[word] + 0.5))
                out[i, j] += idf * d[word] * (c.k1 + 1) / (d[word] + length)
    return out


def main() -> None:
    torch.set_num_threads(1)
    print(f"{machine()}; {torch.get_num_threads()} torch thread")
    for part in PARTS:
        print(f"\n=== {part}", flush=True)
        # A process of its own, so that peak memory is the part's.
        subprocess.run([sys.executable, str(Path(__file__).with_name(part))], check=True)
    print("\n=== the others")
    embeddings(examples("pool", 96), examples("target", 48))
    bm25(examples("pool", 400), examples("target", 180))


if __name__ == "__main__":
    main()
