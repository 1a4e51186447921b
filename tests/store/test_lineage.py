"""`nncift lineage`: from any artifact up to its sources, and who made it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from store.made_runs import CONFIG, FUNCTION, TARGET, contents, text, valuation
from typer.testing import CliRunner

from flows.cli import app
from nncift_core.errors import UserError
from nncift_core.pipeline.lineage import FEW, Folded, fold, label, mermaid
from nncift_core.pipeline.provenance import explain
from nncift_core.store.artifacts import find_artifact
from nncift_core.store.collection import collect, plan_collection
from nncift_core.store.files import read_manifest, write_json
from nncift_core.store.lineage import Graph, Lineage, Node, attempt_of
from nncift_core.store.query import rows
from nncift_core.store.runs import read_result
from nncift_core.store.segments import SegmentStore
from nncift_core.store.workspace import Workspace

ONE, TWO = "1" * 16, "2" * 16
OLD, NEW = ("a", "b", "c", "d", "e", "f", "g"), ("b", "d", "e", "f", "h")


@pytest.fixture(scope="module")
def ws(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Two runs, the second with an adapter and its report made from all that is there."""
    made = Workspace.create(tmp_path_factory.mktemp("lineage") / "ws")
    valuation(made, OLD, ONE)
    valuation(made, NEW, TWO, estimator="b" * 32)
    result = read_result(made, TWO)
    assert result is not None
    folder = f"adapters/{'ada0' * 4}"
    for name in ("adapter_config.json", "training.json", "weights.safetensors"):
        text(made, f"{folder}/{name}", "adapter", "ada0" * 8, (result["tables"]["selection"],))
    more = contents(("a", "b")), contents(TARGET), np.zeros(2, np.float32)
    SegmentStore(made, "exact", FUNCTION).write_pairs(*more, producer="made")
    write_json(made.result_file(TWO), {**result, "facts": {**result["facts"], "adapter": folder}})
    return made


@pytest.fixture
def known(ws: Workspace) -> Lineage:
    return Lineage(ws)


def kinds(graph: Graph) -> set[str]:
    return {n.kind for n in graph.nodes.values()}


def test_a_subset_leads_to_every_file_behind_it(known: Lineage) -> None:
    graph = known.ancestors(find_artifact(known, "subset"))
    assert kinds(graph) == {
        "subset", "selection", "members", "label-design", "estimator", "exact", "estimate",
        "dataset-version", "dataset-block", "source",
    }  # fmt: skip
    result = read_result(known.ws, TWO)
    assert result is not None
    assert {*result["matrix"]["exact"], *result["matrix"]["estimates"]} <= graph.nodes.keys()
    assert {"source:pool-file", "source:target-file"} <= graph.nodes.keys()
    made = {a for a, _ in graph.edges}
    assert all(n.outside or a in made for a, n in graph.nodes.items()), "nothing inside is without parents"


def test_report_and_adapter_lead_to_the_subset_and_its_selection(known: Lineage) -> None:
    report = known.ancestors(find_artifact(known, "report"))
    assert {"report", "result", "subset", "adapter", "scores", "members", "source"} <= kinds(report)
    adapter = known.ancestors(find_artifact(known, "adapter"))
    assert {"adapter", "selection", "estimator", "source"} <= kinds(adapter)


def test_what_made_it_is_told(known: Lineage) -> None:
    told = explain(known, find_artifact(known, "estimator"))
    by = told["made_by"]
    assert (by["run"], by["attempt"], by["note"]) == (TWO, 1, "")
    assert (by["function"], by["seed"], by["command"]) == ("made", 3, "nncift run job.toml")
    assert by["parameters"] == {"label_fraction": 0.5, "width": 7}
    assert by["models"]["encoder"] == {"model": "an-encoder", "revision": "abc"}
    assert by["versions"]["git"] == "0123456789" and by["config"] == CONFIG
    names = [(d["role"], d["name"], d["rows"], d["sources"]) for d in told["datasets"]]
    assert names == [
        ("pool", "pool", 5, ["pool-file"]), ("pool", "pool", 7, ["pool-file"]),
        ("target", "target", 2, ["target-file"]),
    ]  # fmt: skip
    nodes = {n["artifact"] for n in told["nodes"]}
    assert all({a, b} <= nodes for a, b in told["edges"]) and told["artifact"] in nodes


