"""What was made from what: manifests as a graph, walked from an artifact up to its sources.

Where manifests are silent (results have none; tables name no tiles), the results of the runs say the rest.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from nncift_core.store.files import MANIFEST_SUFFIX, Manifest, read_manifest
from nncift_core.store.runs import read_attempts
from nncift_core.store.workspace import Workspace

# What a run reads or writes at its end: the tables of one selection.
_OF_SELECTION = ("selection", "scores", "influence_histogram", "influence_best")
_RESULTS = ("result.json", "sweep.json")


@dataclass(frozen=True)
class Node:
    """An artifact, or a source outside the workspace ("source:...", "model:...").

    stored: whether it is there; run_id, attempt: what made it, "" and None where that is not known.
    """

    artifact: str
    kind: str
    key: str = ""
    producer: str = ""
    created_at: str = ""
    size: int = 0
    rows: int = 0
    run_id: str = ""
    attempt: int | None = None
    stored: bool = True
    parents: tuple[str, ...] = ()
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def outside(self) -> bool:
        """Whether it lies in no workspace."""
        return self.kind in ("source", "model")


@dataclass(frozen=True)
class Graph:
    """nodes: by artifact, the asked one first; edges: (made, made from)."""

    nodes: dict[str, Node]
    edges: tuple[tuple[str, str], ...]


def attempt_of(made_in: str) -> tuple[str, int | None]:
    """Run id and attempt of a manifest's `made_in`; "" and None where it says none."""
    run_id, _, number = made_in.partition("/")
    return run_id, int(number) if number.isdigit() else None


class Lineage:
    """The graph of one workspace; reads manifests as they are asked for."""

    def __init__(self, ws: Workspace) -> None:
        self.ws = ws
        self._nodes: dict[str, Node] = {}

    def node(self, artifact: str) -> Node:
        """One artifact by its relative path, or a source by its name."""
        if artifact not in self._nodes:
            self._nodes[artifact] = self._read(artifact)
        return self._nodes[artifact]

    def ancestors(self, artifact: str) -> Graph:
        """The artifact and all that it was made from."""
        nodes: dict[str, Node] = {}
        edges: list[tuple[str, str]] = []
        queue = [artifact]
        while queue:
            at = queue.pop(0)
            if at in nodes:
                continue
            nodes[at] = self.node(at)
            edges += [(at, parent) for parent in nodes[at].parents]
            queue += nodes[at].parents
        return Graph(nodes, tuple(edges))

    def children(self, artifact: str) -> list[Node]:
        """What was made from it directly, oldest first; reads every manifest."""
        found = [self.node(a) for a in self.manifests if artifact in self.node(a).parents]
        return sorted(found, key=lambda n: (n.created_at, n.artifact))

    @cached_property
    def manifests(self) -> dict[str, Manifest]:
        """Every manifest that can be read, by artifact."""
        found = {}
        for path in sorted(self.ws.root.rglob(f"*{MANIFEST_SUFFIX}")):
            payload = path.with_name(path.name.removesuffix(MANIFEST_SUFFIX))
            if (manifest := read_manifest(payload)) is not None:
                found[self.ws.relative(payload)] = manifest
        return found

    @cached_property
    def results(self) -> dict[str, dict[str, Any]]:
        """Published results of valuations and sweeps, by run id."""
        files = (p for name in _RESULTS for p in (self.ws.root / "runs").glob(f"*/{name}"))
        return {p.parent.name: json.loads(p.read_text(encoding="utf-8")) for p in sorted(files)}

    @cached_property
    def attempts(self) -> dict[str, dict[int, dict[str, Any]]]:
        """Records of all attempts by run id and number."""
        found: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
        for record in read_attempts(self.ws):
            found[record["run_id"]][int(record["attempt"])] = record
        return dict(found)

    def listed_by(self, artifact: str) -> list[str]:
        """Ids of the runs whose result names an artifact, or that it lies with."""
        if artifact.startswith("runs/"):
            return [artifact.split("/")[1]]
        return [i for i, result in self.results.items() if _names(result, artifact)]

    def _read(self, artifact: str) -> Node:
        kind, colon, key = artifact.partition(":")
        if colon and "/" not in kind:
            return Node(artifact, kind, key, stored=False)
        path = self.ws.root / artifact
        if path.name in _RESULTS and artifact.startswith("runs/"):
            return self._result(artifact, path)
        m = read_manifest(path)
        if m is None:
            return Node(artifact, artifact.split("/")[0], stored=path.is_file())
        run_id, attempt = attempt_of(m.made_in)
        parents = tuple(dict.fromkeys([*m.parents, *self._more_parents(artifact, m)]))
        return Node(
            artifact, m.kind, m.key, m.producer, m.created_at, m.size, m.rows, run_id, attempt,
            path.is_file(), parents, m.meta,
        )  # fmt: skip

    def _result(self, artifact: str, path: Path) -> Node:
        """A result, which has no manifest: made from the tables that it names."""
        if not path.is_file():
            return Node(artifact, "result", stored=False)
        run_id = path.parent.name
        result = self.results[run_id]
        tables = [*result["tables"].values()]
        if path.name == "result.json":
            members = [m for m in [result["matrix"]["members"]] if m]
            tables = [*self._own(result), *members, *tables]
        return Node(
            artifact, "result", run_id, "publish", str(result["published_at"]), path.stat().st_size, 1,
            run_id, result.get("attempt"), True, tuple(dict.fromkeys(tables)),
        )  # fmt: skip

    def _own(self, result: dict[str, Any]) -> list[str]:
        """Subset and adapter of a run."""
        facts = result["facts"]
        adapter = self.main_file(str(facts["adapter"])) if facts.get("adapter") else None
        return [str(a) for a in (facts.get("subset"), adapter) if a]

    def main_file(self, folder: str) -> str | None:
        """Of a folder of files that belong together, the one that was published last."""
        stems = (
            p.name.removesuffix(MANIFEST_SUFFIX) for p in (self.ws.root / folder).glob(f"*{MANIFEST_SUFFIX}")
        )
        found = (read_manifest(self.ws.root / folder / stem) for stem in stems)
        made = [m for m in found if m is not None]
        return max(made, key=lambda m: (m.created_at, m.artifact)).artifact if made else None

    def _more_parents(self, artifact: str, m: Manifest) -> Iterable[str]:
        """What the result of its run says of a table: selected from these members, with these tiles."""
        parts = artifact.split("/")
        if parts[0] != "runs" or "matrix" not in (result := self.results.get(parts[1], {})):
            return ()
        matrix, tables = result["matrix"], result["tables"]
        if not matrix["members"]:
            return ()
        if artifact == matrix["members"]:
            return (*matrix["exact"], *matrix["estimates"])
        if m.kind in _OF_SELECTION and tables.get(m.kind) == artifact:
            return (matrix["members"],)
        return ()


def _names(result: dict[str, Any], artifact: str) -> bool:
    m = result.get("matrix", {})
    named = {*result.get("tables", {}).values(), *m.get("exact", ()), *m.get("estimates", ())}
    named |= {b for d in result.get("datasets", ()) for b in (d["path"], *d["blocks"])}
    named.add((m.get("estimator") or {}).get("path"))
    adapter = result.get("facts", {}).get("adapter")
    return artifact in named or (adapter is not None and artifact.startswith(f"{adapter}/"))
