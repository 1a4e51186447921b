"""numba caches compiled loops by their own file: whoever calls those of gains.py must change with it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

import nncift_core.selection

ROOM = Path(nncift_core.selection.__file__).parent
CALLERS = sorted(
    p.name for p in ROOM.glob("*.py") if "selection.gains import" in p.read_text(encoding="utf-8")
)


def test_there_are_callers() -> None:
    assert {"lazy_greedy.py", "block_greedy.py"} <= set(CALLERS)


@pytest.mark.parametrize("name", CALLERS)
def test_callers_name_the_gains_they_were_compiled_with(name: str) -> None:
    digest = hashlib.sha256((ROOM / "gains.py").read_bytes()).hexdigest()[:12]
    text = (ROOM / name).read_text(encoding="utf-8")
    assert f"gains.py {digest}" in text, (
        f"write gains.py {digest} into {name}: stale loops would run otherwise"
    )
