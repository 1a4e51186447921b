"""Who made an artifact: the attempt, its models, parameters, seed, code versions and command."""

from __future__ import annotations

import json
from typing import Any

from nncift_core.store.lineage import Graph, Lineage, Node

_OLDER = "unknown (made by an older version)"
_MODELS = {"encoder": "encoder", "language_model": "language model", "finetune": "student"}


def explain(lineage: Lineage, artifact: str) -> dict[str, Any]:
    """Everything that is known of how `artifact` came to be, JSON-ready.

    Keys: artifact, kind, made_by (`made_by`), datasets (name, role, version, rows, sources), nodes (artifact,
    kind, key, producer, created_at, size, rows, run_id, attempt, stored), edges ([made, made from]).
    """
    graph = lineage.ancestors(artifact)
    node = graph.nodes[artifact]
    return {
        "artifact": artifact,
        "kind": node.kind,
        "made_by": made_by(lineage, node),
        "datasets": _datasets(graph),
        "nodes": [_row(n) for n in graph.nodes.values()],
        "edges": [list(edge) for edge in graph.edges],
    }


def made_by(lineage: Lineage, node: Node) -> dict[str, Any]:
    """The attempt behind an artifact.

    Keys: run, attempt, note, started_at, status, command, function, parameters, seed, models, versions and
    config; those that nothing tells are None. A file of an older version names no attempt: `note` says so,
    and the rest is of the earliest run that lists the file, where one does.
    """
    run_id, attempt, note = node.run_id, node.attempt, ""
    if not run_id:
        listed = _earliest(lineage, lineage.listed_by(node.artifact))
        run_id, attempt = listed or "", None
        note = f"{_OLDER}; run {run_id} lists it" if run_id else _OLDER
    records = lineage.attempts.get(run_id, {})
    record = records.get(attempt) if attempt is not None else records.get(min(records, default=0))
    known = {"run": run_id or None, "attempt": attempt, "note": note}
    return {**known, **_recorded(record or {}), "command": _command(lineage, run_id)}


def _earliest(lineage: Lineage, runs: list[str]) -> str | None:
    have = [r for r in runs if r in lineage.results or r in lineage.attempts]
    return min(have, key=lambda r: str(lineage.results.get(r, {}).get("published_at", "")), default=None)


def _recorded(record: dict[str, Any]) -> dict[str, Any]:
    raw = record.get("config")
    config: dict[str, Any] = json.loads(raw) if isinstance(raw, str) else raw or {}
    influence = config.get("influence") or {}
    name = influence.get("function")
    own = influence.get(str(name).replace("-", "_")) if name else None
    shared = {k: v for k, v in influence.items() if k != "function" and not isinstance(v, dict)}
    return {
        "started_at": record.get("started_at"),
        "status": record.get("status"),
        "function": name,
        "parameters": {**shared, **(own or {})} if name else None,
        "seed": config.get("seed"),
        "models": _models(config),
        "versions": record.get("versions"),
        "config": config or None,
    }


def _models(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """By role: name, revision and dtype of every model that the config names."""
    found = {}
    for section, role in _MODELS.items():
        said = config.get(section) or {}
        if said.get("model"):
            found[role] = {k: said.get(k) for k in ("model", "revision", "dtype") if said.get(k) is not None}
    return found


def _command(lineage: Lineage, run_id: str) -> str | None:
    command = lineage.results.get(run_id, {}).get("facts", {}).get("command")
    return str(command) if command else None


def _datasets(graph: Graph) -> list[dict[str, Any]]:
    """The data behind an artifact, and the fingerprints of the files it was read from."""
    found = []
    for n in graph.nodes.values():
        if n.kind != "dataset-version":
            continue
        blocks = [graph.nodes[p] for p in n.parents]
        sources = sorted({p.partition(":")[2] for b in blocks for p in b.parents if p.startswith("source:")})
        about = {"name": n.meta.get("dataset"), "role": n.meta.get("role"), "version": n.key}
        found.append({**about, "rows": n.rows, "sources": sources})
    return sorted(found, key=lambda d: (str(d["role"]), str(d["name"]), str(d["version"])))


def _row(n: Node) -> dict[str, Any]:
    names = (
        "artifact",
        "kind",
        "key",
        "producer",
        "created_at",
        "size",
        "rows",
        "run_id",
        "attempt",
        "stored",
    )
    return {name: getattr(n, name) for name in names}
