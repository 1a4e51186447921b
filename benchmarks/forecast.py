"""How good forecasts are: `nncift plan --calibrate` in a fresh workspace, then the run, for three jobs.

Run: python benchmarks/forecast.py ../shared/data [--jobs delift,less,delift-se]
(a Prefect server is started and left as the command leaves it)
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import machine

COLUMNS = '{prompt = "instruction", response = "output", input = "input", id = "id"}'
JOBS: dict[str, dict[str, Any]] = {
    "delift": {
        "pool": 300,
        "target": ("gsm8k", 40),
        "more": """
[influence]
function = "delift"
label_fraction = 0.2
[selection]
fraction = 0.2
[finetune]
epochs = 1
learning_rate = 1.5e-3
[evaluation]
metrics = ["loss"]
limit = 100
seeds = 2
subsets = ["base", "random"]
""",
    },
    "less": {
        "pool": 500,
        "target": ("mmlu", 60),
        "more": """
[influence]
function = "less"
label_fraction = 0.2
labels = "block"
audit_pairs = 80
[selection]
fraction = 0.2
""",
    },
    "delift-se": {
        "pool": 3000,
        "target": ("gsm8k", 300),
        "more": """
[influence]
function = "delift-se"
[selection]
fraction = 0.03
[finetune]
epochs = 1
learning_rate = 1.5e-3
[evaluation]
limit = 60
seeds = 1
max_new_tokens = 48
subsets = ["base", "random"]
""",
    },
}


def write_job(folder: Path, data: Path, name: str) -> Path:
    """The job's TOML file."""
    job = JOBS[name]
    target, rows = job["target"]
    test = 'test = "test"\n' if "[finetune]" in str(job["more"]) else ""
    text = f"""[pool]
source = "{data / "instruct_pool.parquet"}"
limit = {job["pool"]}
columns = {COLUMNS}
[target]
source = "{data / f"instruct_target_{target}.parquet"}"
split = "validation"
limit = {rows}
{test}columns = {COLUMNS}
{job["more"]}"""
    path = folder / f"{name}.toml"
    path.write_text(text, encoding="utf-8")
    return path


def call(*args: str) -> tuple[Any, float]:
    """What `nncift ARGS --json` prints, and its seconds."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "flows.cli", *args, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"nncift {args[0]} failed")
    return json.loads(done.stdout), time.perf_counter() - start


def measure(folder: Path, data: Path, name: str) -> None:
    """Forecast, run, and the table of both."""
    job, workspace = str(write_job(folder, data, name)), str(folder / f"ws-{name}")
    plan, spent = call("plan", job, "-w", workspace, "--calibrate")
    result, wall = call("run", job, "-w", workspace, "-q")
    found, _ = call("query", "SELECT * FROM forecast", "-w", workspace, "--run", result["run_id"])
    print(
        f"\n{name}: {plan['pool_rows']:,} x {plan['target_rows']:,} rows; calibrated in {spent:.0f} s", end=""
    )
    print(f"; the command took {wall:.0f} s with its start")
    print(f"{'stage':24} {'forecast s':>10} {'s':>8} {'MB':>8} {'is':>8} {'peak MB':>8} {'is':>8}")
    for row in found:
        names = (
            "forecast_seconds",
            "seconds",
            "forecast_disk_mb",
            "disk_mb",
            "forecast_peak_mb",
            "peak_rss_mb",
        )
        cells = ["-" if row[n] is None else f"{row[n]:.1f}" for n in names]
        print(f"{row['stage']:24} {cells[0]:>10} " + " ".join(f"{c:>8}" for c in cells[1:]))
    total = next(r for r in found if r["stage"] == "all")
    time_ratio, disk_ratio = (
        max(a / b, b / a)
        for a, b in (
            (total["forecast_seconds"], total["seconds"]),
            (total["forecast_disk_mb"], total["disk_mb"]),
        )
    )
    print(f"total time within a factor of {time_ratio:.2f}, disk of {disk_ratio:.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--jobs", default=",".join(JOBS))
    args = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        for name in args.jobs.split(","):
            measure(Path(folder), args.data.resolve(), name)


if __name__ == "__main__":
    main()
