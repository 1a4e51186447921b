"""Whether subsets chosen by influence train better models than random rows, and what estimates keep of that.

The methods of `nncift compare` on real data with the built-in model: DELIFT and LESS exact and estimated,
DELIFT (SE), BM25, embedding similarity, longest responses, random rows, all data; three targets, three seeds,
one epoch. Tens of minutes. A workspace that is named is kept, and a broken-off run goes on in it.

Run: python benchmarks/compare.py ../shared/data [--rows N] [--workspace DIR]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from alone import settle
from machine import machine

from nncift_core.devices import usable_cores

TARGETS = ("gsm8k", "t0_extractive_qa", "code")
ROWS, TARGET_ROWS, TEST_ROWS = 1_000, 30, 60
# Tasks of fewer held-out rows are in "all" alone: the extractive questions are of some sixty tasks.
FEWEST = 20


def job(data: Path, rows: int) -> dict[str, Any]:
    """The job as a TOML file would say it."""
    targets = [str(data / f"instruct_target_{name}.parquet") for name in TARGETS]
    return {
        "pool": {"source": str(data / "instruct_pool.parquet"), "limit": rows},
        "target": {"source": targets, "split": "validation", "test": "test", "limit": TARGET_ROWS},
        "influence": {"label_fraction": 0.1},
        "selection": {"fraction": 0.1},
        # The small student moves at a higher rate than the default.
        "finetune": {"epochs": 1, "batch_size": 8, "learning_rate": 1e-3},
        "compare": {
            "functions": ["delift", "less", "delift-se"],
            "rivals": ["base", "random", "longest", "bm25", "similarity", "full"],
        },
        "evaluation": {"metrics": ["loss"], "seeds": 3, "limit": TEST_ROWS},
        # A small model keeps one core busy, hardly two: a slot for each core, and shards for both.
        "shards": {"rows": 125},
        "execution": {"devices": ["cpu"] * usable_cores()},
    }


def told(result: Any, seconds: float) -> None:
    """The tables: scores, what is kept, costs, break-even."""
    f = result.facts
    print(f"{f['pool_rows']:,} pool rows, {f['target_rows']} target rows, {f['test_rows']} held-out rows, "
          f"{f['seeds']} seeds, {f['epochs']} epoch; {seconds:.0f} s")  # fmt: skip
    shown = [r for r in result.summary if r["n_rows"] >= FEWEST]
    for row in sorted(shown, key=lambda r: (r["mode"], r["task"] != "all", r["task"], r["metric"])):
        value = f"{row['metric']} {row['value']:.4f} ({row['lower']:.4f}..{row['upper']:.4f})"
        print(f"  {row['mode']:8} {row['task'][:24]:24} {row['method']:20} {value}{_gain(row)}")
    for m in result.methods:
        even = "never" if m["never_pays"] else m["break_even_rows"] and f"{m['break_even_rows']:,.0f} rows"
        spent = "-" if m["seconds"] is None else f"{m['seconds']:.1f} s"
        print(f"  cost {m['method']:20} {spent}; exact pairs {m['exact_pairs']:,} of {m['pairs']:,}; "
              f"{m['predictor'] or 'exact'} {m['verdict'] or ''}; pays from {even or '-'}")  # fmt: skip
    for c in result.costs:
        print(f"  stage {c['stage']}: {c['computed']:,} of {c['items']:,} in {c['seconds']:.1f} s")


def _gain(row: dict[str, Any]) -> str:
    if row["gain"] is None:
        return ""
    kept = "" if row["kept"] is None else f", keeps {row['kept']:.0%}"
    interval = f"{row['gain_lower']:+.4f}..{row['gain_upper']:+.4f}"
    return f" gain {row['gain']:+.4f} ({interval}) {row['verdict']}{kept}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--workspace", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        settle(Path(folder) / "prefect")
        from flows.compare import compare_methods
        from flows.server import stop
        from tasks.progress import reporter

        reporter.mode = "auto"
        print(machine())
        start = time.monotonic()
        try:
            result = compare_methods(
                job(given.data.resolve(), given.rows), given.workspace or Path(folder) / "ws"
            )
            told(result, time.monotonic() - start)
        finally:
            stop()


if __name__ == "__main__":
    main()
