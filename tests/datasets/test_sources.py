"""Sources: files, folders, globs, built-ins, hub ids, names and fingerprints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nncift_core.config import DatasetConfig
from nncift_core.datasets import dataset_name, hub, read_dataset, source_fingerprint, sources
from nncift_core.datasets.sources import file_format, locate
from nncift_core.errors import UserError


def put(path: Path, *prompts: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "".join(json.dumps({"prompt": p, "response": "r"}) + "\n" for p in prompts), encoding="utf-8"
    )
    return path


def prompts(source: str, base: Path) -> list[str]:
    return [e.prompt for e in read_dataset(DatasetConfig(source=source), str(base))[0]]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.jsonl", ("jsonl", None)),
        ("a.b.CSV.gz", ("csv", "gzip")),
        ("a.json.zst", ("json", "zstd")),
        ("a.parquet", ("parquet", None)),
        ("a.parquet.gz", None),
        ("a.txt", None),
        ("jsonl", None),
        ("a.gz", None),
    ],
)
def test_file_format(name: str, kind: tuple[str, str | None] | None) -> None:
    assert file_format(name) == kind


def test_relative_paths_start_from_base_dir_then_from_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, here = tmp_path / "base", tmp_path / "here"
    put(base / "both.jsonl", "base")
    put(here / "both.jsonl", "here")
    put(here / "one.jsonl", "one")
    monkeypatch.chdir(here)
    assert prompts("both.jsonl", base) == ["base"]
    assert prompts("one.jsonl", base) == ["one"]
    assert prompts(str(here / "both.jsonl"), base) == ["here"]
    with pytest.raises(UserError) as e:
        prompts("none.jsonl", base)
    assert (
        str(e.value) == f"none.jsonl: no such file or folder, looked in {base} and in {here}. Mend the path."
    )


@pytest.mark.parametrize("source", ["a/b/c", "./x", "org/name.jsonl", "name", "../org/name"])
def test_what_is_no_hub_id_is_a_missing_file(tmp_path: Path, source: str) -> None:
    with pytest.raises(UserError, match="no such file or folder"):
        locate(source, str(tmp_path))


def test_hub_id_unless_it_exists_here(tmp_path: Path) -> None:
    assert locate("org/name-1.0", str(tmp_path)).kind == "hub"
    put(tmp_path / "org" / "name-1.0" / "a.jsonl", "x")
    assert locate("org/name-1.0", str(tmp_path)).kind == "folder"


def test_folder(tmp_path: Path) -> None:
    put(tmp_path / "d" / "b.jsonl", "b")
    put(tmp_path / "d" / "a" / "z.jsonl", "z")
    put(tmp_path / "d" / ".hidden.jsonl", "no")
    put(tmp_path / "d" / ".cache" / "x.jsonl", "no")
    (tmp_path / "d" / "README.md").write_text("text")
    examples, report = read_dataset(DatasetConfig(source="d"), str(tmp_path))
    assert [(e.prompt, e.row_number) for e in examples] == [("z", 0), ("b", 1)]
    assert report.files == ("d/a/z.jsonl", "d/b.jsonl")
    assert report.note == "1 other files passed over: README.md"


def test_folder_without_data(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "notes.txt").write_text("x")
    with pytest.raises(
        UserError, match=r"^d: no data file in this folder \(found only notes.txt\). Known: .jsonl"
    ):
        prompts("d", tmp_path)


def test_circles_of_links_end(tmp_path: Path) -> None:
    put(tmp_path / "d" / "a.jsonl", "a")
    (tmp_path / "d" / "up").symlink_to(tmp_path / "d", target_is_directory=True)
    (tmp_path / "d" / "x.jsonl").symlink_to(tmp_path / "d" / "y.jsonl")
    (tmp_path / "d" / "y.jsonl").symlink_to(tmp_path / "d" / "x.jsonl")
    for source in ("d", "d/**/*.jsonl"):
        examples, report = read_dataset(DatasetConfig(source=source), str(tmp_path))
        assert [e.prompt for e in examples] == ["a"]
        assert "link to a folder already read passed over: up" in report.note
        assert "link to nothing or no regular file passed over: x.jsonl" in report.note
    with pytest.raises(UserError, match=r"^d/x.jsonl: cannot be opened .* it runs in a circle"):
        prompts("d/x.jsonl", tmp_path)


def test_glob(tmp_path: Path) -> None:
    put(tmp_path / "p-2.jsonl", "2")
    put(tmp_path / "p-1.jsonl", "1")
    put(tmp_path / "s" / "p-3.jsonl", "3")
    (tmp_path / "p-0.txt").write_text("x")
    assert prompts("p-*", tmp_path) == ["1", "2"]
    assert prompts(str(tmp_path / "p-[1].jsonl"), tmp_path / "s") == ["1"]
    assert prompts("**/p-*.jsonl", tmp_path) == ["1", "2", "3"]
    put(tmp_path / "odd[1].jsonl", "odd")
    assert prompts("odd[1].jsonl", tmp_path) == ["odd"]
    with pytest.raises(UserError, match=r"^q\*.jsonl: no file matches, looked in"):
        prompts("q*.jsonl", tmp_path)


def test_unknown_format(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(
        UserError, match=r"^a.txt: format not told by the file's name. Rename it. Known: .jsonl"
    ):
        prompts("a.txt", tmp_path)


def test_builtin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "BUILTIN_DIR", tmp_path)
    put(tmp_path / "pool.jsonl", "x")
    examples, report = read_dataset(DatasetConfig(source="builtin:pool"), "")
    assert ([e.prompt for e in examples], report.dataset, report.files) == (
        ["x"],
        "builtin-pool",
        ("builtin:pool",),
    )
    for wrong in ("builtin:nope", "builtin", "builtin:../pool"):
        with pytest.raises(UserError) as e:
            prompts(wrong, tmp_path)
        assert str(e.value) == f'{wrong}: no such built-in data set. Those that exist: "builtin:pool".'


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"source": "a/pool.jsonl.gz"}, "pool"),
        ({"source": "/x/pool.v2.csv"}, "pool.v2"),
        ({"source": "some/deep/folder/"}, "folder"),
        ({"source": "data/pool-*.jsonl"}, "pool"),
        ({"source": "data/*.jsonl"}, "data"),
        ({"source": "org/name"}, "org/name"),
        ({"source": "builtin:pool"}, "builtin-pool"),
        ({"source": "."}, "dataset"),
        ({"source": "pool.jsonl", "split": "dev"}, "pool[dev]"),
        ({"source": "pool.jsonl", "name": "n"}, "n"),
    ],
)
def test_dataset_name(config: dict[str, Any], name: str) -> None:
    assert dataset_name(DatasetConfig(**config)) == name


def test_fingerprint_follows_what_is_read(tmp_path: Path) -> None:
    put(tmp_path / "a" / "d" / "x.jsonl", "1")
    put(tmp_path / "b" / "d" / "x.jsonl", "1")
    first = source_fingerprint(DatasetConfig(source="d"), str(tmp_path / "a"))
    assert source_fingerprint(DatasetConfig(source=str(tmp_path / "b" / "d")), "") == first
    seen = {first}
    for key, value in {"limit": 1, "split": "x", "columns": {"prompt": "q"}, "on_bad_rows": "drop"}.items():
        seen.add(
            source_fingerprint(DatasetConfig.model_validate({"source": "d", key: value}), str(tmp_path / "a"))
        )
    put(tmp_path / "a" / "d" / "x.jsonl", "2")
    seen.add(source_fingerprint(DatasetConfig(source="d"), str(tmp_path / "a")))
    put(tmp_path / "b" / "d" / "y.jsonl", "1")
    seen.add(source_fingerprint(DatasetConfig(source="d"), str(tmp_path / "b")))
    assert len(seen) == 7


@pytest.fixture
def fake_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`datasets.load_dataset` itself, pointed at a local folder in place of the network."""
    import datasets

    folder = tmp_path / "copy"
    for split in ("train", "test"):
        put(folder / f"{split}.jsonl", f"{split}1", f"{split}2")
    real = datasets.load_dataset

    def load(path: str, split: str | None = None) -> Any:
        assert path == "org/name"
        return real(str(folder), split=split, cache_dir=str(tmp_path / "cache"))

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(hub, "_ask", lambda hub_id: (True, "abc"))
    return folder


