"""`nncift plan`: what a run would do and cost; reads and validates, starts and writes nothing."""

from __future__ import annotations

import json
import logging
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

from nncift_core.config import Config
from nncift_core.errors import HubUnreachable
from nncift_core.hashing import content_hash
from nncift_core.pipeline.exact import label_counts
from nncift_core.pipeline.inputs import Input, read_inputs
from nncift_core.pipeline.problem import keys_of
from nncift_core.store.runs import read_costs
from nncift_core.store.workspace import Workspace

logger = logging.getLogger(__name__)

# Bytes per pair of a stored tile and per byte of text (zstd), as benchmarks/storage.py measures them.
TILE_BYTES_PER_PAIR = 4.2
TEXT_BYTES_STORED = 0.8


def plan(config: Config, workspace: str | Path) -> dict[str, Any]:
    """Counts and forecasts of a run over `workspace`, which need not exist.

    Keys: pool_rows, target_rows, rows_dropped, duplicates, pairs (rows x rows), exact_pairs
    (distinct contents that are labelled or audited), forecast_seconds (from the costs recorded in
    this workspace; None while a needed stage has none), forecast_disk_mb. Raises UserError as `run`,
    but a hub that cannot be reached only warns: nothing is needed from it yet.
    """
    inputs = read_inputs(config)
    try:
        keys_of(config)
    except HubUnreachable as e:
        logger.warning("%s", e)
    pool = [i for i in inputs if i.role == "pool"]
    targets = [i for i in inputs if i.role == "target"] or pool
    rows, columns = _contents([i for i in inputs if i.role != "target"]), _contents(targets)
    pool_rows, target_rows = (sum(len(i.examples) for i in side) for side in (pool, targets))
    pairs = len(rows) * len(columns)
    labelled = math.prod(label_counts(len(rows), len(columns), config.influence.label_fraction))
    everything = config.influence.label_fraction >= 1
    audit = 0 if everything else min(config.influence.audit_pairs, pairs - labelled)
    exact = labelled + audit
    items = {
        "ingest": sum(len(i.examples) for i in inputs),
        "embed": 0 if everything and config.influence.function == "delift" else len(rows | columns),
        "exact-influence": exact,
        "estimate-influence": 0 if everything else pairs,
        "select": pool_rows,
    }
    return {
        "pool_rows": pool_rows,
        "target_rows": target_rows,
        "rows_dropped": sum(len(i.report.dropped) for i in inputs),
        "duplicates": sum(i.report.duplicates for i in inputs),
        "pairs": pool_rows * target_rows,
        "exact_pairs": exact,
        "forecast_seconds": _seconds(items, Path(workspace)),
        "forecast_disk_mb": _disk_mb(config, inputs, len(rows | columns), exact, pairs, everything),
    }


def _contents(inputs: list[Input]) -> set[str]:
    return {content_hash(e.prompt, e.response) for i in inputs for e in i.examples}


def _seconds(items: dict[str, int], workspace: Path) -> float | None:
    """Unit costs of this workspace times the items of a run that computes everything anew."""
    ws = Workspace(workspace)
    if not ws.exists():
        return None
    seconds: dict[str, float] = defaultdict(float)
    computed: dict[str, int] = defaultdict(int)
    for cost in read_costs(ws):
        if cost["computed"]:
            seconds[cost["stage"]] += cost["seconds"]
            computed[cost["stage"]] += cost["computed"]
    needed = [stage for stage, n in items.items() if n]
    if any(not computed[stage] for stage in needed):
        return None
    fit = [c["seconds"] for c in read_costs(ws) if c["stage"] == "train-influence-network" and c["computed"]]
    total = sum(seconds[s] / computed[s] * items[s] for s in needed) + (max(fit, default=0.0))
    return round(total, 1)


def _disk_mb(
    config: Config, inputs: list[Input], contents: int, exact: int, pairs: int, everything: bool
) -> float:
    text = sum(
        len(e.prompt) + len(e.response) + len(json.dumps(e.record, default=str))
        for i in inputs
        for e in i.examples
    )
    vectors = 0 if everything and config.influence.function == "delift" else contents * _dimension(config) * 4
    values = (exact + (0 if everything else pairs)) * TILE_BYTES_PER_PAIR
    return round((text * TEXT_BYTES_STORED + vectors + values) / 1e6, 1)


def _dimension(config: Config) -> int:
    """Width of the embedding: from a local model's config.json, else that of the named kind."""
    if config.encoder.model == "builtin":
        return 384
    local = Path(config.encoder.model) / "config.json"
    if local.is_file():
        return int(json.loads(local.read_text(encoding="utf-8")).get("hidden_size", 1024))
    return 1024
