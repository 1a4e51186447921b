"""Held-out rows under every model of a comparison: scores, their intervals, and who did better."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from nncift_core.evaluation import METRICS, HeldOut, RowScores, compare, mean_interval, score_rows
from nncift_core.finetune import WEIGHTS, load_fine_tuned, load_student, settings, student_name
from nncift_core.hashing import digest
from nncift_core.pipeline.downstream import Cell, training_card
from nncift_core.pipeline.problem import Problem
from nncift_core.store.datasets import Dataset
from nncift_core.store.files import publish
from nncift_core.store.runs import intact

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
VERSION = 1
# Loading sets the process's default dtype for a moment: two threads must not.
_LOADING = threading.Lock()


@dataclass(frozen=True, eq=False)
class HeldOutRows:
    """The rows of `target.test` [n]: identities, contents and tasks."""

    example_ids: Int64
    content_ids: Int64
    tasks: npt.NDArray[np.str_]

    @classmethod
    def of(cls, problem: Problem) -> HeldOutRows:
        """All held-out rows of a job; none gives empty arrays."""
        sets = problem.of_role("test")
        if not sets:
            return cls(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.str_))
        return cls(
            np.concatenate([d.example_ids for d in sets]),
            np.concatenate([d.content_ids for d in sets]),
            np.array([t for d in sets for t in d.tasks()], dtype=np.str_),
        )

    def slices(self) -> Iterator[tuple[str, npt.NDArray[np.bool_]]]:
        """ "all" and, where there are several, each task, with its rows [n], one for each distinct text.

        A second row of a text has the same scores, so it would only feign more evidence.
        """
        yield "all", self._once(np.ones(len(self.tasks), dtype=bool))
        names = sorted(set(self.tasks.tolist()))
        if len(names) > 1:
            for name in names:
                yield "all (task)" if name == "all" else name, self._once(self.tasks == name)

    def _once(self, here: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """`here` [n] without the rows whose text an earlier one of them has."""
        at = np.flatnonzero(here)
        _, first = np.unique(self.content_ids[at], return_index=True)
        once = np.zeros(len(here), dtype=bool)
        once[at[first]] = True
        return once


def overlap(problem: Problem) -> dict[str, int]:
    """Held-out rows whose text is also in the pool, or among the rows valued against."""
    rows = HeldOutRows.of(problem)
    return {
        "test_rows": len(rows.content_ids),
        "test_rows_repeated": len(rows.content_ids) - len(np.unique(rows.content_ids)),
        "test_rows_in_pool": int(np.isin(rows.content_ids, problem.pool.content_ids).sum()),
        "test_rows_in_target": int(np.isin(rows.content_ids, problem.target_contents).sum()),
    }


def evaluation_key(problem: Problem, cell: Cell) -> str:
    """Identity of one model's scores: the model, the held-out contents, metrics and how answers are made."""
    e = problem.config.evaluation
    contents = np.unique(HeldOutRows.of(problem).content_ids).tolist()
    answers = e.max_new_tokens if "rouge" in e.metrics else None
    template = settings(problem.config).template
    return digest(["evaluate", VERSION, cell.key, template, sorted(e.metrics), answers, contents])


def is_evaluated(problem: Problem, cell: Cell) -> bool:
    """Whether a model's scores are there, whole."""
    path = problem.ws.evaluation_file(evaluation_key(problem, cell))
    return intact(problem.ws, problem.ws.relative(path))


def evaluate_cell(
    problem: Problem, cell: Cell, device: str, progress: Callable[[int], None] | None = None
) -> int:
    """Score the held-out rows under one model and publish them; returns the number of distinct texts."""
    config, ws = problem.config, problem.ws
    folder = ws.adapter_dir(cell.key)
    with _LOADING:
        base = cell.seed is None
        model = load_student(config, device) if base else load_fine_tuned(config, folder, device)
    parent = f"model:{cell.key}" if base else ws.relative(folder / WEIGHTS)
    contents = np.unique(HeldOutRows.of(problem).content_ids)
    texts = _texts(problem.of_role("test"), contents)
    e = config.evaluation
    scores = score_rows(
        model,
        HeldOut(*texts),
        settings(config).template,
        e.metrics,
        max_new_tokens=e.max_new_tokens,
        batch_tokens=e.batch_tokens,
        progress=progress,
    )
    table = _scores_table(contents, scores)
    publish(
        ws.root,
        ws.evaluation_file(evaluation_key(problem, cell)),
        lambda part: pq.write_table(table, part, compression="zstd"),
        kind="evaluation-scores",
        key=evaluation_key(problem, cell),
        rows=len(table),
        producer="evaluate",
        parents=(parent, *(d.ref.path for d in problem.of_role("test"))),
        meta=scores.counts,
    )
    return len(contents)


