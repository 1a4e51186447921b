"""What a refresh costs and notices: a pool that grows by a tenth of its kind, then by rows of another kind.

Run: python benchmarks/refresh.py ../shared/data   (needs the two data files named below; a Prefect server is
started and left as the command leaves it; minutes)
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from machine import machine

from flows.cli_running import quieten

# Before Prefect is imported: its log lines would stand between the figures.
quieten()

from flows.refresh import refresh_pool  # noqa: E402
from flows.valuation import ValuationResult  # noqa: E402
from tasks.progress import reporter  # noqa: E402

ROWS, MORE, TARGETS, SEED = 300, 30, 20, 0
# Which rows the pool holds first, which come later, and how many.
CASES = {
    "a tenth more of the same": ("", "", MORE),
    "problems, then code": ("gsm8k", "codealpaca", 2 * MORE),
    "code, then problems": ("codealpaca", "gsm8k", 2 * MORE),
}
EXACT = ("exact-influence", "added-labels")


def pools(data: Path, known: str, other: str, more: int) -> tuple[pa.Table, pa.Table]:
    """The pool before and after: rows of sources that begin with `known`, then more of `other`."""
    table = pq.read_table(data / "instruct_pool.parquet")
    sources = np.array(table["source"].to_pylist())
    rng = np.random.default_rng(SEED)
    of = [rng.permutation(np.flatnonzero(np.char.startswith(sources, name))) for name in (known, other)]
    first = of[0][:ROWS]
    later = of[0][ROWS : ROWS + more] if known == other else of[1][:more]
    return table.take(first), table.take(np.concatenate([first, later]))


def told(name: str, result: ValuationResult, seconds: float) -> None:
    """One line of a run or refresh."""
    facts = result.facts
    exact = sum(c["computed"] for c in result.costs if c["stage"] in EXACT)
    decision = f"{facts['refresh_decision']}: {facts['refresh_reason']}"
    print(f"  {name:8} {seconds:6.1f} s  {exact:6,} exact pairs  {facts['estimator_verdict']:8} {decision}")


def main(data: Path, function: str) -> None:
    print(f"{machine()}; {function}, {ROWS} rows x {2 * TARGETS} targets, u = 0.3")
    reporter.mode = "quiet"
    for name, (known, other, more) in CASES.items():
        print(name)
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "pool.parquet"
            config: dict[str, Any] = {
                "pool": {"source": str(source)},
                "target": {
                    "source": [str(data / f"instruct_target_{t}.parquet") for t in ("gsm8k", "bbh")],
                    "split": "validation",
                    "limit": TARGETS,
                },
                "influence": {"function": function, "label_fraction": 0.3},
            }
            before, after = pools(data, known, other, more)
            for step, pool in (("first", before), ("refresh", after), ("again", after)):
                pq.write_table(pool, source)
                start = time.perf_counter()
                result = refresh_pool(config, Path(folder) / "ws")
                told(step, result, time.perf_counter() - start)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), sys.argv[2] if len(sys.argv) > 2 else "delift")
