"""`nncift gc`: what no kept run needs goes, what lives stays bit-equal, whatever kills it."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from store.made_runs import (
    CONFIG,
    ENCODER,
    FUNCTION,
    TARGET,
    contents,
    fitted,
    stored_pairs,
    text,
    tree,
    valuation,
    values,
    vectors,
)
from typer.testing import CliRunner

from flows.cli import app
from nncift_core.errors import IntegrityError, UserError
from nncift_core.pipeline.exact_shards import stored_values
from nncift_core.store.collection import collect, plan_collection
from nncift_core.store.collection.keep import PATIENCE
from nncift_core.store.designs import find, note_design
from nncift_core.store.files import is_intact, publish, read_manifest, void, write_json
from nncift_core.store.query import rows
from nncift_core.store.runs import attempt, read_result
from nncift_core.store.segments import SegmentStore
from nncift_core.store.shards import guard_of
from nncift_core.store.sweeps import publish_sweep
from nncift_core.store.use import alone, in_use
from nncift_core.store.vectors import VectorStore
from nncift_core.store.workspace import Workspace

OLD, NEW = ("a", "b", "c", "d", "e", "f", "g"), ("b", "d", "e", "f", "h")
GONE = ("a", "c", "g")
QUERIES = (
    "SELECT * FROM influence ORDER BY ALL",
    "SELECT * FROM examples ORDER BY ALL",
    "SELECT * FROM selection",
    "SELECT * FROM scores ORDER BY ALL",
)


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    """Two runs of one job: the second over the pool without three rows and with a new one."""
    made = Workspace.create(tmp_path / "ws")
    valuation(made, OLD, "1" * 16)
    valuation(made, NEW, "2" * 16, estimator="b" * 32)
    return made


def gc(ws: Workspace, keep: int = 1) -> Any:
    """The whole of `nncift gc --delete`; returns its plan."""
    with alone(ws):
        plan = plan_collection(ws, keep)
        collect(ws, plan)
    return plan


def answers(ws: Workspace, run: str = "2" * 16) -> list[Any]:
    return [rows(ws, sql, run) for sql in QUERIES]


def old(ws: Workspace) -> None:
    """Let every file be two hours old."""
    then = time.time() - 7200
    for path in ws.root.rglob("*"):
        if path.is_file():
            os.utime(path, (then, then))


def test_a_plan_changes_nothing(ws: Workspace) -> None:
    before = tree(ws.root)
    plan = plan_collection(ws, 1)
    assert tree(ws.root) == before
    assert plan.unpublished == ("1" * 16,)
    assert {(g["kind"], g["why"]) for g in plan.groups()} >= {
        ("exact", "some rows removed"), ("embedding", "some rows removed"), ("estimator", "of no kept run"),
        ("estimate", "of an estimator not in use"), ("dataset-version", "of no kept run"),
        ("table", "of a replaced run"), ("subset", "of a replaced run"), ("report", "of a replaced run"),
    }  # fmt: skip


def test_removed_rows_are_gone_and_the_rest_is_bit_equal(ws: Workspace) -> None:
    dead, columns = contents(GONE), contents(TARGET)
    before, found = answers(ws), {kind: stored_pairs(ws, kind) for kind in ("exact", "estimates")}
    exact = SegmentStore(ws, "exact", FUNCTION)
    assert exact.coverage(dead, columns).any()
    plan = gc(ws)
    assert answers(ws) == before
    for kind, pairs in found.items():
        left = stored_pairs(ws, kind)
        living = {p: v for p, v in pairs.items() if p[0] not in set(dead.tolist())}
        assert left == living if kind == "exact" else left.items() <= living.items()
    assert not SegmentStore(ws, "exact", FUNCTION).coverage(dead, columns).any()
    kept = VectorStore(ws, ENCODER)
    assert kept.missing(dead).tolist() == dead.tolist()
    assert np.array_equal(kept.load(contents(NEW)), vectors(contents(NEW)))
    # Three rows of the first block went, one of its texts stays; of the last block, "g" was alone.
    assert plan.texts_staying == 2
    assert not any("response g" in str(t) for t in tree(ws.root).values())
    assert [r["run_id"] for r in rows(ws, "SELECT DISTINCT run_id FROM influence", "all")] == ["2" * 16]
    assert len(rows(ws, "SELECT * FROM runs")) == 2, "attempts stay"
    assert read_result(ws, "1" * 16) is None and not ws.report_file("1" * 16).exists()


def test_running_again_computes_nothing(ws: Workspace) -> None:
    gc(ws)
    done = valuation(ws, NEW, "2" * 16, estimator="b" * 32)
    assert done == {"embed": 0, "exact": 0, "fit": 0, "estimate": 0}


def test_a_second_gc_finds_nothing(ws: Workspace) -> None:
    gc(ws)
    before = tree(ws.root)
    plan = gc(ws)
    assert plan.empty and plan.groups() == [] and tree(ws.root) == before


def test_a_rewritten_file_keeps_its_name_and_its_history(ws: Workspace) -> None:
    plan = plan_collection(ws, 1)
    (r,) = [r for r in plan.rewritings if r.kind == "embedding"]
    before = read_manifest(ws.root / r.artifact)
    gc(ws)
    after = read_manifest(ws.root / r.artifact)
    assert before and after and is_intact(ws.root / r.artifact)
    assert (after.created_at, after.made_in, after.parents) == (
        before.created_at, before.made_in, before.parents,
    )  # fmt: skip
    assert (before.rows, after.rows) == (9, 6) and after.made_in == f"{'1' * 16}/0001"


def test_more_results_are_kept_where_asked(ws: Workspace) -> None:
    before = [answers(ws, run) for run in ("1" * 16, "2" * 16)]
    assert gc(ws, keep=2).empty
    assert [answers(ws, run) for run in ("1" * 16, "2" * 16)] == before


class Killed(BaseException):
    """The process is gone."""


@contextmanager
def killed_at(step: int | None, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """From the change number `step` on no file changes any more, as after kill -9; yields the count."""
    count = [0]
    with monkeypatch.context() as m:
        for name in ("replace", "unlink", "rmdir"):
            real = getattr(os, name)

            def call(*args: Any, real: Any = real, **kwargs: Any) -> Any:
                count[0] += 1
                if step is not None and count[0] > step:
                    raise Killed
                return real(*args, **kwargs)

            m.setattr(os, name, call)
        yield count


@pytest.mark.parametrize("every", [7, pytest.param(1, marks=pytest.mark.heavy)])
def test_a_kill_at_any_moment_costs_nothing(
    ws: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int
) -> None:
    expected, living = answers(ws), contents(NEW)
    undisturbed = Workspace(shutil.copytree(ws.root, tmp_path / "undisturbed"))
    with killed_at(None, monkeypatch) as count:
        gc(undisturbed)
    final = tree(undisturbed.root)
    assert count[0] > 40
    for step in range(0, count[0], every):
        here = Workspace(shutil.copytree(ws.root, tmp_path / f"killed{step}"))
        with killed_at(step, monkeypatch), pytest.raises(Killed):
            gc(here)
        assert nothing_is_lost(here, living), step
        if step % (4 * every) == 0:
            assert answers(here) == expected, step
        old(here)
        gc(here)
        assert tree(here.root) == final, step
        shutil.rmtree(here.root)


def nothing_is_lost(ws: Workspace, living: np.ndarray) -> bool:
    """Whether a run over the living rows would compute nothing, and the kept result's files are there."""
    columns = contents(TARGET)
    labelled = living[living % 2 == 0]
    known = SegmentStore(ws, "exact", FUNCTION)
    out = np.full((len(labelled), 2), np.nan, np.float32)
    known.fill(labelled, columns, out)
    estimates = SegmentStore(ws, "estimate", "b" * 32).coverage(living, columns)
    embeddings = VectorStore(ws, ENCODER)
    result = read_result(ws, "2" * 16)
    assert result is not None
    m = result["matrix"]
    blocks = [b for d in result["datasets"] for b in (d["path"], *d["blocks"])]
    named = [*m["exact"], *m["estimates"], m["members"], m["estimator"]["path"], *blocks]
    return (
        np.array_equal(out, values(labelled, columns))
        and bool(estimates.all())
        and np.array_equal(embeddings.load(living), vectors(living))
        and all((ws.root / name).is_file() for name in (*named, *result["tables"].values()))
    )


