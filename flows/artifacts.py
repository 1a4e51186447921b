"""What a person sees in the Prefect UI: lineage graph, stage table, quality table."""

from __future__ import annotations

from typing import Any

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from nncift_core.pipeline.lineage import label as _label
from nncift_core.pipeline.problem import Problem
from nncift_core.store.runs import Attempt
from nncift_core.text import one_line

COMPARISON = ("against", "metric", "value", "against_value", "gain", "lower", "upper", "verdict")
QUALITY = ("quadrant", "predictor", "verdict", "n_pairs", "r2", "spearman", "lower", "upper", "recall_at_k")


def publish(
    problem: Problem,
    attempt: Attempt,
    record: dict[str, Any],
    quality: list[dict[str, Any]],
    comparison: list[dict[str, Any]],
    costs: list[dict[str, Any]],
) -> None:
    """Create the run's artifacts; their keys carry the run id, so that attempts line up."""
    suffix = attempt.run_id
    create_markdown_artifact(
        lineage_markdown(problem, record), key=f"lineage-{suffix}", description="What was made from what"
    )
    stage_rows = [
        {
            k: _shown(c[k])
            for k in ("stage", "device", "items", "computed", "reused", "seconds", "peak_rss_mb")
        }
        for c in costs
    ]
    create_table_artifact(
        stage_rows, key=f"stages-{suffix}", description="Stages: items, computed, reused, seconds"
    )
    rows = [{k: _shown(q[k]) for k in QUALITY} for q in quality if q["target_task"] == "all"][:400]
    if rows:
        facts = record["facts"]
        verdict = one_line(f"{facts['estimator_verdict']}: {facts['estimator_reason']}", 300)
        instead = facts["estimator_used"]
        used = f" The baseline {instead!r} selects instead." if instead != facts["estimator"] else ""
        create_table_artifact(
            rows,
            key=f"quality-{suffix}",
            description=f"Estimates against exact values never used for fitting. {verdict}.{used}",
        )
    rivals = [{k: _shown(c[k]) for k in COMPARISON} for c in comparison if c["task"] == "all"]
    if rivals:
        create_table_artifact(
            rivals,
            key=f"comparison-{suffix}",
            description="Held-out rows: the selected subset's model against its rivals (gain > 0: better)",
        )


def _shown(value: Any) -> Any:
    return round(value, 4) if isinstance(value, float) else ("n/a" if value is None else value)


def lineage_markdown(problem: Problem, record: dict[str, Any]) -> str:
    """The run as a mermaid graph, with the query that gives every artifact behind it."""
    m, facts = record["matrix"], record["facts"]
    lines = ["graph TD"]
    for n, d in enumerate(problem.datasets):
        name = f"{_label(d.ref.role)}: {_label(d.ref.dataset)}"
        lines.append(f'  d{n}["{name}<br/>{d.ref.rows:,} rows, version {d.ref.version[:8]}"]')
    exact = f"key {m['function_key'][:8]}, {len(m['exact'])} segments"
    lines.append(f'  exact["exact influence: {_label(m["function"])}<br/>{exact}"]')
    valued = [n for n, d in enumerate(problem.datasets) if d.ref.role != "test"]
    lines += [f"  d{n} --> exact" for n in valued]
    last = "exact"
    if m["estimator"]:
        e = m["estimator"]
        kind = "estimator" if e["learned"] else "baseline"
        lines += [
            f'  embed["embeddings<br/>key {m["encoder_key"][:8]}"]',
            f'  net["{kind}: {_label(e["architecture"])}<br/>key {e["key"][:8]}, {e["labels"]:,} labels"]',
            f'  tiles["estimated tiles<br/>{len(m["estimates"])} files"]',
            "  exact --> net", "  embed --> net", "  net --> tiles", "  embed --> tiles",
        ]  # fmt: skip
        lines += [f"  d{n} --> embed" for n in valued]
        last = "tiles"
    lines += [
        f'  select["select by {facts["rule"]}<br/>{facts["budget"]:,} rows"]',
        "  exact --> select",
        f'  subset["subset.jsonl<br/>run {record["run_id"]}"]',
        "  select --> subset",
    ]
    if last != "exact":
        lines.append(f"  {last} --> select")
    lines += _downstream_lines(record["facts"], record["tables"])
    if "comparison" in record["tables"]:
        lines += [f"  d{n} --> compared" for n in range(len(problem.datasets)) if n not in valued]
    graph = "\n".join(lines)
    sql = 'nncift query "SELECT artifact, kind, parents, producer FROM lineage ORDER BY created_at"'
    told = f"What made it, model and code by version: `nncift lineage subset --run {record['run_id']}`"
    return (
        f"```mermaid\n{graph}\n```\n\n{told}\n\nEvery file with its parents: `{sql}`\n\n"
        f"Files, from the workspace's folder:\n\n{_files(record)}\n"
    )


def _files(record: dict[str, Any]) -> str:
    """The run's files by their paths in the workspace; of tiles, whose names are many, the folder."""
    m, facts = record["matrix"], record["facts"]
    run = f"runs/{record['run_id']}"
    named = [
        ("report", f"{run}/report.html"),
        ("subset", facts.get("subset")),
        ("adapter", facts.get("adapter")),
    ]
    named += [("estimator", (m["estimator"] or {}).get("path")), ("members", m["members"])]
    named += [(f"view {name}", path) for name, path in sorted(record["tables"].items())]
    named += [(f"data, {d['role']}", d["path"]) for d in record["datasets"]]
    for kind in ("exact", "estimates"):
        for folder in sorted({path.rpartition("/")[0] for path in m[kind]}):
            count = sum(path.startswith(f"{folder}/") for path in m[kind])
            named.append((f"{kind}, {count:,} files", f"{folder}/*.parquet"))
    lines = [f"| {_label(what)} | `{_path(path)}` |" for what, path in named if path]
    return "\n".join(["| what | file |", "| --- | --- |", *lines])


def _path(path: str) -> str:
    """A path in the workspace inside backticks and a table: nothing in it ends either."""
    return "".join(ch if ch.isalnum() or ch in "._-/*" else "_" for ch in str(path))


def _downstream_lines(facts: dict[str, Any], tables: dict[str, str]) -> list[str]:
    """The graph after the subset: adapters, scores, report."""
    lines = ['  report["report.html"]', "  subset --> report"]
    if "adapter" in facts:
        lines += [
            f'  tuned["adapter<br/>{facts["adapter"]}"]',
            "  subset --> tuned",
        ]
    if "comparison" in tables:
        lines += [
            f'  compared["comparison<br/>{facts["test_rows"]:,} held-out rows"]',
            "  tuned --> compared",
            "  compared --> report",
        ]
    return lines
