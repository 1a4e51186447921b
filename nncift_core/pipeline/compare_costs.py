"""What every method costs, stage by stage, and from which pool size on estimating pays.

A stage that found its values stored costs nothing that day, so a method's price is the measured seconds of
one item times the items that it needs. Seconds of an item come from every stage of this run that did the same
work (for embeddings, of all methods; for what estimators read of a language model, of those with the same
teacher; else, of the methods with the same function and teacher), and where this run computed none, from
other runs with the same models and settings.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from nncift_core.pipeline.methods import Method

# Stages whose work grows with the pool; the others are paid once.
GROWING = ("embed", "features", "estimator-features", "exact-influence", "estimate-influence", "select")

# As a table of costs groups the stages.
COST_GROUPS = {
    "embeddings": ("embed",),
    "features": ("prepare-function", "features", "estimator-features"),
    "labels": ("exact-influence",),
    "fit": ("train-influence-network", "assess-estimator", "fit-baseline"),
    "prediction": ("estimate-influence",),
    "selection": ("select",),
}


def split_stage(stage: str) -> tuple[str, str]:
    """ "exact-influence (less, exact)" -> ("exact-influence", "less, exact")."""
    name, _, method = stage.partition(" (")
    return name, method.removesuffix(")")


def same_prices(recorded: dict[str, Any], config: dict[str, Any]) -> bool:
    """Whether an item cost a recorded run what it costs under `config`: models and settings of functions."""
    labels = (
        "function",
        "labels",
        "label_fraction",
        "block_ratio",
        "audit_pairs",
        "refine_pairs",
        "refine_rounds",
    )

    def priced(c: dict[str, Any]) -> list[Any]:
        influence = {k: v for k, v in c.get("influence", {}).items() if k not in labels}
        matrix = c.get("shards", {}).get("store_matrix")
        return [
            c.get("language_model"),
            c.get("encoder"),
            influence,
            matrix,
            c.get("compare", {}).get("teachers"),
        ]

    return priced(recorded) == priced(config)


def cost_rows(
    costs: Sequence[dict[str, Any]],
    methods: Sequence[Method],
    run_id: str,
    others: Collection[str] = (),
) -> list[dict[str, Any]]:
    """Rows of view `method_costs`, without run_id: items of every stage of a method and what they cost.

    costs: those of the workspace (`store.runs.read_costs`); others: runs of `same_prices`. seconds: measured
    in this run, over all its attempts; full_seconds: if nothing had been stored, None where no stage of the
    kind was ever measured.
    """
    by_name = {m.name: m for m in methods}
    spent: dict[bool, dict[tuple[str, ...], list[float]]] = {
        mine: defaultdict(lambda: [0.0, 0.0]) for mine in (True, False)
    }
    own: dict[tuple[str, str], dict[str, Any]] = {}
    for c in costs:
        stage, name = split_stage(c["stage"])
        method = by_name.get(name)
        if method is None:
            continue
        unit = spent[c["run_id"] == run_id][_work(stage, method)]
        if c["computed"] and c["run_id"] in (run_id, *others):
            unit[0], unit[1] = unit[0] + c["seconds"], unit[1] + c["computed"]
        if c["run_id"] == run_id:
            row = own.setdefault((name, stage), {"items": 0, "computed": 0, "seconds": 0.0})
            row["items"] = max(row["items"], c["items"])
            row["computed"] += c["computed"]
            row["seconds"] += c["seconds"]
    found = []
    for (name, stage), row in own.items():
        work = _work(stage, by_name[name])
        full = _full(spent[True][work] if spent[True][work][1] else spent[False][work], row)
        found.append({"method": name, "stage": stage, **row, "full_seconds": full})
    return found


def _work(stage: str, method: Method) -> tuple[str, ...]:
    if stage == "embed":
        return (stage,)
    if stage == "estimator-features":
        return (stage, method.teacher)
    # Where estimates are not stored they are made while rows are selected.
    return (stage, method.function, method.teacher, *([method.values] if stage == "select" else []))


def _full(spent: list[float], row: dict[str, Any]) -> float | None:
    if not row["items"]:
        return 0.0
    return spent[0] / spent[1] * row["items"] if spent[1] else None


def method_seconds(rows: Sequence[dict[str, Any]], name: str) -> float | None:
    """Seconds of a method if nothing had been stored; None where one of its stages was never measured."""
    found = [r["full_seconds"] for r in rows if r["method"] == name]
    return None if not found or None in found else math.fsum(found)


def break_even(rows: Sequence[dict[str, Any]], exact: str, estimated: str, pool_rows: int) -> float | None:
    """Pool rows from which on the method `estimated` costs less than `exact`; inf: never; None: not measured.

    Labels, features, embeddings and predictions grow with the pool, fits and one-time work do not:
    M* = (fixed of estimated - fixed of exact) / (slope of exact - slope of estimated), 1 at least.
    """
    if None in (method_seconds(rows, exact), method_seconds(rows, estimated)):
        return None
    fixed, slope = {}, {}
    for name in (exact, estimated):
        mine = [r for r in rows if r["method"] == name]
        fixed[name] = math.fsum(r["full_seconds"] for r in mine if r["stage"] not in GROWING)
        slope[name] = math.fsum(r["full_seconds"] for r in mine if r["stage"] in GROWING) / pool_rows
    saved = slope[exact] - slope[estimated]
    if saved <= 0:
        return math.inf
    return max(1.0, (fixed[estimated] - fixed[exact]) / saved)


def grouped(rows: Sequence[dict[str, Any]], name: str) -> dict[str, float | None]:
    """Seconds of a method by group of `COST_GROUPS`; groups that it has no stage in are left out."""
    found: dict[str, float | None] = {}
    for group, stages in COST_GROUPS.items():
        mine = [r["full_seconds"] for r in rows if r["method"] == name and r["stage"] in stages]
        if mine:
            found[group] = None if None in mine else math.fsum(mine)
    return found


def method_rows(
    methods: Sequence[Method],
    about: Sequence[dict[str, Any]],
    costs: Sequence[dict[str, Any]],
    failed: Mapping[str, str],
    pool_rows: int,
) -> list[dict[str, Any]]:
    """Rows of view `methods`, without run_id: how each got its values, what it cost; of a failed one, why.

    about: what is known of the methods that worked, by column; costs: as `cost_rows` gives them.
    """
    known, rows = {row["method"]: row for row in about}, []
    for m in methods:
        row = known.get(m.name) or {"method": m.name, "function": m.function, "origin": m.values}
        exact, why = replace(m, values="exact"), failed.get(m.name)
        both = m.values == "estimated" and exact in methods and exact.name not in failed
        even = break_even(costs, exact.name, m.name, pool_rows) if both and not why else None
        never = even is not None and math.isinf(even)
        rows.append({
            **dict.fromkeys(_METHOD), **row, "rival": bool(m.rival), "failed": why,
            "seconds": None if why else method_seconds(costs, m.name),
            "break_even_rows": None if never else even, "never_pays": never,
        })  # fmt: skip
    return rows


_METHOD = (
    "teacher", "rule", "pairs", "exact_pairs", "predictor", "verdict", "reason", "budget", "objective",
    "positive_gain", "tied_steps",
)  # fmt: skip
