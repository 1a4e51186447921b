"""What `nncift explain` and `nncift diff` print, on real rows: the samples of docs/explain.md.

Run: python benchmarks/explain.py ../shared/data   (a minute)
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from alone import settle
from machine import machine

ROWS, TARGETS = 300, 20


def config(data: Path, selection: str) -> str:
    """A job of embedding similarities, as a TOML file."""
    return f"""
[pool]
source = "{data / "instruct_pool.parquet"}"
limit = {ROWS}
[target]
source = "{data / "instruct_target_gsm8k.parquet"}"
split = "validation"
limit = {TARGETS}
[influence]
function = "delift-se"
[selection]
{selection}
"""


def nncift(folder: Path, *args: str) -> str:
    """What the command prints."""
    done = subprocess.run(
        [Path(sys.executable).with_name("nncift"), *args], cwd=folder, capture_output=True, text=True,
        check=True, env={**os.environ, "COLUMNS": "100"},
    )  # fmt: skip
    return done.stdout


def main(data: Path) -> None:
    print(f"{machine()}; {ROWS} rows of the instruct pool, {TARGETS} of GSM8K, delift-se")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settle(folder / "prefect")
        from flows.server import stop
        from flows.valuation import value_pool
        from tasks.progress import reporter

        reporter.mode = "quiet"
        try:
            runs = []
            for rule in ('rule = "flmi"\nfraction = 0.3', 'rule = "fl"\ncount = 15'):
                (folder / "job.toml").write_text(config(data, rule), encoding="utf-8")
                runs.append(value_pool(folder / "job.toml", folder / "ws").run_id)
        finally:
            stop()
        for run, rank in ((runs[0], "rank = 40"), (runs[1], "rank IS NULL")):
            sql = f"""SELECT e.example_id FROM examples e LEFT JOIN selection s ON s.train_id = e.example_id
             WHERE e.role = 'pool' AND s.{rank} ORDER BY e.row_number LIMIT 1"""
            found = nncift(folder, "query", sql, "--run", run, "--workspace", "ws", "--json")
            row = "".join(c for c in found if c.isdigit())
            print(f"\n$ nncift explain {row} --run {run}")
            print(nncift(folder, "explain", row, "--run", run, "--workspace", "ws").rstrip())
        print("\n$ nncift diff RUN RUN")
        print(nncift(folder, "diff", *runs, "--workspace", "ws").rstrip())


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
