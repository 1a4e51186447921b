"""The rows of the views `evaluation`, `evaluation_rows` and `comparison`, from the scores of trials."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nncift_core.evaluation import METRICS, compare, mean_interval
from nncift_core.finetune import student_name
from nncift_core.pipeline.downstream import training_card
from nncift_core.pipeline.problem import Problem
from nncift_core.pipeline.scored import Scored
from nncift_core.pipeline.trials import HeldOutRows, Trial
from nncift_core.store.views import columns_table, rows_table

# Drawn anew for every seed; other subsets are the same under all of them.
DRAWN = ("random", "random-tokens")
# The first of these that was measured carries the answer in `evaluation_rows`.
_OF_ANSWERS = ("rouge1", "similarity", "exact", "judge")


def evaluation_table(
    problem: Problem, run_id: str, scored: Sequence[Scored], function: str | None = None
) -> list[dict[str, Any]]:
    """Rows of view `evaluation`: mean over held-out rows with its 90 % interval, per trial, task, metric.

    n_rows: rows that have a number, over which the mean is; without any, value is None. n_train: rows trained
    on or, in context, to take examples from, with n_tokens None. function: what chose, else the config's.
    """
    held, pool = HeldOutRows.of(problem), len(problem.pool.content_ids)
    rows = []
    for s in scored:
        n_train, n_tokens = _sizes(problem, s.trial)
        for task, here in held.slices():
            for metric, values in s.values.items():
                mine = values[here]
                mine = mine[np.isfinite(mine)]
                lower, upper = mean_interval(mine, problem.config.seed)
                rows.append(
                    {
                        **_shared(problem, run_id, s.trial),
                        "function": function or problem.config.influence.function,
                        "task": task,
                        "metric": metric,
                        "value": float(mine.mean()) if len(mine) else None,
                        "lower": _number(lower),
                        "upper": _number(upper),
                        "fraction": n_train / pool,
                        "n_train": n_train,
                        "n_tokens": n_tokens,
                        "n_rows": len(mine),
                    }
                )
    return rows


def _sizes(problem: Problem, trial: Trial) -> tuple[int, int | None]:
    """Rows behind a trial, and their tokens where a model was trained on them."""
    if trial.mode == "finetune":
        card = training_card(problem.ws, trial.cell.key)
        return card["rows"], card["tokens"]
    return (len(trial.cell.rows), None) if trial.mode == "icl" else (0, 0)


def evaluation_rows_table(problem: Problem, run_id: str, scored: Sequence[Scored]) -> pa.Table:
    """The view `evaluation_rows`: every held-out row's value in every trial and metric, null where it has
    none; the answer stands on one metric's rows only. Column by column: models times rows may be millions."""
    held = HeldOutRows.of(problem)
    task, target = pa.array(held.tasks.tolist(), pa.large_string()), pa.array(held.example_ids)
    silent = pa.nulls(len(target), pa.large_string())
    parts = []
    for s in scored:
        carrier = next((m for m in _OF_ANSWERS if m in s.values), None)
        for metric, values in s.values.items():
            answers = pa.array(s.generated, pa.large_string()) if metric == carrier else silent
            known = pa.array(values, pa.float64(), mask=~np.isfinite(values))
            own = {"task": task, "target_id": target, "value": known, "generated": answers}
            alike = {**_shared(problem, run_id, s.trial), "metric": metric}
            parts.append(columns_table("evaluation_rows", own, alike))
    return pa.concat_tables(parts) if parts else rows_table("evaluation_rows", [])


def comparison_table(
    problem: Problem,
    run_id: str,
    scored: Sequence[Scored],
    ours: str = "selected",
    function: str | None = None,
) -> list[dict[str, Any]]:
    """Rows of view `comparison`: the subset `ours` against every other, per mode, task and metric.

    The base model stands beside every mode. Rows are compared that have a number under every model of both
    sides, `n_rows` of them; where there are none, there is no row. In context nothing is trained, so between
    subsets that no seed draws the verdict rests on the held-out rows alone.
    """
    held, rows = HeldOutRows.of(problem), []
    for mode, by_subset in by_mode(scored):
        mine = by_subset.pop(ours, [])
        for against, theirs in by_subset.items():
            seeded = mode != "icl" or not {ours, against}.isdisjoint(DRAWN)
            for task, here in held.slices():
                for metric in mine[0].values if mine else ():
                    sides = alike(mine, theirs, mode)
                    if not all(sides):
                        continue
                    found = compare(
                        stacked(sides[0], metric, here),
                        stacked(sides[1], metric, here),
                        METRICS[metric].higher_is_better,
                        problem.config.seed,
                        seeded=seeded,
                    )
                    if not found.n_rows:
                        continue
                    rows.append(
                        {
                            **_shared(problem, run_id, mine[0].trial),
                            "function": function or problem.config.influence.function,
                            "against": against,
                            "task": task,
                            "metric": metric,
                            "value": found.value,
                            "against_value": found.against_value,
                            "gain": found.gain,
                            "lower": _number(found.lower),
                            "upper": _number(found.upper),
                            "n_seeds": found.n_seeds,
                            "n_rows": found.n_rows,
                            "verdict": found.verdict,
                        }
                    )
    return rows


def by_mode(scored: Sequence[Scored]) -> Iterator[tuple[str, dict[str, list[Scored]]]]:
    """Scores by subset, for every mode beside "base"; the base model first, as a rival."""
    base = [s for s in scored if s.trial.mode == "base"]
    for mode in dict.fromkeys(s.trial.mode for s in scored if s.trial.mode != "base"):
        found: dict[str, list[Scored]] = {}
        for s in [*base, *(s for s in scored if s.trial.mode == mode)]:
            found.setdefault(s.trial.cell.subset, []).append(s)
        yield mode, found


def alike(ours: Sequence[Scored], theirs: Sequence[Scored], mode: str) -> tuple[list[Scored], list[Scored]]:
    """Both sides of a comparison in the order of the seeds that both were trained with, which are paired.

    Where a model of one side was lost, its seed is left out on the other. A side that nothing was trained for
    (the base model, examples in context) stays whole.
    """
    found = [{s.trial.cell.seed: s for s in side} for side in (ours, theirs)]
    if mode != "finetune" or any(None in side for side in found):
        return list(ours), list(theirs)
    shared = [seed for seed in found[0] if seed in found[1]]
    return [found[0][s] for s in shared], [found[1][s] for s in shared]


def stacked(scored: Sequence[Scored], metric: str, here: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """A metric's values [S, n] of S trials on the held-out rows that `here` marks; NaN where one has none.

    Raises KeyError where a trial was not asked for the metric.
    """
    return np.stack([s.values[metric][here] for s in scored])


def _shared(problem: Problem, run_id: str, trial: Trial) -> dict[str, Any]:
    return {
        "run_id": run_id,
        "subset": trial.cell.subset,
        "model": student_name(problem.config),
        "mode": trial.mode,
        "seed": trial.cell.seed,
    }


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