def test_a_run_after_a_killed_gc_names_no_guard_for_long(
    ws: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between payload and manifest: the guard answers, and later gives its name back."""
    (artifact,) = [r.artifact for r in plan_collection(ws, 1).rewritings if r.kind == "exact"][:1]
    path = ws.root / artifact
    write, seen = os.replace, []

    def replace(source: Any, target: Any) -> None:
        write(source, target)
        if Path(target) == path:
            seen.append(target)
            raise Killed

    with monkeypatch.context() as m, pytest.raises(Killed):
        m.setattr(os, "replace", replace)
        gc(ws)
    assert seen and not is_intact(path) and is_intact(guard_of(path))
    assert valuation(ws, NEW, "2" * 16, estimator="b" * 32)["exact"] == 0
    result = read_result(ws, "2" * 16)
    assert result and ws.relative(guard_of(path)) in result["matrix"]["exact"]
    expected = answers(ws)
    gc(ws)
    result = read_result(ws, "2" * 16)
    assert result and artifact in result["matrix"]["exact"] and is_intact(path)
    assert answers(ws) == expected and not list(ws.root.rglob("rewrite-*"))


def test_readers_pass_over_a_guard_beside_its_whole_shard(ws: Workspace) -> None:
    store = SegmentStore(ws, "exact", FUNCTION)
    path = ws.root / store.files()[0]
    for suffix in ("", ".manifest.json"):
        guard = guard_of(path)
        shutil.copy(f"{path}{suffix}", f"{guard}{suffix}")
    told = json.loads((guard.parent / f"{guard.name}.manifest.json").read_text())
    write_json(guard.parent / f"{guard.name}.manifest.json", {**told, "artifact": ws.relative(guard)})
    assert SegmentStore(ws, "exact", FUNCTION).files() == store.files()
    assert plan_collection(ws, 2).removals[0].artifact == ws.relative(guard)


def test_open_stores_see_that_a_file_was_rewritten(ws: Workspace) -> None:
    exact, embeddings = SegmentStore(ws, "exact", FUNCTION), VectorStore(ws, ENCODER)
    living, columns = contents(NEW), contents(TARGET)
    gc(ws)
    exact.refresh()
    embeddings.refresh()
    assert not exact.coverage(contents(GONE), columns).any()
    labelled = living[living % 2 == 0]
    out = np.zeros((len(labelled), 2), np.float32)
    exact.fill(labelled, columns, out)
    assert np.array_equal(out, values(labelled, columns))
    assert np.array_equal(embeddings.load(living), vectors(living))


def test_scattered_pairs_lose_their_dead_ones_alone(ws: Workspace) -> None:
    store, columns = SegmentStore(ws, "exact", "9" * 32), contents(TARGET)
    r = contents(("a", "b", "a", "d"))
    k = columns[[0, 1, 1, 0]]
    store.write_pairs(r, k, np.array([1, 2, 3, 4], np.float32), producer="made")
    gc(ws)
    again = SegmentStore(ws, "exact", "9" * 32)
    assert (
        stored_values(again, r, k).tolist()[1::2] == [2, 4]
        and np.isnan(stored_values(again, r, k)[::2]).all()
    )


def test_a_workspace_in_use_is_not_touched(ws: Workspace) -> None:
    with attempt(ws, "3" * 16, {}, {}), pytest.raises(UserError, match="a run or another gc is going on"):
        gc(ws)
    with alone(ws), pytest.raises(UserError, match="going on"), alone(ws):
        pass


def test_a_run_waits_while_gc_is_at_work(ws: Workspace) -> None:
    entered = threading.Event()

    def run() -> None:
        with in_use(ws), in_use(ws):
            entered.set()

    thread = threading.Thread(target=run)
    with alone(ws):
        thread.start()
        assert not entered.wait(0.2)
    thread.join(10)
    assert entered.is_set()


def test_series_are_counted_apart(tmp_path: Path) -> None:
    ws = Workspace.create(tmp_path / "ws")
    for k, series in enumerate(("one", "two", "one", "two", "one")):
        valuation(ws, OLD, f"{k}" * 16, series=series)
    plan = plan_collection(ws, 2)
    assert sorted(p.run_id[0] for p in plan.kept.results) == ["1", "2", "3", "4"]
    assert plan.unpublished == ("0" * 16,)


def test_results_without_a_series_are_told_by_function_and_data(tmp_path: Path) -> None:
    ws = Workspace.create(tmp_path / "ws")
    other = {**CONFIG, "target": {"source": "other.jsonl"}}
    for k, config in enumerate((CONFIG, other, CONFIG)):
        valuation(ws, OLD, f"{k}" * 16, config=config)
    valuation(ws, OLD, "5" * 16, series="named")
    assert sorted(p.run_id[0] for p in plan_collection(ws, 1).kept.results) == ["1", "5"]


def test_sweeps_keep_their_data_and_are_counted_apart(ws: Workspace) -> None:
    version = next(p for p in sorted(ws.root.glob("datasets/pool/*/versions/*.parquet")))
    for number in "67":
        with attempt(ws, number * 16, {**CONFIG, "study": "figures"}, {}) as current:
            of_runs = [ws.relative(version)] if number == "7" else []
            table = text(ws, f"runs/{number * 16}/tables/sweep-1.parquet", "sweep", number, tuple(of_runs))
            result = {"run_id": number * 16, "study": "figures", "tables": {"sweep": table}, "facts": {}}
            publish_sweep(current, result)
    plan = gc(ws)
    assert [p.run_id[0] for p in plan.kept.sweeps] == ["7"] and [p.run_id[0] for p in plan.kept.results] == [
        "2"
    ]
    assert version.is_file() and not ws.sweep_file("6" * 16).exists() and ws.sweep_file("7" * 16).exists()


def test_work_that_was_broken_off_waits_until_its_series_has_something_newer(ws: Workspace) -> None:
    with pytest.raises(RuntimeError), attempt(ws, "8" * 16, CONFIG, {}):
        raise RuntimeError("the night was too short")
    rows_ = ("x", "y", "b")
    done = valuation(ws, rows_, "9" * 16, estimator="c" * 32, finish=False)
    record = ws.run_dir("9" * 16) / "attempts" / "0001.json"
    write_json(record, {**json.loads(record.read_text()), "status": "failed"})
    assert done["exact"] and done["fit"]
    plan = gc(ws)
    assert plan.kept.unfinished == ("8" * 16, "9" * 16)
    again = valuation(ws, rows_, "9" * 16, estimator="c" * 32, finish=False)
    assert again == {"embed": 0, "exact": 0, "fit": 0, "estimate": 0}
    record = ws.run_dir("9" * 16) / "attempts" / "0002.json"
    write_json(record, {**json.loads(record.read_text()), "status": "failed"})
    valuation(ws, NEW, "2" * 16, estimator="b" * 32)
    assert gc(ws).kept.unfinished == ()
    assert valuation(ws, rows_, "9" * 16, estimator="c" * 32)["exact"] > 0


def test_refused_estimators_and_those_trained_on_from_stay(tmp_path: Path) -> None:
    ws = Workspace.create(tmp_path / "ws")
    valuation(ws, NEW, "1" * 16, estimator="a" * 32)
    result = read_result(ws, "1" * 16)
    assert result is not None
    design = next(p for p in read_manifest(ws.root / result["matrix"]["members"]).parents if "designs" in p)  # type: ignore[union-attr]
    for key, name in (("c", "kernel"), ("d", "mlp"), ("e", "mlp")):
        fitted(ws, key * 32, (design,), name)
    matrix = {**result["matrix"], "estimator": {**result["matrix"]["estimator"], "warm_from": "e" * 32}}
    facts = {**result["facts"], "estimator": "kernel", "estimator_used": "mlp"}
    write_json(ws.result_file("1" * 16), {**result, "matrix": matrix, "facts": facts})
    gc(ws)
    left = {p.parent.name[0] for p in ws.root.glob("estimators/*/network.safetensors")}
    assert left == {"a", "c", "e"}, "the one in use, the refused one, the one that it was trained on from"


def test_designs_in_use_stay_with_what_they_extend(ws: Workspace) -> None:
    living, columns, family = contents(NEW), contents(TARGET), "d" * 32
    used = find(ws, family, living, columns, 0.25)
    assert used is not None
    base = "designs/" + "d" * 16 + "/base.parquet"
    text(ws, base, "label-design", "base", ())
    told = read_manifest(ws.root / used.ref.path)
    assert told is not None
    publish(
        ws.root, ws.root / used.ref.path.replace(used.ref.key, "extended"), lambda p: void(p.write_text("x")),
        kind="label-design", key="extended", rows=1, producer="made", parents=(), meta={"extends": "base"},
    )  # fmt: skip
    result = read_result(ws, "2" * 16)
    assert result is not None
    members = ws.root / result["matrix"]["members"]
    manifest = members.with_name(members.name + ".manifest.json")
    data = json.loads(manifest.read_text())
    write_json(manifest, {**data, "parents": [used.ref.path.replace(used.ref.key, "extended")]})
    fitted(ws, "0" * 32, ())
    for key in ("c", "d"):
        fitted(ws, key * 32, (base, ws.relative(ws.network_file("0" * 32))))
    note_design(ws, family, contents(("z",)), columns, used.ref.key)
    note_design(ws, family, contents(("y",)), columns, "nowhere")
    gc(ws)
    left = {p.name for p in ws.root.glob("designs/*/*.parquet")}
    assert left >= {f"{used.ref.key}.parquet", "base.parquet", "extended.parquet"}
    notes = [json.loads(p.read_text())["design"] for p in ws.root.glob("designs/*/*.uses.json")]
    assert set(notes) == {f"{used.ref.key}.parquet"}
    fits = {p.parent.name[0] for p in ws.root.glob("estimators/*/network.safetensors")}
    assert fits == {"b", "c"}, "the one in use, and the first on the design that was extended"


def test_states_and_adapters_of_kept_results_stay_whole(ws: Workspace) -> None:
    for key in ("5", "6"):
        for name in ("weights.bin", "files.json"):
            text(ws, f"states/{key * 16}/{name}", "function-state", key * 32)
            text(ws, f"adapters/{key * 16}/{name}", "adapter", key * 32)
    result = read_result(ws, "2" * 16)
    assert result is not None
    keys = {**result["matrix"]["keys"], "state": "5" * 32}
    facts = {**result["facts"], "adapter": f"adapters/{'6' * 16}"}
    write_json(
        ws.result_file("2" * 16), {**result, "matrix": {**result["matrix"], "keys": keys}, "facts": facts}
    )
    gc(ws)
    assert {p.parent.name[0] for p in ws.root.glob("states/*/weights.bin")} == {"5"}
    assert {p.parent.name[0] for p in ws.root.glob("adapters/*/weights.bin")} == {"6"}
    assert all(
        len(list(f.iterdir())) == 4 for top in ("states", "adapters") for f in (ws.root / top).iterdir()
    )


def test_leftovers_go_when_they_are_old(ws: Workspace) -> None:
    gc(ws)
    folder = ws.root / "exact" / FUNCTION[:16]
    left = [folder / ".tile-1.parquet.ab.part", folder / "tile-1.parquet", ws.tmp_dir / "scratch" / "x"]
    for path in left:
        path.parent.mkdir(exist_ok=True)
        path.write_text("half")
    orphan = folder / "tile-2.parquet.manifest.json"
    shutil.copy(next(folder.glob("*.manifest.json")), orphan)
    assert gc(ws).empty, "somebody may be writing them"
    old(ws)
    assert {r.artifact for r in gc(ws).removals} == {ws.relative(p) for p in (*left, orphan)}
    assert not any(p.exists() for p in (*left, orphan))


def test_a_killed_training_waits_as_long_as_a_broken_off_run(ws: Workspace) -> None:
    gc(ws)
    state = ws.training_dir("f" * 64) / "state.safetensors"
    state.parent.mkdir()
    state.write_text("weights")
    old(ws)
    assert gc(ws).empty and state.exists(), "hours of training"
    month = time.time() - PATIENCE.total_seconds() - 60
    os.utime(state, (month, month))
    assert [r.artifact for r in gc(ws).removals] == [ws.relative(state)] and not state.exists()


def test_cached_answers_about_nothing_go_after_a_month(ws: Workspace) -> None:
    gc(ws)
    result = read_result(ws, "2" * 16)
    assert result is not None
    cached = {
        "shard": {"computed": 3, "device": "cpu"},
        "gone": {"tables": {"selection": "runs/1/tables/x.parquet"}},
        "there": {"tables": result["tables"]},
        "verdict": {"quality": [], "verdict": {"level": "trusted"}},
    }
    ws.prefect_dir.mkdir(exist_ok=True)
    for name, value in cached.items():
        (ws.prefect_dir / name).write_text(json.dumps({"metadata": {}, "result": json.dumps(value)}))
    (ws.prefect_dir / "strange").write_text("no JSON")
    assert gc(ws).empty
    then = time.time() - 31 * 24 * 3600
    for path in ws.prefect_dir.iterdir():
        os.utime(path, (then, then))
    gc(ws)
    assert {p.name for p in ws.prefect_dir.iterdir()} == {"there", "verdict", "strange"}


def test_damaged_data_of_a_kept_run_stops_gc_before_anything_goes(ws: Workspace) -> None:
    result = read_result(ws, "2" * 16)
    assert result is not None
    version = ws.root / result["datasets"][0]["path"]
    version.write_bytes(version.read_bytes()[:-9])
    before = tree(ws.root)
    with pytest.raises(IntegrityError, match="nothing says which rows live"):
        gc(ws)
    assert tree(ws.root) == before


def test_a_lost_table_of_a_kept_run_stops_gc_before_anything_goes(ws: Workspace) -> None:
    result = read_result(ws, "2" * 16)
    assert result is not None
    members = ws.root / result["matrix"]["members"]
    members.with_name(members.name + ".manifest.json").unlink()
    before = tree(ws.root)
    with pytest.raises(IntegrityError, match=f"again .run {'2' * 16}., then collect"):
        gc(ws)
    assert tree(ws.root) == before


def test_damaged_values_are_left_to_the_next_run_and_told(ws: Workspace) -> None:
    gc(ws)
    path = ws.root / SegmentStore(ws, "exact", FUNCTION).files()[0]
    path.write_bytes(path.read_bytes()[:-9])
    plan = gc(ws)
    assert plan.empty and plan.damaged == (ws.relative(path),) and path.is_file()


def test_a_workspace_without_results_keeps_everything(tmp_path: Path) -> None:
    ws = Workspace.create(tmp_path / "ws")
    SegmentStore(ws, "exact", FUNCTION).write_tile(
        contents(OLD), contents(TARGET), values(contents(OLD), contents(TARGET)), producer="made"
    )
    assert gc(ws).empty


def call(ws: Workspace, *args: str) -> str:
    done = CliRunner().invoke(app, ["gc", *args, "--workspace", str(ws.root)], catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


def test_the_command_lists_and_frees(ws: Workspace) -> None:
    before = tree(ws.root)
    told = json.loads(call(ws, "--keep", "1", "--json"))
    assert tree(ws.root) == before and not told["deleted"]
    assert told["files"] == sum(g["files"] for g in told["groups"]) > 10
    assert told["replaced"] == ["1" * 16] and [k["run_id"] for k in told["kept"]] == ["2" * 16]
    assert "add --delete" in call(ws, "--keep", "1")
    shown = call(ws, "--keep", "1", "--delete")
    assert "files freed" in shown and "2 removed rows' texts stay in blocks with living rows" in shown
    freed = sum(map(len, before.values())) - sum(map(len, tree(ws.root).values()))
    assert 0 < freed
    assert "nothing to free" in call(ws, "--keep", "1", "--delete")


def test_the_commands_arguments_are_checked(ws: Workspace, tmp_path: Path) -> None:
    runner = CliRunner()
    for args in (["--keep", "0"], ["--keep", "many"], ["surplus"]):
        assert runner.invoke(app, ["gc", *args, "--workspace", str(ws.root)]).exit_code == 2
    with pytest.raises(UserError, match="no workspace here"):
        runner.invoke(app, ["gc", "--workspace", str(tmp_path / "none")], catch_exceptions=False)
