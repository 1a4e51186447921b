"""Lets these tests import the scripts that made the shipped files."""

from __future__ import annotations

import sys
from pathlib import Path

# benchmarks/ is not part of the installed package, and importlib mode leaves the root off the path.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
