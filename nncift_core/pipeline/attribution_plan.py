"""`nncift audit --plan`: what an audit would train and value; reads and checks, starts and writes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nncift_core.attribution import keep_subsets, removals
from nncift_core.config import Config
from nncift_core.finetune import fine_tune_key, settings
from nncift_core.hashing import content_hash, content_id
from nncift_core.pipeline.attribution import (
    audit_config,
    audit_methods,
    check_sizes,
    method_names,
    model_counts,
    training_seeds,
)
from nncift_core.pipeline.downstream import check_student, is_trained
from nncift_core.pipeline.inputs import Input, check_devices, read_inputs
from nncift_core.pipeline.methods import check_methods
from nncift_core.store.dataset_writer import identify
from nncift_core.store.runs import read_costs
from nncift_core.store.workspace import Workspace


def check_audit(config: Config, workspace: str | Path, *, fetch: bool) -> list[Input]:
    """The data sets of an audit, read and checked with all that its methods and models need.

    config: as `audit_config` gives it; fetch: whether hub models may be downloaded for it. Raises UserError
    for what no audit could use.
    """
    inputs = read_inputs(config)
    check_devices(config)
    Workspace.check_usable(workspace)
    check_methods(config, audit_methods(config), fetch=fetch)
    check_student(config, fetch=fetch)
    queries = len(_contents(inputs, "target"))
    check_sizes(config, len(_contents(inputs, "pool")), min(queries, config.audit.queries or queries))
    return inputs


def audit_plan(config: Config, workspace: str | Path) -> dict[str, Any]:
    """Counts of an audit over `workspace`, which need not exist.

    Keys: pool_rows, queries, methods, models (at most: equal rows are trained once), of them `subsets` (the
    bank), `controls`, `qld` and `top_k`; kept: of the bank and controls those that the workspace holds;
    training_rows (rows times passes, at most); planted_wrong, planted_copies; seconds: of the trainings, from
    those recorded here (None without any). Raises UserError as the audit.
    """
    resolved = audit_config(config)
    inputs = check_audit(resolved, workspace, fetch=False)
    a, passes = resolved.audit, settings(resolved).passes
    pool = next(i for i in inputs if i.role == "pool")
    table = identify(pool.examples, pool.name, "pool")
    ids, hashes = table["example_id"].to_numpy(), table["content_id"].to_pylist()
    targets = _contents(inputs, "target")
    counts = model_counts(resolved)
    sets = keep_subsets(ids, a.models, a.share, resolved.seed) if counts["subsets"] else []
    everything = np.arange(len(ids))
    for share in a.remove if counts["controls"] else []:
        out = removals(ids, a.controls, round(share * len(ids)), resolved.seed)
        sets += [np.setdiff1d(everything, rows) for rows in out]
    ws = Workspace(workspace)
    kept = sum(
        is_trained(ws, fine_tune_key(resolved, [f"{hashes[k]:016x}" for k in rows], seed))
        for rows in sets for seed in training_seeds(resolved)
    )  # fmt: skip
    largest = len(ids) - round(min(a.remove) * len(ids))
    of_bank = counts["subsets"] * (len(sets[0]) if counts["subsets"] else 0)
    rows = (of_bank + (sum(counts.values()) - counts["subsets"]) * largest) * passes
    queries = min(len(targets), a.queries or len(targets))
    return {
        "pool_rows": len(ids),
        "queries": queries,
        "methods": len(method_names(resolved)),
        "models": sum(counts.values()),
        **counts,
        "kept": kept,
        "training_rows": rows,
        "planted_wrong": round(a.wrong * len(set(hashes))) if "wrong" in a.tests else 0,
        "planted_copies": min(a.duplicates, queries) if "duplicates" in a.tests else 0,
        "default_finetune": config.finetune is None,
        "seconds": _seconds(ws, rows),
    }


def _contents(inputs: Sequence[Input], role: str) -> set[int]:
    """Distinct contents of the data sets of one role."""
    return {
        content_id(content_hash(e.prompt, e.response))
        for i in inputs if i.role == role for e in i.examples
    }  # fmt: skip


def _seconds(ws: Workspace, rows: int) -> float | None:
    """Seconds of training on so many rows, as fast as the trainings that this workspace has recorded."""
    if not ws.exists():
        return None
    done = [c for c in read_costs(ws) if c["stage"] == "fine-tune" and c["computed"]]
    trained = sum(c["computed"] for c in done)
    return rows * sum(c["seconds"] for c in done) / trained if trained else None
