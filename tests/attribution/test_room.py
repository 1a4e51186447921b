"""The room's place in the house."""

from __future__ import annotations

import subprocess
import sys


def test_measures_need_neither_prefect_nor_duckdb_nor_models() -> None:
    code = """
import sys
for name in ("prefect", "duckdb", "datasets", "pyarrow"):
    sys.modules[name] = None
import nncift_core.attribution, nncift_core.config_audit
assert "torch" not in sys.modules
print("ok")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "ok", done.stderr