def test_hub(fake_hub: Path, tmp_path: Path) -> None:
    config = DatasetConfig(source="org/name", split="test", limit=1)
    examples, report = read_dataset(config, str(tmp_path))
    assert [(e.prompt, e.response, e.split) for e in examples] == [("test1", "r", "test")]
    assert (report.dataset, report.files) == ("org/name[test]", ("org/name",))
    with pytest.raises(UserError) as e:
        prompts("org/name", tmp_path)
    assert str(e.value) == 'org/name: the data set has the splits "train", "test". Choose one: split = "...".'
    with pytest.raises(
        UserError, match=r'^org/name: the hub data set cannot be loaded \(Unknown split "dev"'
    ):
        read_dataset(DatasetConfig(source="org/name", split="dev"), str(tmp_path))


def test_hub_of_one_split_needs_no_choice(fake_hub: Path, tmp_path: Path) -> None:
    (fake_hub / "test.jsonl").unlink()
    assert prompts("org/name", tmp_path) == ["train1", "train2"]


def test_hub_fingerprint_follows_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for sha in ("abc", "def", None):
        monkeypatch.setattr(hub, "_ask", lambda hub_id, sha=sha: (sha is not None, sha))
        found.append(source_fingerprint(DatasetConfig(source="org/name"), str(tmp_path)))
    assert len(set(found)) == 3


def test_hub_out_of_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets
    import huggingface_hub

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise huggingface_hub.errors.OfflineModeIsEnabled("offline")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", refuse)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as e:
        prompts("org/name", tmp_path)
    assert str(e.value) == (
        f"org/name: no local file (looked in {tmp_path}), and the hub cannot be reached. Go online, or "
        "name a local file: a path to .jsonl, .json, .csv or .parquet works."
    )
    # An earlier download is tried, and the loader's own failure to connect reads the same.
    (tmp_path / "org___name").mkdir()
    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(UserError, match="the hub cannot be reached"):
        prompts("org/name", tmp_path)
