"""A workspace in an object store, as two machines see it. The store is fsspec's memory."""

from __future__ import annotations

import gzip
import json
import threading
import time
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from store.machines import Machine, broken
from store.made_runs import valuation

from nncift_core.errors import IntegrityError, UserError
from nncift_core.execution import models
from nncift_core.execution.job import Job
from nncift_core.finetune import WEIGHTS
from nncift_core.pipeline.downstream import trained_weights
from nncift_core.pipeline.problem import Keys
from nncift_core.store import shards
from nncift_core.store.alive import others_alive
from nncift_core.store.collection import collect, plan_collection
from nncift_core.store.files import delete, is_intact, publish, read_manifest, verify, write_json
from nncift_core.store.folders import publish_folder
from nncift_core.store.judgements import JudgementStore
from nncift_core.store.query import rows
from nncift_core.store.remote import incoming, leases, mirror, mirrors, objects
from nncift_core.store.remote.address import VARIABLE, address_of, mirror_of, url_of
from nncift_core.store.remote.journal import FOLDER, MANY, MERGED, NEW
from nncift_core.store.remote.local import is_away
from nncift_core.store.runs import attempt, read_attempts
from nncift_core.store.segments import SegmentStore
from nncift_core.store.use import alone, check_alone, in_use
from nncift_core.store.vectors import VectorStore
from nncift_core.store.workspace import Workspace
from tasks import running

ROWS, COLUMNS = np.arange(4, dtype=np.int64), np.arange(10, 13, dtype=np.int64)
VALUES = np.arange(12, dtype=np.float32).reshape(4, 3)


def stored(url: str) -> list[str]:
    fs = fsspec.filesystem("memory")
    start = len(fs._strip_protocol(url)) + 1
    return sorted(p[start:] for p in fs.find(url))


def job(url: str, state: str | None = None) -> Job:
    """A valuation in the workspace at `url`."""
    config = '{"pool": {"source": "builtin:pool"}, "target": {"source": "builtin:target"}}'
    keys = Keys("encoder", "function", state=state)
    return Job(workspace=url, config_json=config, base_dir="", identity=keys)


def tile(ws: Workspace) -> str:
    return SegmentStore(ws, "exact", "f" * 32).write_tile(ROWS, COLUMNS, VALUES, producer="test")


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("s3://bucket/a/b/", "s3://bucket/a/b"),
        (Path("s3://bucket/a/b"), "s3://bucket/a/b"),
        ("gs://bucket/x", "gs://bucket/x"),
        ("S3://Bucket/x", "s3://Bucket/x"),
        ("ws", None),
        ("/var/ws", None),
        ("./a:b/c", None),
    ],
)
def test_a_workspace_is_a_folder_or_a_url(given: str | Path, found: str | None) -> None:
    assert url_of(given) == found
    assert address_of(given) == (found or str(Path(given).absolute()))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("s3://bucket", "names a bucket"),
        ("s3://bucket/", "names a bucket"),
        ("s3://key:secret@bucket/x", "neither credentials nor options"),
        ("s3://KEY:secret/more@bucket/x", "neither credentials nor options"),
        ("s3://bucket/x?key=secret", "neither credentials nor options"),
        ("file:///data/ws", "a folder needs no URL. Give its path: /data/ws"),
    ],
)
def test_a_url_with_secrets_or_without_a_place_is_refused(given: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        Workspace(given)
    assert "secret" not in str(caught.value)


def test_a_protocol_that_nobody_knows_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    with pytest.raises(UserError, match="nosuch:// cannot be read here"):
        Workspace.create("nosuch://bucket/x")
    assert not any(tmp_path.iterdir()), "nothing is written"
    mirrors._MIRRORS.clear()


def test_mirrors_of_different_urls_lie_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    assert len({mirror_of(u) for u in ("s3://a/b", "s3://a-b/", "s3://a/b/c", "s3://a/b_c")}) == 4


def test_what_one_machine_stores_another_reads(on: Machine, url: str) -> None:
    a = on("a")
    name = tile(a)
    b = on("b")
    assert a.root != b.root and a.address == b.address == url
    found = SegmentStore(b, "exact", "f" * 32)
    assert is_away(b.root / name), "planning reads the end of a file"
    assert found.coverage(ROWS, COLUMNS).all() and found.missing(ROWS, COLUMNS) == 0
    assert is_away(b.root / name)
    out = np.zeros((4, 3), np.float32)
    found.fill(ROWS, COLUMNS, out)
    assert np.array_equal(out, VALUES) and not is_away(b.root / name)
    assert verify(b.root / name).sha256 == verify(a.root / name).sha256


def test_vectors_are_found_without_being_fetched(on: Machine) -> None:
    made = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)
    name = VectorStore(on("a"), "e" * 32).write(ROWS, made)
    b = on("b")
    store = VectorStore(b, "e" * 32)
    assert len(store.missing(np.arange(6))) == 2 and is_away(b.root / name)
    assert np.array_equal(store.load(ROWS[::-1]), made[::-1])


