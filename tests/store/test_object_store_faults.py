"""What goes wrong between machines that share an object store: cuts, clocks, kills, strangers."""

from __future__ import annotations

import json
import logging
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from store.machines import Machine, broken

from nncift_core.errors import UserError
from nncift_core.store import runs
from nncift_core.store.alive import alive, others_alive
from nncift_core.store.files import is_intact, publish, void, write_json, write_json_anyway
from nncift_core.store.judgements import JudgementStore
from nncift_core.store.remote import leases, mirrors
from nncift_core.store.remote.address import VARIABLE
from nncift_core.store.remote.journal import NEW
from nncift_core.store.runs import attempt, note_killed, read_attempts
from nncift_core.store.segments import SegmentStore
from nncift_core.store.use import alone, check_alone, in_use
from nncift_core.store.workspace import Workspace

ROWS, COLUMNS = np.arange(4, dtype=np.int64), np.arange(10, 13, dtype=np.int64)
LINK = TimeoutError("link")
ABSOLUTE = "an absolute path"


def tile(ws: Workspace) -> str:
    values = np.arange(12, dtype=np.float32).reshape(4, 3)
    return SegmentStore(ws, "exact", "f" * 32).write_tile(ROWS, COLUMNS, values, producer="test")


def objects_of(url: str, folder: str) -> list[str]:
    fs = fsspec.filesystem("memory")
    return [Path(p).name for p in fs.find(f"{url}/{folder}")]


def files(ws: Workspace) -> list[Path]:
    """Files beside and in a mirror, but those of its own books."""
    return sorted(p for p in ws.root.parent.parent.rglob("*") if ws.root / "mirror" not in p.parents)


def document(ws: Workspace) -> Path:
    return ws.root / "runs" / "r" / "note.json"


# What was not told.


@pytest.mark.parametrize(
    ("fault", "said"), [(ZeroDivisionError("wrong before"), "wrong before"), (None, "has not answered for")]
)
def test_why_a_run_ended_is_kept_here_while_the_store_is_away_and_told_later(
    on: Machine, impatient: None, monkeypatch: pytest.MonkeyPatch, fault: Exception | None, said: str
) -> None:
    a, link = on("a"), TimeoutError("link")
    with ExitStack() as away, pytest.raises(Exception, match=said), attempt(a, "r" * 16, {}, {}):
        away.enter_context(broken(a, link))
        if fault is not None:
            raise fault
    monkeypatch.setattr(time, "time", lambda now=time.time: now() + 2 * leases.LASTS)
    b = on("b")
    assert [r["status"] for r in read_attempts(b)] == ["killed"], "nobody told it yet"
    (record,) = read_attempts(a)
    assert record["status"] == "failed" and said in record["error"]
    with broken(a, link), pytest.raises(UserError, match="has not answered for"):
        a.look()
    for ws in (a, b):
        ws.look()
    assert read_attempts(b) == [record]
    assert not list((a.root / "mirror").glob("untold/*"))
    monkeypatch.undo()