def test_files_of_an_older_version_say_so(tmp_path: Path) -> None:
    ws = Workspace.create(tmp_path / "ws")
    valuation(ws, NEW, TWO)
    for manifest in ws.root.rglob("*.manifest.json"):
        write_json(manifest, {k: v for k, v in json.loads(manifest.read_text()).items() if k != "made_in"})
    known = Lineage(ws)
    by = explain(known, find_artifact(known, "estimator"))["made_by"]
    assert by["note"] == f"unknown (made by an older version); run {TWO} lists it"
    assert (by["run"], by["attempt"], by["function"]) == (TWO, None, "made")
    block = next(a for a, m in known.manifests.items() if m.kind == "dataset-block")
    assert explain(known, block)["made_by"]["run"] == TWO
    for path in ws.root.glob("runs/*/result.json"):
        path.unlink()
    lost = Lineage(ws)
    assert explain(lost, block)["made_by"]["note"] == "unknown (made by an older version)"
    assert rows(ws, "SELECT DISTINCT run_id, attempt FROM lineage") == [{"run_id": None, "attempt": None}]


def test_an_artifact_is_found_by_whatever_names_it(known: Lineage, monkeypatch: pytest.MonkeyPatch) -> None:
    ws = known.ws
    subset = f"runs/{TWO}/subset.jsonl"
    monkeypatch.chdir(ws.root / "runs")
    asked = (subset, str(ws.root / subset), f"{TWO}/subset.jsonl", TWO, f"runs/{TWO}/", TWO[:5])
    asked = (*asked, f"{subset}.manifest.json")
    assert {find_artifact(known, a) for a in asked} == {subset}
    assert find_artifact(known, "subset", ONE[:4]) == f"runs/{ONE}/subset.jsonl"
    estimator = ws.relative(ws.network_file("b" * 32))
    assert {find_artifact(known, a) for a in ("estimator", "bbbb", "b" * 32)} == {estimator}
    tile = next(a for a, m in known.manifests.items() if m.kind == "exact")
    name = Path(tile).stem
    assert {find_artifact(known, a) for a in (name, name.partition("-")[2][:12])} == {tile}
    weights = f"adapters/{'ada0' * 4}/weights.safetensors"
    assert {find_artifact(known, a) for a in ("ada0", f"adapters/{'ada0' * 4}", "adapter")} == {weights}


@pytest.mark.parametrize(
    ("asked", "run", "message"),
    [
        ("ffff", None, r"may be any of \d+ artifacts\. Give more of one: exact exact/ffff"),
        ("tile-", None, "may be any of"),
        ("estimatr", None, r"no artifact 'estimatr' here\. Did you mean estimator"),
        ("", None, "no artifact ''"),
        ("\u202eno\x1b[31m", None, "no artifact '\ufffdno\u241b"),
        ("../../etc/passwd", None, "no artifact"),
        ("nncift.json", None, "nncift.json: has no manifest"),
        ("exact", None, "exact: has no manifest"),
        ("subset", "7777", "no run '7777'"),
        ("subset", "all", "of one run"),
        ("adapter", ONE, f"run {ONE} has no adapter"),
    ],
)
def test_what_is_unknown_or_ambiguous_is_told(
    known: Lineage, asked: str, run: str | None, message: str
) -> None:
    assert FUNCTION.startswith("ffff")
    with pytest.raises(UserError, match=message):
        find_artifact(known, asked, run)


def test_children_are_what_was_made_from_it(known: Lineage) -> None:
    estimator = find_artifact(known, "estimator")
    made = {n.kind for n in known.children(estimator)}
    assert {"estimate", "selection", "scores", "members"} <= made
    assert known.children(f"runs/{TWO}/report.html") == []


def test_what_gc_took_away_is_shown_as_gone(tmp_path: Path) -> None:
    ws = Workspace.create(tmp_path / "ws")
    valuation(ws, OLD, ONE)
    valuation(ws, NEW, TWO)
    collect(ws, plan_collection(ws, 1))
    known = Lineage(ws)
    gone = [
        n
        for n in known.ancestors(find_artifact(known, "subset")).nodes.values()
        if not (n.stored or n.outside)
    ]
    assert gone and all(n.artifact.startswith("datasets/pool/") for n in gone)
    with pytest.raises(UserError, match="has no result any more: nncift gc took it away on 20"):
        find_artifact(known, ONE)


def many(n: int) -> Graph:
    """A selection from n tiles of one folder and one source."""
    tiles = {
        f"exact/k/tile-{k}": Node(f"exact/k/tile-{k}", "exact", rows=2, parents=("source:x",))
        for k in range(n)
    }
    nodes = {"runs/r/s": Node("runs/r/s", "selection", parents=tuple(tiles)), **tiles}
    nodes["source:x"] = Node("source:x", "source", "x", stored=False)
    edges = [(a, p) for a, node in nodes.items() for p in node.parents]
    return Graph(nodes, tuple(edges))


