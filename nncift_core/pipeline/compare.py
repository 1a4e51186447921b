"""Methods beside each other: which rows each trains on, what they score, and what part of a gain is kept."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nncift_core.config import Config, run_key
from nncift_core.errors import HubUnreachable, UserError
from nncift_core.evaluation import METRICS
from nncift_core.evaluation import compare as compare_scores
from nncift_core.evaluation.intervals import ONE_SEED
from nncift_core.hashing import digest
from nncift_core.pipeline.downstream import check_student, draw_subsets, training_card
from nncift_core.pipeline.evaluation_tables import alike, by_mode, comparison_table, evaluation_table, stacked
from nncift_core.pipeline.inputs import check_devices, read_inputs
from nncift_core.pipeline.methods import SCORED, Method, check_methods, method_config, methods_of
from nncift_core.pipeline.problem import Keys, Problem, keys_of
from nncift_core.pipeline.scored import Scored
from nncift_core.pipeline.trials import HeldOutRows
from nncift_core.store.workspace import Workspace

logger = logging.getLogger(__name__)
Int64 = npt.NDArray[np.int64]

# Raise this when the same job would give another table.
VERSION = 1
FULL = "full"
AGAINST = "random"


def check_compare(config: Config) -> list[Method]:
    """The methods of a comparison; raises UserError where there would be nothing to compare."""
    if config.finetune is None:
        raise UserError(
            "is missing", field="finetune", mend="Add [finetune]: a comparison trains a model on each subset."
        )
    if not config.target.test:
        raise UserError(
            "no rows are held out, so that no model can be compared",
            field="target.test",
            mend='Name another split of target.source (test = "test"), or a file.',
        )
    return methods_of(config)


def compare_key(config: Config, data: dict[str, str], keys: Keys) -> str:
    """`run_id` of a comparison: hash of what decides its values. data: role and name -> version."""
    trained = run_key(config, data, keys.models())
    parts = []
    for method in methods_of(config):
        own = method_config(config, method)
        parts.append([method.name, run_key(own, data, keys_of(own).models())])
    return digest(["compare", VERSION, trained, parts, sorted(config.compare.rivals)])[:16]


def compare_series(config: Config, data: dict[str, str], keys: Keys) -> str:
    """What comparisons of one recurring job share, whatever the versions of its data."""
    return compare_key(config, dict.fromkeys(data, ""), keys)


def method_table(selection: pa.Table, method: str) -> pa.Table:
    """Rows of view `method_selection` from those of `selection`."""
    return selection.add_column(1, "method", pa.array([method] * len(selection), pa.string()))


def compared_config(config: Config) -> Config:
    """`config` whose evaluation has the rivals of the comparison that are drawn, and the base model."""
    drawn = [r for r in config.compare.rivals if r not in SCORED and r != FULL]
    evaluation = config.evaluation.model_copy(update={"subsets": drawn})
    return config.model_copy(update={"evaluation": evaluation})


def draw_compared(problem: Problem, run_id: str, chosen: Mapping[str, Int64]) -> pa.Table:
    """View `subsets` of a comparison: rows of every method and rival under every seed.

    chosen: method -> indices of pool rows [k], all of one length. Random subsets are as large; those of as
    many tokens follow the first method that is no rival, else the first one.
    """
    own = next((name for name in chosen if name not in SCORED), next(iter(chosen)))
    config = compared_config(problem.config)
    table = draw_subsets(replace(problem, config=config), run_id, chosen[own])
    parts = [table.filter(pc.not_equal(table["subset"], "selected"))]
    subsets = dict(chosen)
    if FULL in problem.config.compare.rivals:
        subsets[FULL] = np.arange(len(problem.pool.example_ids))
    for name, rows in subsets.items():
        for seed in config.training_seeds():
            ids = pa.array(problem.pool.example_ids[rows])
            columns = [
                pa.array([v] * len(ids), t) for v, t in ((run_id, pa.string()), (name, pa.string()),
                                                         (seed, pa.int64()))
            ]  # fmt: skip
            parts.append(pa.table([*columns, ids], names=table.column_names))
    return pa.concat_tables(parts)


def summary_rows(
    problem: Problem,
    run_id: str,
    scored: Sequence[Scored],
    methods: Sequence[Method],
    learned: Collection[str],
) -> list[dict[str, Any]]:
    """Rows of view `compare_summary`: every method and rival, mode, task and metric, against random rows.

    value, lower, upper: mean over seeds and held-out rows, its 90 % interval over both; gain: by how much it
    is better than random rows, over the seeds that both were trained with; kept: of a method of `learned`
    (names of those that estimated anything), its gain as a share of that of the same method with exact
    values, where that one is better than random beyond its interval.
    """
    held, rows = HeldOutRows.of(problem), []
    sizes = {(s.trial.cell.key, s.trial.mode): _size(problem, s) for s in scored}
    for mode, by_subset in by_mode(scored):
        for task, here in held.slices():
            for metric in sorted({m for found in by_subset.values() for s in found for m in s.values}):
                of = _of_metric(problem, mode, by_subset, here, metric)
                for row in of:
                    trials = [s.trial for s in by_subset[row["method"]]]
                    row |= _mean_size([sizes[t.cell.key, t.mode] for t in trials])
                keep_gain(of, [m for m in methods if m.name in learned])
                shared = {"run_id": run_id, "mode": mode, "task": task, "metric": metric}
                rows += [shared | row for row in of]
    return rows


def _of_metric(
    problem: Problem,
    mode: str,
    by_subset: Mapping[str, list[Scored]],
    here: npt.NDArray[np.bool_],
    metric: str,
) -> list[dict[str, Any]]:
    seed, higher = problem.config.seed, METRICS[metric].higher_is_better
    whole = {n: found for n, found in by_subset.items() if all(metric in s.values for s in found)}
    random, rows = whole.get(AGAINST), []
    for name, found in whole.items():
        own = stacked(found, metric, here)
        alone = compare_scores(own, np.zeros((1, own.shape[1])), True, seed)
        if not alone.n_rows:
            continue
        row = {"method": name, "value": alone.gain, "lower": _number(alone.lower)}
        row |= {"upper": _number(alone.upper), "n_seeds": len(own), "n_rows": alone.n_rows}
        row |= {"n_rows_left_out": own.shape[1] - alone.n_rows}
        row |= dict.fromkeys(("gain", "gain_lower", "gain_upper", "verdict", "kept"))
        if random is not None and name != AGAINST:
            sides = [stacked(side, metric, here) for side in alike(found, random, mode)]
            if all(len(side) for side in sides):
                said = compare_scores(sides[0], sides[1], higher, seed)
                row |= {"gain": said.gain, "gain_lower": _number(said.lower)}
                row |= {"gain_upper": _number(said.upper), "verdict": said.verdict}
        rows.append(row)
    return rows


def keep_gain(rows: list[dict[str, Any]], methods: Sequence[Method]) -> None:
    """Fill `kept` of estimated methods, in place, from the rows of one mode, task and metric."""
    by_name = {row["method"]: row for row in rows}
    for method in methods:
        row = by_name.get(method.name)
        exact = by_name.get(replace(method, values="exact").name)
        if method.values != "estimated" or row is None or exact is None or exact["verdict"] != "better":
            continue
        row["kept"] = row["gain"] / exact["gain"]


def _size(problem: Problem, scored: Scored) -> tuple[int, int | None]:
    """Rows and, where a model was trained, tokens of an epoch behind a trial."""
    rows = len(scored.trial.cell.rows)
    if scored.trial.mode != "finetune":
        return rows, None
    return rows, int(training_card(problem.ws, scored.trial.cell.key)["tokens"])


def _mean_size(sizes: Sequence[tuple[int, int | None]]) -> dict[str, float | None]:
    tokens = [t for _, t in sizes if t is not None]
    mean = float(np.mean(tokens)) if tokens else None
    return {"n_train": float(np.mean([n for n, _ in sizes])), "n_tokens": mean}


def kept_note(rows: Sequence[Mapping[str, Any]], methods: Sequence[Method]) -> str:
    """Why no share of an exact gain is told of estimates; empty where one is, or nothing was estimated."""
    if not any(m.values == "estimated" for m in methods) or any(r["kept"] is not None for r in rows):
        return ""
    names = {m.name for m in methods if m.values == "exact" and not m.rival}
    exact = [r for r in rows if r["method"] in names and r["task"] == "all"]
    if not exact:
        return "no method has exact values in the table: what estimates keep of their gain cannot be said"
    if all(r["gain"] is None for r in exact):
        return "no random rows stand in the table: there is no gain to keep"
    if all(r["verdict"] == ONE_SEED for r in exact):
        return "models of one seed give no verdict: whether there is a gain to keep cannot be said"
    return "no exact subset is better than random rows beyond its interval: there is no gain to keep"


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def overview(config: Config, workspace: str | Path) -> dict[str, Any]:
    """What a comparison would do, counted before anything starts: rows, methods, models.

    Nothing is fetched or written. Raises UserError as the comparison.
    """
    methods, rows = check_compare(config), {"pool": 0, "target": 0, "test": 0}
    inputs = read_inputs(config)
    check_devices(config)
    Workspace.check_usable(workspace)
    check_methods(config, methods, fetch=False)
    try:
        check_student(config, fetch=False)
    except HubUnreachable as e:
        logger.warning("%s", e)
    for found in inputs:
        if found.role in rows:
            rows[found.role] += len(found.examples)
    rivals = [r for r in config.compare.rivals if r not in SCORED]
    subsets = len(methods) + len([r for r in rivals if r != "base"])
    models = subsets * len(config.training_seeds())
    return {
        **{f"{role}_rows": n for role, n in rows.items()},
        "pairs": rows["pool"] * rows["target"],
        "methods": [m.name for m in methods],
        "rivals": rivals,
        "models": models,
        "selected_rows": config.selection.budget(rows["pool"]),
    }


def against_rows(
    problem: Problem, run_id: str, scored: Sequence[Scored], methods: Sequence[Method]
) -> list[dict[str, Any]]:
    """Rows of view `comparison`: every method against every other subset, per mode, task and metric."""
    rows = []
    for method in methods:
        if any(s.trial.cell.subset == method.name for s in scored):
            rows += comparison_table(problem, run_id, scored, ours=method.name, function=method.function)
    return rows


def scored_rows(
    problem: Problem, run_id: str, scored: Sequence[Scored], methods: Sequence[Method]
) -> list[dict[str, Any]]:
    """Rows of view `evaluation`: every model's means; `function` is the method's, NULL for other rivals."""
    functions = {m.name: m.function for m in methods}
    rows = evaluation_table(problem, run_id, scored)
    return [row | {"function": functions.get(row["subset"])} for row in rows]


def selections_table(problem: Problem, paths: Sequence[str]) -> pa.Table:
    """View `method_selection`: the stored selections of all methods in one table."""
    return pa.concat_tables([pq.read_table(problem.ws.root / path) for path in paths])
