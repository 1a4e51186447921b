"""The quickstart twice in a fresh workspace: seconds, peak memory, reuse, and whether subsets agree.

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

from machine import machine


def run(workspace: Path) -> tuple[dict[str, object], float, float]:
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
            computed = {c["stage"]: c["computed"] for c in result["costs"]}  # type: ignore[attr-defined]
            print(f"{name}: {seconds:.0f} s, peak {peak:,.0f} MB, computed {computed}")
            results.append(Path(str(result["subset"])).read_bytes())
        print("same subset" if results[0] == results[1] else "DIFFERENT SUBSETS")


if __name__ == "__main__":
    main()
