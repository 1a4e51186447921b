"""Faults at the level of store and shards, at seeded random moments of small real runs without a server.

NNCIFT_FAULT_SEED gives other moments; a failure names its seed and number.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from faults.harness import SEED, Fault, faults
from faults.kinds import KINDS, may_mount
from faults.world import World

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(sys.platform != "linux", reason="processes are looked up in /proc"),
]
FAULTS = faults(SEED)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The small job and its undisturbed result."""
    made = World(tmp_path_factory.mktemp("faults") / "world")
    yield made
    made.close()


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_nothing_is_lost(world: World, fault: Fault, tmp_path: Path) -> None:
    if fault.kind == "disk full" and not may_mount(tmp_path / "disk"):
        pytest.skip("this user may not mount a file system")
    fault.inject(world)


def test_there_are_enough_faults_and_each_can_be_repeated() -> None:
    kinds = Counter(f.kind for f in FAULTS)
    assert set(kinds) == set(KINDS) and len(FAULTS) - kinds["disk full"] >= 28
    longer = faults(SEED, 1000)
    assert len(longer) == 1000 and longer[: len(FAULTS)] == FAULTS
    assert faults(SEED + 1) != FAULTS
