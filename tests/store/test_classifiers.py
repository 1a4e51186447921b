"""What is kept of trainings: equal to the last bit when read again, and not there unless whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nncift_core.classification.contract import Checkpoint, Dynamics, dynamics_of
from nncift_core.store.classifiers import Kept, read_subset, write_subsets
from nncift_core.store.files import manifest_path, read_manifest
from nncift_core.store.workspace import Workspace

KEY = "ab" * 32
ROWS = np.array([70, 10, 2**60, 40, 5])


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(Workspace.create(tmp_path / "ws"), KEY, ("datasets/d/version",))


def dynamics(points: int = 4) -> Dynamics:
    rng = np.random.default_rng(0)
    logits = (rng.normal(size=(points, 5, 3)) * 50).astype(np.float32)
    steps = np.array([2, 3, 7, 9][:points])
    return dynamics_of(logits, np.array([0, 1, 2, 1, 0]), steps, steps / 7, steps % 3 == 0)


def checkpoints(n: int = 12) -> list[Checkpoint]:
    rng = np.random.default_rng(1)
    return [
        Checkpoint(
            k + 1, (k + 1) / 3, 1e-3 / (k + 1),
            tuple((rng.normal(size=(o, i)).astype(np.float32), rng.normal(size=o).astype(np.float32))
                  for i, o in ((4, 6), (6, 3))),
        )
        for k in range(n)
    ]  # fmt: skip


@pytest.mark.parametrize("points", [1, 4])
def test_dynamics_come_back_bit_by_bit(kept, points):
    made = dynamics(points)
    kept.finish({}, [kept.write_dynamics(made, ROWS)])
    found = kept.read_dynamics(5)
    for name in made.__dataclass_fields__:
        a, b = getattr(made, name), getattr(found, name)
        assert (a.dtype, a.shape) == (b.dtype, b.shape) and np.array_equal(a, b), name


def test_dynamics_can_be_read_by_row_and_step_by_anyone(kept):
    import duckdb

    made = dynamics()
    kept.write_dynamics(made, ROWS)
    path = kept.folder / "dynamics.parquet"
    found = duckdb.sql(
        f"SELECT margin, epoch_end FROM '{path}' WHERE train_id = {2**60} ORDER BY steps"
    ).fetchall()
    assert [f[0] for f in found] == made.margin[:, 2].tolist()
    assert [f[1] for f in found] == made.epoch_end.tolist()


def test_arrays_and_results_come_back_bit_by_bit(kept):
    rng = np.random.default_rng(2)
    arrays = {
        "vog": rng.normal(size=7), "tracin": rng.normal(size=7).astype(np.float32) * 1e-30,
        "turned": np.arange(6.0).reshape(2, 3).T,
    }  # fmt: skip
    result = {"accuracy": 0.1 + 0.2, "name": "é", "none": None, "per_class": {"a": [1, 2]}}
    kept.finish(result, [kept.write_arrays("gradients", arrays, {"what": "é"})])
    found = kept.read_arrays("gradients")
    assert found.keys() == arrays.keys()
    assert all(np.array_equal(found[k], v) and found[k].dtype == v.dtype for k, v in arrays.items())
    assert kept.read() == {**result, "files": ["gradients.safetensors"]}


def test_checkpoints_keep_weights_steps_and_rates(kept):
    import json

    from safetensors import safe_open

    made = checkpoints()
    kept.write_checkpoints(made)
    found = kept.read_arrays("checkpoints")
    for k, c in enumerate(made):
        for layer, (weight, bias) in enumerate(c.layers):
            assert np.array_equal(found[f"{k:02d}.weight.{layer}"], weight)
            assert np.array_equal(found[f"{k:02d}.bias.{layer}"], bias)
    assert len(found) == 12 * 4
    with safe_open(kept.folder / "checkpoints.safetensors", "np") as f:
        about = json.loads(f.metadata()["about"])
    told = [(a["step"], a["epoch"], a["learning_rate"], a["encoder_rate"]) for a in about["checkpoints"]]
    assert told == [(c.step, c.epoch, c.learning_rate, 0.0) for c in made]


def test_a_training_exists_only_when_its_result_is_written(kept):
    assert not kept.done
    files = [kept.write_dynamics(dynamics(), ROWS), kept.write_checkpoints(checkpoints(2))]
    assert not kept.done
    kept.finish({"seed": 3}, files)
    assert kept.done and Kept(kept.ws, KEY).done
    assert kept.artifact == f"classifiers/{KEY[:16]}/done.json"
    manifest = read_manifest(kept.folder / "done.json")
    assert (manifest.kind, manifest.key, manifest.parents) == ("classifier", KEY, kept.parents)
    assert not Kept(kept.ws, "cd" * 32).done


@pytest.mark.parametrize("name", ["done.json", "dynamics.parquet", "checkpoints.safetensors"])
@pytest.mark.parametrize("harm", ["missing", "cut", "flipped", "no manifest"])
def test_a_damaged_or_missing_part_means_that_it_is_not_done_until_it_is_written_again(kept, name, harm):
    def write() -> None:
        kept.finish({}, [kept.write_dynamics(dynamics(), ROWS), kept.write_checkpoints(checkpoints(2))])

    write()
    assert kept.done
    path = kept.folder / name
    if harm == "missing":
        path.unlink()
    elif harm == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    elif harm == "flipped":
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(bytes(data))
    else:
        manifest_path(path).unlink()
    assert not kept.done
    write()
    assert kept.done


def test_subsets_are_read_by_name_and_written_once(kept):
    ws = kept.ws
    names = ["given/0/random/0.5/1", "it's", "none"]
    rows = [np.array([0, 3, 4]), np.array([2**31 - 1]), np.array([], np.int64)]
    path = write_subsets(ws, KEY, names, rows, kept.parents)
    assert path == f"classifiers/{KEY[:16]}/subsets.parquet"
    for name, expected in zip(names, rows, strict=True):
        found = read_subset(ws, path, name)
        assert found.dtype == np.int64 and np.array_equal(found, expected)
    before = (ws.root / path).stat().st_mtime_ns
    assert write_subsets(ws, KEY, names, rows, kept.parents) == path
    assert (ws.root / path).stat().st_mtime_ns == before
    (ws.root / path).write_bytes(b"broken")
    write_subsets(ws, KEY, names, rows, kept.parents)
    assert read_subset(ws, path, "it's").tolist() == [2**31 - 1]


def test_one_subset_is_read_without_the_others(kept, monkeypatch):
    import pyarrow.parquet as pq

    ws, long = kept.ws, "n" * 300
    names = [*(f"given/{k}/\u00e9/0.5/1" for k in range(40)), f"{long}a", f"{long}b", ""]
    rows = [np.arange(k, k + 500) for k in range(len(names))]
    path = write_subsets(ws, KEY, names, rows, kept.parents)
    file = pq.ParquetFile(ws.root / path)
    found = {file.read_row_group(g)["subset"][0].as_py(): g for g in range(file.num_row_groups)}
    assert len(found) == len(names), "a row group of its own for every subset"
    # Every other subset's numbers are harmed: whoever reads them fails, or reads other numbers.
    wanted = f"{long}b"
    data = bytearray((ws.root / path).read_bytes())
    for name, group in found.items():
        if name != wanted:
            column = file.metadata.row_group(group).column(1)
            start = column.dictionary_page_offset or column.data_page_offset
            data[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    (ws.root / path).write_bytes(bytes(data))
    assert read_subset(ws, path, wanted).tolist() == rows[names.index(wanted)].tolist()
    with pytest.raises(OSError):
        read_subset(ws, path, names[3])


def test_a_subset_that_is_not_there_is_named(kept):
    path = write_subsets(kept.ws, KEY, ["a", "b"], [np.array([1]), np.array([2])], kept.parents)
    with pytest.raises(KeyError, match="0 subsets are named 'ab'"):
        read_subset(kept.ws, path, "ab")
