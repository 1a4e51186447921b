"""The quickstart twice in a fresh workspace: seconds, peak memory, reuse, gains, same subset or not.

Run: python benchmarks/quickstart.py   (a Prefect server is started and left as the command leaves it)
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import machine


def run(workspace: Path) -> tuple[dict[str, Any], float, float]:
    """One `nncift quickstart`: its result, seconds, and peak resident memory in MB."""
    command = [str(Path(sys.executable).with_name("nncift")), "quickstart", "-w", str(workspace), "--json"]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    out = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if status:
        sys.exit("the quickstart failed")
    return json.loads(out), seconds, usage.ru_maxrss / 1024


def main() -> None:
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        results = []
        for name in ("first", "again"):
            result, seconds, peak = run(Path(folder) / "ws")
            print(f"{name}: {seconds:.0f} s in all, peak {peak:,.0f} MB; the main job:")
            for c in result["costs"]:
                counts = f"{c['computed']:>8,} of {c['items']:>8,} computed"
                print(f"  {c['stage']:24} {counts} {c['seconds']:7.1f} s")
            results.append((Path(result["subset"]).read_bytes(), result["comparison"]))
        show_comparison(results[0][1])
        print("same subset and figures" if results[0] == results[1] else "DIFFERENT RESULTS")


def show_comparison(rows: list[dict[str, Any]]) -> None:
    """Gains of the selected subset over every rival on the held-out rows."""
    for c in rows:
        figures = f"{c['value']:.4f} against {c['against_value']:.4f}, gain {c['gain']:+.4f}"
        interval = f"90 % {c['lower']:+.4f}..{c['upper']:+.4f}"
        print(f"{c['metric']:7} {c['against']:14} {figures}, {interval}: {c['verdict']}")


if __name__ == "__main__":
    main()