def test_a_payload_comes_before_the_manifest_that_makes_it_exist(
    on: Machine, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ws = on("a")
    assert ws.mirror is not None
    monkeypatch.setattr(
        ws.mirror.journal, "append", lambda body, after: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(KeyboardInterrupt):
        tile(ws)
    assert any(k.startswith("data/exact/") for k in stored(url)), "the payload is there"
    assert SegmentStore(on("b"), "exact", "f" * 32).missing(ROWS, COLUMNS) == 12, "and counts for nobody"
    assert SegmentStore(ws, "exact", "f" * 32).missing(ROWS, COLUMNS) == 12
    monkeypatch.undo()


def test_a_change_of_this_machine_that_a_kill_cut_off_is_taken_up(on: Machine) -> None:
    ws = on("a")
    assert ws.mirror is not None
    record = ws.run_dir("r") / "attempts" / "0001.json"
    write_json(record, {"v": 1})
    # The store has it, then the kill: nothing is written here.
    ws.mirror.share(record, json.dumps({"v": 2}))
    name = tile(on("b"))
    told = json.loads((on("b").root / f"{name}.manifest.json").read_text())
    ws.mirror.share(ws.root / f"{name}.manifest.json", json.dumps(told))
    on("a")
    assert json.loads(record.read_text()) == {"v": 2}
    assert SegmentStore(ws, "exact", "f" * 32).missing(ROWS, COLUMNS) == 0


def test_a_pull_while_a_payload_is_uploaded_leaves_it_whole(on: Machine, url: str) -> None:
    """Cut off for a minute, another machine computes the same tile; then any process here looks again."""
    a, b = on("a"), on("b")
    assert a.mirror is not None
    upload, meanwhile = a.mirror.objects.upload, [tile]

    def late(file: Path, key: str) -> None:
        while meanwhile:
            meanwhile.pop()(b)
            assert a.mirror is not None
            a.mirror.pull()
        upload(file, key)

    a.mirror.objects.upload = late  # type: ignore[method-assign]
    tile(a)
    out = np.zeros((4, 3), np.float32)
    for ws in (a, on("c")):
        SegmentStore(ws, "exact", "f" * 32).fill(ROWS, COLUMNS, out)
        assert np.array_equal(out, VALUES)


def test_changes_that_come_late_or_twice_undo_nothing(on: Machine, url: str) -> None:
    a = on("a")
    assert a.mirror is not None
    result = a.result_file("r")
    write_json(result, {"v": 1})
    judged = JudgementStore(a, "j" * 32)
    judged.spend("k", {"tokens": 100})
    on("b")
    fs, journal = fsspec.filesystem("memory"), a.mirror.journal
    singles = {k: fs.cat_file(f"{url}/{k}") for k in stored(url) if k.startswith(NEW)}
    journal.merge({k.removeprefix(f"{NEW}/") for k in singles})
    write_json(result, {"v": 2})
    on("b")
    # A second merger that was slower, and a removal whose request hung since before the new version.
    lines = [
        json.dumps({"name": k.removeprefix(f"{NEW}/"), "body": json.loads(v)}) for k, v in singles.items()
    ]
    fs.pipe_file(f"{url}/{MERGED}/{journal._name()}.jsonl.gz", gzip.compress("\n".join(lines).encode()))
    late = f"{min(singles).removeprefix(f'{NEW}/').split('-')[0]}-other000-late0000"
    fs.pipe_file(f"{url}/{NEW}/{late}", json.dumps({"path": a.relative(result), "removed": True}).encode())
    for name in ("a", "b", "c"):
        ws = on(name)
        assert json.loads(ws.result_file("r").read_text()) == {"v": 2}, name
        assert JudgementStore(ws, "j" * 32).spent("k") == {"tokens": 100}, name


def test_weights_of_another_machine_are_brought_before_they_are_read(on: Machine) -> None:
    a, key = on("a"), "k" * 32
    path = a.adapter_dir(key) / WEIGHTS
    write = partial(Path.write_bytes, data=b"w" * (incoming.LARGE_BYTES + 1))
    publish(a.root, path, lambda p: void(write(p)), kind="adapter", key=key, rows=1, producer="test")
    b = on("b")
    assert is_away(b.adapter_dir(key) / WEIGHTS)
    assert trained_weights(b, key).stat().st_size == incoming.LARGE_BYTES + 1


def test_a_state_of_another_machine_is_brought_before_it_is_loaded(
    on: Machine, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, key, fitted = on("a"), "k" * 32, tmp_path / "fitted"
    fitted.mkdir()
    (fitted / "gradients").write_bytes(b"s" * (incoming.LARGE_BYTES + 1))
    publish_folder(a, fitted, a.state_dir(key), kind="function-state", key=key, rows=1, producer="test")
    b = on("b")
    assert is_away(b.state_dir(key) / "gradients")

    class Function:
        def load_state(self, folder: Path) -> None:
            self.loaded = (folder / "gradients").stat().st_size

    monkeypatch.setattr(models, "create", lambda config, device: Function())
    with models.function(job(url, state=key), models.Slot(0, "cpu")) as (function, _):
        assert function.loaded == incoming.LARGE_BYTES + 1  # type: ignore[attr-defined]
    models.forget_models()


def test_a_stage_ends_with_what_other_machines_computed_for_it(
    on: Machine, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    b, a = on("b"), on("a")

    class Elsewhere:
        """A task whose shard another machine computes."""

        name = "exact-influence"

        def with_options(self, **_: Any) -> Elsewhere:
            return self

        def submit(self, *_: Any) -> Future[dict[str, Any]]:
            tile(b)
            done = Future[dict[str, Any]]()
            done.set_result({"computed": 12, "peak_rss_mb": 1.0})
            # As Prefect's futures are asked.
            done.wait = lambda: None  # type: ignore[attr-defined]
            result, done.result = done.result, lambda raise_on_failure: result()  # type: ignore[assignment]
            return done

    monkeypatch.setattr(running, "prepared", lambda task, job: task)
    assert SegmentStore(a, "exact", "f" * 32).missing(ROWS, COLUMNS) == 12
    outcome = running.run_shards(job(url), Elsewhere(), [{"name": "block 0"}])  # type: ignore[arg-type]
    assert outcome.computed == 12
    # Without another look: that would find it by itself.
    monkeypatch.setattr(mirror.Mirror, "pull", lambda self, max_age=0.0: None)
    assert SegmentStore(a, "exact", "f" * 32).missing(ROWS, COLUMNS) == 0


def test_whoever_uses_a_workspace_keeps_gc_out_on_every_machine(on: Machine) -> None:
    a, b = on("a"), on("b")
    with in_use(a), pytest.raises(UserError, match="a run or another gc"), alone(b):
        pass
    assert others_alive(b, "x/0001") == 0, "which is no attempt"
    with alone(b):
        check_alone(b)


def test_gc_that_was_cut_off_for_long_stops(on: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    ws = on("a")
    with alone(ws):
        monkeypatch.setattr(time, "time", lambda now=time.time: now() + 2 * leases.LASTS)
        with pytest.raises(UserError, match="out of reach for so long"):
            check_alone(ws)
        monkeypatch.undo()


def test_leases_are_renewed_whatever_goes_wrong_once(on: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "EVERY", 0.05)
    ws = on("a")
    assert ws.mirror is not None
    put, failures = ws.mirror.objects.put, [RuntimeError("once")]

    def broken_once(key: str, data: bytes) -> None:
        if failures:
            raise failures.pop()
        put(key, data)

    with ws.mirror.leases.held("x"):
        ws.mirror.objects.put = broken_once  # type: ignore[method-assign]
        first = ws.mirror.objects.get("leases/x")
        deadline = time.monotonic() + 10
        while ws.mirror.objects.get("leases/x") == first and time.monotonic() < deadline:
            time.sleep(0.02)
        assert ws.mirror.objects.get("leases/x") != first and not failures


def test_a_check_of_rights_that_was_killed_harms_nothing(on: Machine, url: str) -> None:
    fsspec.filesystem("memory").pipe_file(f"{url}/checks/left", b"")
    assert on("a").exists()


def test_a_damaged_copy_is_fetched_again(on: Machine) -> None:
    ws = on("a")
    name = tile(ws)
    (ws.root / name).write_bytes(b"rubbish of another size")
    assert is_intact(ws.root / name)
    path = ws.root / name
    data = bytearray(path.read_bytes())
    data[20] ^= 0xFF
    path.write_bytes(bytes(data))
    assert is_intact(path), "same size, other bytes"


@pytest.mark.parametrize("lost", ["deleted", "damaged"])
def test_a_payload_that_the_store_lost_is_told_and_computed_again(on: Machine, url: str, lost: str) -> None:
    name = tile(on("a"))
    fs = fsspec.filesystem("memory")
    (key,) = [k for k in stored(url) if k.startswith("data/exact/")]
    if lost == "deleted":
        fs.rm(f"{url}/{key}")
    else:
        data = bytearray(fs.cat_file(f"{url}/{key}"))
        data[30] ^= 0xFF
        fs.pipe_file(f"{url}/{key}", bytes(data))
    b = on("b")
    assert is_away(b.root / name)
    with pytest.raises(IntegrityError, match="run again"):
        mirrors.here(b.root / name)
    store = SegmentStore(b, "exact", "f" * 32)
    assert store.missing(ROWS, COLUMNS) == 12
    tile(b)
    assert SegmentStore(on("c"), "exact", "f" * 32).missing(ROWS, COLUMNS) == 0


def test_documents_long_ones_and_removals_reach_the_others(on: Machine, url: str) -> None:
    a = on("a")
    write_json(a.run_dir("r") / "costs" / "0001-x.json", {"n": 1})
    write_json(a.result_file("r"), {"long": ["x" * 50] * 2_000})
    b = on("b")
    assert json.loads((b.run_dir("r") / "costs" / "0001-x.json").read_text()) == {"n": 1}
    assert json.loads(b.result_file("r").read_text())["long"] == ["x" * 50] * 2_000
    assert [k for k in stored(url) if k.startswith("data/runs/r/result.json")], "too long for the journal"
    delete(b.result_file("r"))
    assert not [k for k in stored(url) if k.startswith("data/runs/")]
    name = tile(a)
    delete(a.root / name)
    assert not on("a").result_file("r").exists()
    assert not (on("b").root / name).exists()
    assert not [k for k in stored(url) if k.startswith("data/exact/")]


def test_what_is_of_one_machine_stays_there(on: Machine, url: str) -> None:
    a = on("a")
    write_json(a.calibration_file, {"kernel": "fast here"})
    write_json(a.tmp_dir / "note.json", {})
    write_json(a.group_file("k" * 32), {"shards": []})
    b = on("b")
    assert not b.calibration_file.exists() and not (b.tmp_dir / "note.json").exists()
    assert b.group_file("k" * 32).exists(), "work that another machine is asked for"


def test_small_payloads_come_at_once_and_large_ones_when_read(on: Machine) -> None:
    a = on("a")
    for name, size in (("small", 10), ("large", incoming.LARGE_BYTES + 1)):
        path = a.root / "adapters" / "x" / name
        data = b"y" * size
        write = partial(Path.write_bytes, data=data)
        publish(a.root, path, lambda p, w=write: void(w(p)), kind="adapter", key="k", rows=1, producer="test")
    b = on("b").root / "adapters" / "x"
    assert (b / "small").stat().st_size == 10 and is_away(b / "large")
    assert is_intact(b / "large") and not is_away(b / "large")


def void(_: object) -> None:
    pass


def test_judgements_are_lines_that_all_machines_have(on: Machine) -> None:
    a = on("a")
    JudgementStore(a, "j" * 32).add("one", {"score": 3})
    b = on("b")
    assert JudgementStore(b, "j" * 32).get("one") == {"score": 3}
    JudgementStore(b, "j" * 32).add("two", {"score": 4})
    on("b")
    again = JudgementStore(on("a"), "j" * 32)
    assert again.get("one") == {"score": 3} and again.get("two") == {"score": 4}
    assert (a.root / "judgements").joinpath("j" * 16 + ".jsonl").read_text().count("\n") == 2


def test_a_long_journal_is_merged_and_nothing_is_lost(
    on: Machine, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = on("a")
    assert MANY > 100
    for n in range(12):
        write_json(a.run_dir("r") / "costs" / f"{n:04d}.json", {"n": n})
    monkeypatch.setattr(mirror, "MANY", 8)
    b = on("b")
    assert [k for k in stored(url) if k.startswith(NEW)] == []
    (segment,) = [k for k in stored(url) if k.startswith(MERGED)]
    for n in range(12, 15):
        write_json(b.run_dir("r") / "costs" / f"{n:04d}.json", {"n": n})
    for ws in (on("a"), on("c")):
        found = sorted(p.name for p in (ws.run_dir("r") / "costs").iterdir())
        assert found == [f"{n:04d}.json" for n in range(15)]
    assert [k for k in stored(url) if k.startswith(MERGED)] == [segment]


def test_following_lists_the_journal_and_never_the_store(
    on: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, listed = on("a"), list[str]()
    for k in range(5):
        SegmentStore(a, "exact", "f" * 32).write_tile(ROWS + k, COLUMNS, VALUES, producer="test")
    names = objects.Objects.names
    monkeypatch.setattr(
        objects.Objects, "names", lambda self, prefix: (listed.append(prefix), names(self, prefix))[1]
    )
    SegmentStore(on("b"), "exact", "f" * 32).missing(ROWS, COLUMNS)
    assert set(listed) == {FOLDER}


def test_a_journal_that_is_merged_while_it_is_read_loses_nothing(
    on: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = on("a")
    for n in range(6):
        write_json(a.run_dir("r") / "costs" / f"{n:04d}.json", {"n": n})
    b = on("b")
    assert a.mirror is not None and b.mirror is not None
    write_json(a.run_dir("r") / "costs" / "0006.json", {"n": 6})
    names = objects.Objects.names
    merging = a.mirror.journal

    def merged_meanwhile(self: Any, prefix: str) -> list[str]:
        found = names(self, prefix)
        if self is not merging.objects and prefix == FOLDER:
            monkeypatch.setattr(objects.Objects, "names", names)
            merging.merge(set(names(merging.objects, NEW)))
        return found

    monkeypatch.setattr(objects.Objects, "names", merged_meanwhile)
    b.mirror.pull()
    b.mirror.pull()
    assert len(list((b.run_dir("r") / "costs").iterdir())) == 7


def test_attempts_have_numbers_of_their_own_and_live_by_leases(
    on: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = on("a")
    with attempt(a, "r" * 16, {}, {}) as first:
        b = on("b")
        assert others_alive(b, "x/0001") == 1
        assert [r["status"] for r in read_attempts(b)] == ["running"]
        with attempt(b, "r" * 16, {}, {}) as second:
            assert (first.number, second.number) == (1, 2)
        assert {r["attempt"]: r["status"] for r in read_attempts(on("b"))} == {1: "running", 2: "completed"}
        monkeypatch.setattr(time, "time", lambda now=time.time: now() + 2 * leases.LASTS)
        assert {r["attempt"]: r["status"] for r in read_attempts(b)} == {1: "killed", 2: "completed"}
        monkeypatch.undo()
    assert {r["attempt"]: r["status"] for r in read_attempts(on("b"))} == {1: "completed", 2: "completed"}


def test_collecting_waits_for_no_run_and_runs_wait_for_it(on: Machine) -> None:
    a, b = on("a"), on("b")
    with attempt(a, "r" * 16, {}, {}), pytest.raises(UserError, match="a run or another gc"), alone(b):
        pass
    begun = threading.Event()

    def run() -> None:
        with attempt(a, "s" * 16, {}, {}):
            begun.set()

    with alone(b):
        thread = threading.Thread(target=run)
        thread.start()
        assert not begun.wait(1.0)
    assert begun.wait(20)
    thread.join()


def test_turns_pass_from_machine_to_machine_and_show_what_was_stored(
    on: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "_TURN", 0.05)
    a, b = on("a"), on("b")
    waits: list[int] = []
    order: list[str] = []

    def other() -> None:
        with b.turn("shard", lambda: waits.append(1)):
            order.append("b")
            assert SegmentStore(b, "exact", "f" * 32).missing(ROWS, COLUMNS) == 0

    assert not b.is_taken("shard")
    with a.turn("shard"):
        assert b.is_taken("shard")
        thread = threading.Thread(target=other)
        thread.start()
        time.sleep(0.4)
        tile(a)
        order.append("a")
    thread.join()
    assert order == ["a", "b"] and waits


def test_the_turn_of_a_machine_that_is_gone_is_taken(on: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "LASTS", 0.5)
    monkeypatch.setattr(leases, "_TURN", 0.1)
    a, b = on("a"), on("b")
    assert a.mirror is not None
    dead = a.mirror.leases.held("turns/shard")
    dead.__enter__()
    begun = time.monotonic()
    with b.turn("shard"):
        assert time.monotonic() - begun > 0.3
    assert b.mirror is not None and not b.mirror.leases.is_held("turns/shard")


def test_a_store_that_is_away_for_a_while_costs_time_alone(
    on: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "_LONGEST_WAIT", 0.02)
    ws = on("a")
    with broken(ws, ConnectionResetError("link"), 5) as left:
        name = tile(ws)
        assert left == [0]
    assert is_intact(on("b").root / name)


def test_a_store_that_stays_away_is_told(on: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "_LONGEST_WAIT", 0.02)
    monkeypatch.setattr(objects, "PATIENCE", 0.3)
    ws = on("a")
    with broken(ws, TimeoutError("link"), 10**6), pytest.raises(UserError, match="has not answered for"):
        tile(ws)
    assert SegmentStore(on("a"), "exact", "f" * 32).missing(ROWS, COLUMNS) == 12


@pytest.mark.parametrize(
    ("code", "mend"),
    [
        ("NoSuchBucket", "Make the bucket"),
        ("ExpiredToken", "Renew the credentials"),
        ("InvalidAccessKeyId", "AWS_ACCESS_KEY_ID"),
        ("SignatureDoesNotMatch", "AWS_SECRET_ACCESS_KEY"),
        ("AccessDenied", "right to list, read, write and delete"),
    ],
)
def test_what_only_the_user_can_mend_is_told_at_once(on: Machine, code: str, mend: str) -> None:
    ws, error = on("a"), OSError("the store says no")
    error.__cause__ = type("ClientError", (Exception,), {"response": {"Error": {"Code": code}}})()
    with broken(ws, error, 10**6), pytest.raises(UserError, match=code) as caught:
        tile(ws)
    assert mend in str(caught.value) and ws.address in str(caught.value)


def test_places_in_other_use_are_refused(on: Machine, url: str, tmp_path: Path) -> None:
    fsspec.filesystem("memory").pipe_file(f"{url}/somebody's", b"data")
    with pytest.raises(UserError, match="is not empty and is no nncift workspace"):
        on("a")
    with pytest.raises(UserError, match="no workspace here"):
        Workspace.open(url)
    assert stored(url) == ["somebody's"]


def test_another_format_is_refused(on: Machine, url: str) -> None:
    on("a")
    fsspec.filesystem("memory").pipe_file(f"{url}/nncift.json", b'{"format": 99}')
    with pytest.raises(UserError, match="workspace format 99"):
        on("b")


def test_marks_show_whether_two_machines_see_one_workspace(on: Machine, url: str) -> None:
    a = on("a")
    with a.marked() as mark:
        b = on("b")
        assert b.has_mark(mark) and not b.has_mark("seen-other")
        other = Workspace.create(f"{url}-2")
        assert not other.has_mark(mark)
    assert not b.has_mark(mark)
    assert not any(k.startswith("marks/") for k in stored(url))


def test_a_rewritten_shard_takes_its_old_payload_along(on: Machine, url: str) -> None:
    a = on("a")
    name = tile(a)
    old = read_manifest(a.root / name)
    part = a.root / name

    def smaller(path: Path) -> None:
        from nncift_core.store.segments import Segment, segment_table, write_segment

        rows, columns = np.repeat(ROWS[:2], 3), np.tile(COLUMNS, 2)
        write_segment(
            segment_table(Segment("", "tile", ROWS[:2], COLUMNS), rows, columns, VALUES[:2].ravel()), path
        )

    shards.rewrite(a.root, part, smaller, 6)
    shards.remove_guard(part)
    keys = [k for k in stored(url) if k.startswith("data/exact/")]
    assert old is not None and len(keys) == 1 and old.sha256[:16] not in keys[0]
    assert SegmentStore(on("b"), "exact", "f" * 32).missing(ROWS, COLUMNS) == 6


QUERIES = (
    "SELECT * FROM influence ORDER BY ALL",
    "SELECT * FROM examples ORDER BY ALL",
    "SELECT * FROM scores ORDER BY ALL",
    "SELECT artifact, kind, rows FROM lineage ORDER BY ALL",
)


def answers(ws: Workspace) -> list[Any]:
    return [rows(ws, sql) for sql in QUERIES]


def test_queries_on_another_machine_answer_alike_and_fetch_what_they_read(on: Machine) -> None:
    a = on("a")
    valuation(a, ("a", "b", "c", "d"))
    b = on("b")
    tiles = sorted(b.root.glob("e*s*/*/tile-*.parquet")) + sorted(b.root.glob("exact/*/*.parquet"))
    assert tiles and all(is_away(t) for t in tiles)
    assert answers(a) == answers(b) and len(answers(b)[0]) == 8
    assert not any(is_away(t) for t in tiles)
    with pytest.raises(UserError, match="access refused"):
        rows(b, f"SELECT * FROM influence, read_text('nncift://{b.root}/nncift.json')")


def test_a_query_of_a_file_that_the_store_lost_says_so(on: Machine, url: str) -> None:
    valuation(on("a"), ("a", "b", "c", "d"))
    fs = fsspec.filesystem("memory")
    for key in stored(url):
        if key.startswith("data/estimates/"):
            fs.rm(f"{url}/{key}")
    b = on("b")
    for _ in range(2):
        with pytest.raises(IntegrityError, match="run again to recompute it"):
            answers(b)
    valuation(b, ("a", "b", "c", "d"))
    assert len(answers(on("c"))[0]) == 8


def test_collecting_on_one_machine_frees_the_store_for_all(on: Machine, url: str) -> None:
    a = on("a")
    valuation(a, ("a", "b", "c", "d", "e", "f"), "1" * 16)
    valuation(a, ("b", "d", "e", "f", "h"), "2" * 16, estimator="b" * 32)
    b = on("b")
    away = {p for p in b.root.rglob("*.parquet") if is_away(p)}
    with alone(b):
        plan = plan_collection(b, 1)
    assert away and all(is_away(p) for p in away), "planning fetches nothing"
    before = answers(b)[:3]
    with alone(b):
        collect(b, plan)
    assert plan.removals and plan.rewritings
    for ws in (on("a"), on("b"), on("c")):
        assert answers(ws)[:3] == before
        told = {ws.relative(p).removesuffix(".manifest.json") for p in ws.root.rglob("*.manifest.json")}
        assert not told & {r.artifact for r in plan.removals}
    payloads = [k for k in stored(url) if k.startswith("data/")]
    assert {k.removeprefix("data/").split("@")[0] for k in payloads} == told, "nothing lies about unnamed"
