"""Which code made a run: package versions and the git revision."""

from __future__ import annotations

import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = (
    "nncift", "torch", "transformers", "sentence-transformers", "prefect", "duckdb", "pyarrow", "numpy",
    "datasets", "numba", "scipy",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Version of every package that can change a value, and `git`: revision, "-dirty" when changed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return {**found, "git": git_revision()}


def git_revision() -> str:
    """Revision of the checkout this code runs from, or "none" for an installed package."""
    here = Path(__file__).resolve().parent.parent
    if not (here / ".git").exists():
        return "none"
    try:
        run = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=here, capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return "none"
    return run.stdout.strip() or "none"
