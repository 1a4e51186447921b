"""A lineage small enough to look at: many files of one kind as one, as a tree or a mermaid graph."""

from __future__ import annotations

import html
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from nncift_core.store.lineage import Graph, Node

# So many files of one kind in one folder are still shown one by one.
FEW = 3
_HEX = re.compile(r"[0-9a-f]{12,}")


@dataclass(frozen=True)
class Group:
    """Artifacts shown as one: of one kind, in one folder, and where there are few, one alone."""

    nodes: tuple[Node, ...]

    @property
    def first(self) -> Node:
        """The one that stands for all."""
        return self.nodes[0]

    @property
    def name(self) -> str:
        """What it is called in little room: what `nncift lineage` finds it by, or how many there are."""
        n = self.first
        if len(self.nodes) > 1:
            return f"{len(self.nodes):,} files in {short('/'.join(n.artifact.split('/')[:-1]))}"
        if n.outside:
            return short(n.key)
        if n.kind == "dataset-version":
            role, name = n.meta.get("role", ""), n.meta.get("dataset", "")
            return f"{role} {name} {n.key[:8]}".strip()
        parts = n.artifact.split("/")
        folder = parts[0] in ("estimators", "adapters", "states") and len(parts) > 2
        return short(f"{parts[1]}/{parts[-1]}" if folder else parts[-1])

    @property
    def rows(self) -> int:
        """Rows of all."""
        return sum(n.rows for n in self.nodes)

    @property
    def size(self) -> int:
        """Bytes of all."""
        return sum(n.size for n in self.nodes)

    @property
    def stored(self) -> bool:
        """Whether every one is there."""
        return all(n.stored or n.outside for n in self.nodes)


def short(text: str) -> str:
    """Long identities by their first eight signs, enough to ask for them."""
    return _HEX.sub(lambda m: m[0][:8], text)


@dataclass(frozen=True)
class Folded:
    """A graph of groups; groups in the order in which a walk upward meets them, edges (made, made from)."""

    groups: tuple[Group, ...]
    edges: tuple[tuple[int, int], ...]

    @cached_property
    def _parents(self) -> dict[int, list[int]]:
        found: dict[int, list[int]] = defaultdict(list)
        for made, parent in self.edges:
            found[made].append(parent)
        return found

    def parents(self, group: int) -> list[int]:
        """Numbers of the groups that a group was made from."""
        return self._parents.get(group, [])

    def walk(self) -> Iterator[tuple[int, tuple[int, ...], bool]]:
        """The graph as a tree, from the asked artifact, line by line: depth, groups, whether shown before.

        A line is of one group; those of a branch that were shown before share its last line.
        """
        return self._walk(0, 0, set())

    def _walk(self, group: int, depth: int, seen: set[int]) -> Iterator[tuple[int, tuple[int, ...], bool]]:
        seen.add(group)
        yield depth, (group,), False
        again = []
        for parent in self.parents(group):
            if parent in seen:
                again.append(parent)
            else:
                yield from self._walk(parent, depth + 1, seen)
        if again:
            yield depth + 1, tuple(again), True


def fold(graph: Graph) -> Folded:
    """Join files of one kind in one folder where there are more than `FEW`; the asked one stays alone."""
    asked = next(iter(graph.nodes))
    alike: dict[tuple[str, str], list[Node]] = defaultdict(list)
    for artifact, n in graph.nodes.items():
        folder = n.kind if n.outside else artifact.rpartition("/")[0]
        alike[n.kind, artifact if artifact == asked else folder].append(n)
    place: dict[str, int] = {}
    groups: list[Group] = []
    for artifact, n in graph.nodes.items():
        if artifact in place:
            continue
        folder = n.kind if n.outside else artifact.rpartition("/")[0]
        members = alike[n.kind, folder] if artifact != asked else [n]
        together = members if len(members) > FEW else [n]
        place |= {m.artifact: len(groups) for m in together}
        groups.append(Group(tuple(together)))
    edges = dict.fromkeys((place[a], place[b]) for a, b in graph.edges)
    return Folded(tuple(groups), tuple(e for e in edges if e[0] != e[1]))


def mermaid(folded: Folded) -> str:
    """The graph in mermaid's language, sources above; labels hold nothing that steers it."""
    lines = ["graph TD"]
    for k, g in enumerate(folded.groups):
        rows = f"<br/>{g.rows:,} rows" if g.rows else ""
        gone = "" if g.stored else "<br/>no longer stored"
        lines.append(f'  n{k}["{label(g.first.kind)}<br/>{label(g.name)}{rows}{gone}"]')
    lines += [f"  n{parent} --> n{made}" for made, parent in folded.edges]
    return "\n".join(lines)


def label(text: str) -> str:
    """Text of the user's that is safe inside a mermaid label."""
    cleaned = "".join(ch if ch.isalnum() or ch in " ._-/[]," else "_" for ch in text)
    return html.escape(cleaned.replace("[", "(").replace("]", ")"))[:80]