def test_a_kill_while_the_store_is_tried_loses_no_reason(
    on: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = on("a")
    assert a.mirror is not None
    share = a.mirror.share
    monkeypatch.setattr(a.mirror, "share", lambda path, text: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_json_anyway(document(a), {"status": "failed"})
    assert json.loads(document(a).read_text()) == {"status": "failed"}
    monkeypatch.setattr(a.mirror, "share", share)
    a.look()
    assert json.loads(document(on("b")).read_text()) == {"status": "failed"}


def test_what_the_store_does_not_take_keeps_nobody_from_reading(
    on: Machine, impatient: None, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = on("a"), on("b")
    with broken(a, LINK):
        write_json_anyway(document(a), {"of": "a"})
    name = tile(b)
    assert a.mirror is not None
    # Credentials that may only read.
    put, refused = a.mirror.objects.put, UserError("cannot write: AccessDenied")
    monkeypatch.setattr(a.mirror.objects, "put", lambda key, data: (_ for _ in ()).throw(refused))
    with caplog.at_level(logging.WARNING, "nncift.store"):
        a.look()
    assert is_intact(a.root / name) and "does not know yet what happened here" in caplog.text
    monkeypatch.setattr(a.mirror.objects, "put", put)
    a.look()
    b.look()
    assert json.loads(document(b).read_text()) == {"of": "a"}


def test_a_judges_answer_is_kept_though_the_store_is_away_and_told_once(on: Machine, impatient: None) -> None:
    a, b = on("a"), on("b")
    store = JudgementStore(a, "j" * 32)
    with broken(a, LINK), pytest.raises(UserError, match="has not answered for"):
        store.add("k", {"says": 1})
    assert store.get("k") == {"says": 1} == JudgementStore(a, "j" * 32).get("k")
    for ws in (a, a, b):
        ws.look()
    assert JudgementStore(b, "j" * 32).get("k") == {"says": 1}
    assert len(store.path.read_text().splitlines()) == 1


def test_a_line_of_another_machine_does_not_join_one_that_a_kill_tore(on: Machine) -> None:
    a, b = on("a"), on("b")
    mine = JudgementStore(a, "j" * 32)
    mine.add("k", {"says": 1})
    with mine.path.open("ab") as f:
        f.write(b"0123456789abcdef {half of a li")
    JudgementStore(b, "j" * 32).add("l", {"says": 2})
    a.look()
    assert JudgementStore(a, "j" * 32).get("l") == {"says": 2}


# Clocks.


def test_a_later_word_counts_whatever_the_clocks_say(on: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b, real = on("a"), on("b"), time.time_ns
    write_json(document(a), {"of": "a"})
    b.look()
    monkeypatch.setattr(time, "time_ns", lambda: real() - 3_600_000_000_000)
    write_json(document(b), {"of": "b"})
    monkeypatch.undo()
    for ws in (a, b, on("c")):
        ws.look()
        assert json.loads(document(ws).read_text()) == {"of": "b"}


def test_two_processes_of_a_machine_write_one_document_in_turns(on: Machine) -> None:
    """One is overtaken between telling the store and writing here: what is later stays."""
    a, b = on("a"), on("b")
    assert a.mirror is not None and b.mirror is not None
    share, told, go = a.mirror.share, threading.Event(), threading.Event()

    def slow(path: Path, text: str) -> Any:
        change = share(path, text)
        told.set()
        assert go.wait(30)
        return change

    a.mirror.share = slow  # type: ignore[method-assign]
    writer = threading.Thread(target=write_json, args=(document(a), {"v": 1}))
    writer.start()
    assert told.wait(30)
    b.look()
    write_json(document(b), {"v": 2})
    puller = threading.Thread(target=a.look)
    puller.start()
    puller.join(1)
    go.set()
    writer.join()
    puller.join()
    assert json.loads(document(a).read_text()) == {"v": 2}


def test_a_clock_that_is_off_is_told(
    on: Machine, url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = time.time
    with caplog.at_level(logging.WARNING, "nncift.store"):
        on("a")
        assert not caplog.text
        monkeypatch.setattr(time, "time", lambda: real() + 90)
        on("b")
    assert "this machine's clock is 90 s ahead of" in caplog.text


# Leases.


def test_a_lease_that_ended_once_is_never_sure_again(on: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "EVERY", 0.05)
    monkeypatch.setattr(leases, "LASTS", 0.4)
    a = on("a")
    with alone(a):
        check_alone(a)
        with broken(a, RuntimeError("cut")):
            time.sleep(0.6)
        # Renewed again, but somebody may have begun meanwhile.
        time.sleep(0.3)
        assert a.mirror is not None and a.mirror.leases.is_held("alone")
        with pytest.raises(UserError, match="others may use the workspace again"):
            check_alone(a)


def test_a_lease_that_another_took_is_left_to_it(on: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "EVERY", 0.05)
    monkeypatch.setattr(leases, "LASTS", 0.4)
    a, b = on("a"), on("b")
    assert a.mirror is not None and b.mirror is not None
    with a.mirror.leases.held("x"):
        with broken(a, RuntimeError("cut")):
            time.sleep(0.6)
            taken = b.mirror.leases.held("x")
            taken.__enter__()
        time.sleep(0.3)
        told = json.loads(b.mirror.objects.get("leases/x") or b"")
        assert told["token"] == b.mirror.leases._held["x"].token
        assert b.mirror.leases.is_sure("x") and not a.mirror.leases.is_sure("x")
    assert b.mirror.leases.is_held("x"), "the other's end frees nothing of ours"
    taken.__exit__(None, None, None)


def test_a_renewal_that_hangs_keeps_no_other_lease_back(on: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "EVERY", 0.05)
    monkeypatch.setattr(leases, "LASTS", 0.5)
    a, b = on("a"), on("b")
    assert a.mirror is not None and b.mirror is not None
    put, hung = a.mirror.objects.put, threading.Event()
    with a.mirror.leases.held("hangs"), a.mirror.leases.held("well"):

        def hanging(key: str, data: Any) -> None:
            if key.endswith("hangs"):
                hung.wait(20)
            put(key, data)

        a.mirror.objects.put = hanging  # type: ignore[method-assign]
        for _ in range(15):
            time.sleep(0.1)
            assert b.mirror.leases.is_held("well")
        assert not b.mirror.leases.is_held("hangs")
        hung.set()
        a.mirror.objects.put = put  # type: ignore[method-assign]


def test_a_lease_counts_from_when_it_was_written_not_from_when_it_was_tried(
    on: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, real = on("a"), time.time
    assert a.mirror is not None
    tries = [0.0, 500.0]

    class Away:
        """A store that is away for 500 seconds."""

        def __init__(self, fs: Any) -> None:
            self.fs = fs

        def __getattr__(self, name: str) -> Any:
            return getattr(self.fs, name)

        def pipe_file(self, *args: Any, **given: Any) -> None:
            if len(tries) > 1:
                tries.pop(0)
                monkeypatch.setattr(time, "time", lambda: real() + tries[0])
                raise LINK
            self.fs.pipe_file(*args, **given)

    a.mirror.objects.fs = Away(a.mirror.objects.fs)
    with a.mirror.leases.held("x"):
        assert a.mirror.leases.is_held("x") and a.mirror.leases.is_sure("x")


def test_what_killed_holders_left_is_cleared_away(
    on: Machine, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = on("a")
    assert a.mirror is not None
    dead = [alive(a, f"{n}/0001") for n in range(5)]
    for one in dead:
        one.__enter__()
    assert others_alive(a, "x/0001") == 5
    a.mirror.leases._held.clear()
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + leases.LASTS + 1)
    assert others_alive(a, "x/0001") == 0 and len(objects_of(url, "leases/alive")) == 5, "it may come back"
    monkeypatch.setattr(time, "time", lambda: real() + leases._OLD + leases.LASTS + 1)
    with in_use(a):
        assert others_alive(a, "x/0001") == 0
        assert [n[:4] for n in objects_of(url, "leases/alive")] == ["use-"]


# What another machine's attempt came to.


def test_an_attempt_that_ends_at_this_moment_is_not_taken_for_killed(on: Machine) -> None:
    a, b = on("a"), on("b")
    with attempt(a, "r" * 16, {}, {}) as current:
        current.note(flow_run="f")
        b.look()
    # b has not looked since: here the attempt still runs, and nobody holds its lease.
    assert [r["status"] for r in read_attempts(b)] == ["completed"]
    note_killed(b, "r" * 16, 1, told_of_end=True)
    for ws in (a, b):
        ws.look()
        (record,) = read_attempts(ws)
        assert record["status"] == "completed" and record["finished_at"]


def test_a_killed_attempt_is_recorded_so_and_asked_for_no_more(
    on: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = on("a"), on("b")
    current = attempt(a, "r" * 16, {}, {})
    current.__enter__()
    assert a.mirror is not None
    a.mirror.leases._held.clear()
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + leases.LASTS + 1)
    b.look()
    note_killed(b, "r" * 16, 1, told_of_end=True)
    monkeypatch.setattr(runs, "lives_elsewhere", lambda ws, attempt: pytest.fail("asked again"))
    (record,) = read_attempts(b)
    assert record["status"] == "killed" and record["told_of_end"]


# Another store, strangers, damage.


def test_a_store_that_was_emptied_is_not_the_one_that_is_mirrored(on: Machine, url: str) -> None:
    a = on("a")
    tile(a)
    fsspec.filesystem("memory").rm(url, recursive=True)
    mirrors._MIRRORS.clear()
    with pytest.raises(UserError, match="nothing is there any more") as gone:
        on("a")
    assert str(a.root) in str(gone.value)
    b = on("b")
    mirrors._MIRRORS.clear()
    with pytest.raises(UserError, match="another workspace was made there since"):
        on("a")
    assert SegmentStore(b, "exact", "f" * 32).missing(ROWS, COLUMNS) == 12


@pytest.mark.parametrize("path", ["../../escaped", ABSOLUTE, "locks/../../x", "mirror/ledger.sqlite", ""])
def test_a_change_of_a_file_elsewhere_is_refused(on: Machine, url: str, path: str, tmp_path: Path) -> None:
    a, path = on("a"), str(tmp_path / "escaped") if path == ABSOLUTE else path
    name = f"{NEW}/{time.time_ns():020d}-stranger-00000000"
    fsspec.filesystem("memory").pipe_file(f"{url}/{name}", json.dumps({"path": path, "text": "x"}).encode())
    before = files(a)
    with pytest.raises(UserError, match="no file of a workspace"):
        a.look()
    assert files(a) == before, "of which the absolute path would be one, too"


@pytest.mark.parametrize("name", [f"{NEW}/stray", "journal/segments/stray.jsonl.gz"])
def test_an_object_that_is_no_change_is_named(on: Machine, url: str, name: str) -> None:
    a = on("a")
    fsspec.filesystem("memory").pipe_file(f"{url}/{name}", b"not JSON")
    with pytest.raises(UserError, match="is no change that nncift wrote") as said:
        a.look()
    assert name in str(said.value)


def test_a_damaged_ledger_is_told_with_what_to_delete(on: Machine) -> None:
    a = on("a")
    assert a.mirror is not None
    a.mirror.ledger.path.write_bytes(b"not a database" * 100)
    with pytest.raises(UserError, match="is damaged") as said:
        a.look()
    assert f"delete this machine's copy, {a.root}" in str(said.value)


def test_a_small_payload_that_the_store_damaged_counts_as_one_that_is_away(on: Machine, url: str) -> None:
    a, key = on("a"), "k" * 32
    path = a.root / "designs" / "d.parquet"
    publish(a.root, path, lambda p: void(p.write_bytes(b"right")), kind="t", key=key, rows=1, producer="t")
    fs = fsspec.filesystem("memory")
    (lies,) = [p for p in fs.find(f"{url}/data") if "d.parquet" in p]
    fs.pipe_file(lies, b"wrong")
    b = on("b")
    assert not is_intact(b.root / "designs" / "d.parquet")
    fs.pipe_file(lies, b"right")
    assert is_intact(b.root / "designs" / "d.parquet"), "mended in the store, it is found"


def test_stores_that_only_say_precondition_failed_are_understood(on: Machine) -> None:
    a = on("a")
    assert a.mirror is not None
    error = OSError(22, "Invalid argument")
    error.__cause__ = type(
        "ClientError", (Exception,), {"response": {"Error": {"Code": "PreconditionFailed"}}}
    )()
    with broken(a, error, 1):
        assert not a.mirror.objects.create("numbers/x/0001", b"x")


def test_a_folder_for_mirrors_that_cannot_be_written_is_named(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "file" / "mirrors"))
    with pytest.raises(UserError, match="cannot be written") as said:
        Workspace.create(url)
    assert VARIABLE in str(said.value)


def test_a_file_of_this_machine_that_may_not_be_read_is_no_fault_of_the_store(
    on: Machine, impatient: None
) -> None:
    a = on("a")
    assert a.mirror is not None
    error = PermissionError(13, "Permission denied", "/some/file")
    with broken(a, error), pytest.raises(UserError, match="Permission denied") as said:
        a.mirror.objects.get("x")
    assert said.value.file == "/some/file"