def test_many_files_of_one_kind_are_shown_as_one_with_their_count() -> None:
    folded = fold(many(FEW + 1))
    assert [len(g.nodes) for g in folded.groups] == [1, FEW + 1, 1]
    assert folded.groups[1].name == "4 files in exact/k" and folded.groups[1].rows == 8
    assert folded.edges == ((0, 1), (1, 2))
    assert len(fold(many(FEW)).groups) == FEW + 2


def test_a_tree_shows_everything_once_and_names_it_afterwards() -> None:
    folded = fold(many(2))
    lines = list(folded.walk())
    assert lines == [
        (0, (0,), False), (1, (1,), False), (2, (3,), False), (1, (2,), False), (2, (3,), True)
    ]  # fmt: skip
    assert list(Folded(folded.groups[:1], ()).walk()) == [(0, (0,), False)]


def test_mermaid_holds_no_sign_that_steers_it(known: Lineage) -> None:
    drawn = mermaid(fold(known.ancestors(find_artifact(known, "subset"))))
    lines = drawn.splitlines()
    assert lines[0] == "graph TD"
    assert all(re.fullmatch(r'  n\d+(\["[^"\[\]]*"\]| --> n\d+)', line) for line in lines[1:])
    assert label('a"]; click "x[1]\n<b>') == "a_)_ click _x(1)__b_"


def test_made_in_is_read_as_run_and_attempt() -> None:
    assert attempt_of("run/0012") == ("run", 12)
    assert attempt_of("") == ("", None)


def call(ws: Workspace, *args: str) -> str:
    done = CliRunner().invoke(app, ["lineage", *args, "--workspace", str(ws.root)], catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


def test_the_command_tells_it_in_eighty_columns(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = call(ws, "subset")
    for part in (
        f"made by    run {TWO}, attempt 1", "command    nncift run job.toml", "function   made, seed 3",
        "model      encoder: an-encoder, abc", "code       nncift 1.2.3, git 0123456789",
        "data       pool pool: 5 rows", "above: ", "- selection selection-",
    ):  # fmt: skip
        assert part in shown, part
    assert max(map(len, shown.splitlines())) <= 80
    assert call(ws, "estimator", "--mermaid").startswith("graph TD\n")
    assert "Made from it" in call(ws, "estimator", "--children")


def test_the_command_gives_one_json_object(ws: Workspace) -> None:
    told: dict[str, Any] = json.loads(call(ws, "report", "--json", "--children"))
    assert told["kind"] == "report" and told["children"] == []
    assert {"artifact", "kind", "made_by", "datasets", "nodes", "edges"} <= told.keys()
    with pytest.raises(UserError, match="exclude one another"):
        call(ws, "report", "--json", "--mermaid")


def test_the_view_says_run_attempt_rows_and_size(ws: Workspace) -> None:
    found = rows(ws, "SELECT * FROM lineage WHERE kind IN ('subset', 'report', 'adapter')")
    assert {r["kind"] for r in found} == {"subset", "report", "adapter"}
    of_runs = [r for r in found if r["kind"] != "adapter"]
    assert {(r["run_id"], r["attempt"]) for r in of_runs} == {(ONE, 1), (TWO, 1)}
    assert {r["run_id"] for r in found if r["kind"] == "adapter"} == {None}, "made after the attempt"
    for r in found:
        manifest = read_manifest(ws.root / r["artifact"])
        assert manifest and (r["rows"], r["size"]) == (manifest.rows, manifest.size)


def test_the_artifact_of_the_ui_names_the_files_and_the_command(ws: Workspace) -> None:
    from flows.artifacts import lineage_markdown

    record = read_result(ws, TWO)
    assert record is not None
    record["facts"] |= {"rule": "top-k", "budget": 1}
    hostile = {**record["datasets"][0], "role": "po|ol`", "path": "datasets/`|\n<b>/v.parquet"}
    record["datasets"].append(hostile)
    refs = [SimpleNamespace(**d) for d in record["datasets"]]
    shown = lineage_markdown(
        cast(Any, SimpleNamespace(datasets=[SimpleNamespace(ref=r) for r in refs])), record
    )
    assert f"`nncift lineage subset --run {TWO}`" in shown
    for path in (ws.relative(ws.report_file(TWO)), record["facts"]["subset"], record["tables"]["selection"]):
        assert f"`{path}` |" in shown
    assert f"`{Path(record['matrix']['exact'][0]).parent}/*.parquet`" in shown
    assert "| data, po_ol_ | `datasets/____b_/v.parquet` |" in shown
