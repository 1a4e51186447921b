"""Atomic, verified writes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nncift_core.errors import IntegrityError
from nncift_core.store.files import is_intact, manifest_path, publish, read_manifest, verify, write_atomic


def put(root: Path, text: str = "payload") -> Path:
    path = root / "a" / "x.txt"
    publish(
        root, path, lambda p: [p.write_text(text), None][1], kind="k", key="1", rows=1, producer="test",
        parents=("up",),
    )  # fmt: skip
    return path


def test_payload_and_manifest_agree(tmp_path: Path) -> None:
    path = put(tmp_path)
    manifest = verify(path)
    assert (manifest.artifact, manifest.size, manifest.parents) == ("a/x.txt", 7, ("up",))
    assert is_intact(path)


@pytest.mark.parametrize("damage", ["truncate", "flip", "no payload", "no manifest", "broken manifest"])
def test_damage_is_seen(tmp_path: Path, damage: str) -> None:
    path = put(tmp_path)
    assert is_intact(path)
    if damage == "truncate":
        path.write_text("payloa")
    elif damage == "flip":
        path.unlink()
        path.write_text("Payload")
    elif damage == "no payload":
        path.unlink()
    elif damage == "no manifest":
        manifest_path(path).unlink()
    else:
        manifest_path(path).write_text("{")
    assert not is_intact(path)
    with pytest.raises(IntegrityError, match=r"x\.txt: stored file is missing or damaged"):
        verify(path)


def test_writers_of_other_bytes_under_one_name_never_leave_a_mixture(tmp_path: Path) -> None:
    path = put(tmp_path, "first")
    texts = ["x" * n for n in range(1, 5)]

    def write(text: str) -> None:
        for _ in range(15):
            put(tmp_path, text)

    with ThreadPoolExecutor(len(texts)) as pool:
        done = [pool.submit(write, text) for text in texts]
        while not all(d.done() for d in done):
            verify(path)
    for d in done:
        d.result()
    assert is_intact(path)


def test_a_failing_write_leaves_nothing(tmp_path: Path) -> None:
    def fail(part: Path) -> None:
        part.write_text("half")
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        write_atomic(tmp_path / "y.txt", fail)
    assert list(tmp_path.iterdir()) == []
    assert read_manifest(tmp_path / "y.txt") is None