def _texts(sets: Sequence[Dataset], contents: Int64) -> tuple[tuple[str, ...], tuple[str, ...]]:
    found: dict[int, tuple[str, str]] = {}
    for dataset in sets:
        here = contents[np.isin(contents, dataset.contents)]
        t = dataset.texts(here)
        found.update(zip(here.tolist(), zip(t.prompts, t.responses, strict=True), strict=True))
    pairs = [found[c] for c in contents.tolist()]
    return tuple(p for p, _ in pairs), tuple(r for _, r in pairs)


def _scores_table(contents: Int64, scores: RowScores) -> pa.Table:
    generated = scores.generated if scores.generated is not None else [None] * len(contents)
    columns: dict[str, Any] = {"content_id": pa.array(contents), **scores.values}
    return pa.table({**columns, "generated": pa.array(list(generated), pa.large_string())})


@dataclass(frozen=True, eq=False)
class Scored:
    """A model's scores on every held-out row: metric -> [n]; its answers [n]; what was cut or counted."""

    cell: Cell
    values: dict[str, Float64]
    generated: list[str | None]
    path: str


def read_scores(problem: Problem, cell: Cell) -> Scored:
    """The published scores of one model, spread from texts to rows."""
    path = problem.ws.evaluation_file(evaluation_key(problem, cell))
    table = pq.read_table(path)
    at = np.searchsorted(table["content_id"].to_numpy(), HeldOutRows.of(problem).content_ids)
    metrics = [name for name in table.column_names if name in METRICS]
    return Scored(
        cell,
        {m: table[m].to_numpy()[at] for m in metrics},
        table["generated"].take(pa.array(at)).to_pylist(),
        problem.ws.relative(path),
    )


def evaluation_table(problem: Problem, run_id: str, scored: Sequence[Scored]) -> list[dict[str, Any]]:
    """Rows of view `evaluation`: mean over held-out rows with its 90 % interval, per model, task, metric."""
    held, pool = HeldOutRows.of(problem), len(problem.pool.content_ids)
    rows = []
    for s in scored:
        trained = (
            training_card(problem.ws, s.cell.key) if s.cell.seed is not None else {"rows": 0, "tokens": 0}
        )
        for task, here in held.slices():
            for metric, values in s.values.items():
                lower, upper = mean_interval(values[here], problem.config.seed)
                rows.append(
                    {
                        **_shared(problem, run_id, s.cell),
                        "function": problem.config.influence.function,
                        "task": task,
                        "metric": metric,
                        "value": float(values[here].mean()),
                        "lower": _number(lower),
                        "upper": _number(upper),
                        "fraction": trained["rows"] / pool,
                        "n_train": trained["rows"],
                        "n_tokens": trained["tokens"],
                        "n_rows": int(here.sum()),
                    }
                )
    return rows


def evaluation_rows_table(problem: Problem, run_id: str, scored: Sequence[Scored]) -> list[dict[str, Any]]:
    """Rows of view `evaluation_rows`: every held-out row's value under every model and metric."""
    held = HeldOutRows.of(problem)
    return [
        {
            **_shared(problem, run_id, s.cell),
            "task": task,
            "target_id": target,
            "metric": metric,
            "value": value,
            "generated": answer if metric == "rouge1" else None,
        }
        for s in scored
        for metric, values in s.values.items()
        for task, target, value, answer in zip(
            held.tasks.tolist(), held.example_ids.tolist(), values.tolist(), s.generated, strict=True
        )
    ]


def comparison_table(problem: Problem, run_id: str, scored: Sequence[Scored]) -> list[dict[str, Any]]:
    """Rows of view `comparison`: the selected subset against every other, per task and metric."""
    held = HeldOutRows.of(problem)
    by_subset: dict[str, list[Scored]] = {}
    for s in scored:
        by_subset.setdefault(s.cell.subset, []).append(s)
    ours = by_subset.pop("selected")
    rows = []
    for against, theirs in by_subset.items():
        for task, here in held.slices():
            for metric in ours[0].values:
                found = compare(
                    np.stack([s.values[metric][here] for s in ours]),
                    np.stack([s.values[metric][here] for s in theirs]),
                    METRICS[metric].higher_is_better,
                    problem.config.seed,
                )
                rows.append(
                    {
                        **_shared(problem, run_id, ours[0].cell),
                        "function": problem.config.influence.function,
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


def _shared(problem: Problem, run_id: str, cell: Cell) -> dict[str, Any]:
    return {
        "run_id": run_id,
        "subset": cell.subset,
        "model": student_name(problem.config),
        "mode": "base" if cell.seed is None else "finetune",
        "seed": cell.seed,
    }


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
