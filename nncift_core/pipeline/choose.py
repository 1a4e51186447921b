"""From the completed matrix to scores, a subset, and the subset in the shape of the user's file."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from nncift_core.hashing import hash_rank
from nncift_core.influence.contract import Float32, InfluenceFunction
from nncift_core.pipeline.matrix import open_matrix, scaled_tiles
from nncift_core.pipeline.overview import Overview, OverviewCollector
from nncift_core.pipeline.problem import Problem
from nncift_core.selection import RULES, NonNegative, Selection
from nncift_core.selection.at_scale import ScaleOptions, facility_location_at_scale
from nncift_core.selection.kernels import TileRows
from nncift_core.store.datasets import Dataset
from nncift_core.store.files import publish
from nncift_core.store.matrix import MatrixReader, RowBlock
from nncift_core.store.references import EstimatorRef
from nncift_core.store.workspace import Workspace

Int64 = npt.NDArray[np.int64]
# Beyond so much, a matrix is not written down for a rule that reads it more than once.
SCRATCH_BYTES = 32 << 30
SELECTION_SCHEMA = pa.schema(
    [
        ("run_id", pa.string()),
        ("rank", pa.int64()),
        ("train_id", pa.int64()),
        ("gain", pa.float64()),
        ("score", pa.float64()),
    ]
)


@dataclass(frozen=True)
class Choice:
    """The subset and what it was chosen by.

    order [k]: indices of pool rows, best first; gains [k]; scores [M, T]: mean influence of every pool
    row per target task; exact_rows [M]: whether all of a row's values are exact; facts: what a report
    should say (rule, budget, picks with positive gain, ties, scaling); overview: of the whole matrix.
    """

    order: Int64
    gains: npt.NDArray[np.float64]
    scores: Float32
    exact_rows: npt.NDArray[np.bool_]
    facts: dict[str, Any]
    overview: Overview

    @property
    def score(self) -> Float32:
        """One score per pool row: its best task's (LESS, methods.md 1.5); with one task, that task's."""
        best: Float32 = self.scores.max(axis=1)
        return best


def choose(
    problem: Problem,
    function: InfluenceFunction,
    ref: EstimatorRef | None,
    progress: Callable[[int], None] | None = None,
) -> Choice:
    """Score every pool row and pick the subset by the configured rule (design decision 6).

    progress: told of the pairs of every block that was read.

    A rule that reads the matrix finds it in a file-backed array of rows x target rows, never in memory; one
    of more than `SCRATCH_BYTES` is computed again where it is read.
    """
    rule = problem.config.resolve_rule()
    with tempfile.TemporaryDirectory(dir=problem.ws.tmp_dir) as scratch:
        collected = _Collector(problem, function, open_matrix(problem, ref), Path(scratch))
        for block in collected.reader:
            collected.add(block)
            if progress is not None:
                progress(block.values.size)
        selection, facts = _apply_rule(problem, rule, collected)
    facts |= {
        "rule": rule,
        "budget": len(selection.order),
        "candidates": len(problem.pool.content_ids),
        "positive_gain": selection.positive,
        "tied_steps": selection.ties,
        "objective": selection.objective,
        "scores_note": _scores_note(collected.scores),
        "count_note": _count_note(problem, len(selection.order)),
        "exact_pairs_used": collected.exact_pairs,
    }
    overview = collected.overview.result()
    return Choice(selection.order, selection.gains, collected.scores, collected.exact_rows, facts, overview)


class _Collector:
    """Expands blocks of contents to rows: scores of the pool, candidates' and existing rows' values."""

    def __init__(
        self, problem: Problem, function: InfluenceFunction, reader: MatrixReader, scratch: Path
    ) -> None:
        self.problem, self.function, self.reader = problem, function, reader
        self.columns = problem.column_of_target
        self.pool = _Expansion(problem.pool.content_ids)
        existing = problem.of_role("existing")
        self.old = _Expansion(existing[0].content_ids if existing else np.empty(0, np.int64))
        shape = (len(problem.pool.content_ids), len(self.columns))
        self.scores = np.zeros((shape[0], len(problem.task_names)), np.float32)
        self.exact_rows = np.zeros(shape[0], bool)
        needs_matrix = RULES[problem.config.resolve_rule()].reads == "matrix"
        needs_matrix &= 4 * shape[0] * shape[1] <= SCRATCH_BYTES
        self.candidates = np.memmap(scratch / "pool", np.float32, "w+", shape=shape) if needs_matrix else None
        self.existing = np.full((len(self.old), shape[1]), np.nan, np.float32)
        self.low, self.high, self.exact_pairs = np.inf, -np.inf, 0
        self.overview = OverviewCollector(*shape)

    def add(self, block: RowBlock) -> None:
        values = block.values[:, self.columns]
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))
        self.exact_pairs += int(block.exact.sum())
        at, rows = self.pool.rows_of(block.row_ids)
        all_exact: npt.NDArray[np.bool_] = np.all(block.exact, axis=1)
        scores = self.function.aggregate(values, self.problem.task_of_target)
        self.scores[rows] = scores[at]
        self.exact_rows[rows] = all_exact[at]
        first, place = np.unique(at, return_index=True)
        self.overview.add(rows[place], values[first], block.exact[first][:, self.columns])
        if self.candidates is not None:
            self.candidates[rows] = values[at]
        at, rows = self.old.rows_of(block.row_ids)
        self.existing[rows] = values[at]


class _Expansion:
    """From content ids to the rows that hold them (duplicates are rows of their own)."""

    def __init__(self, content_ids: Int64) -> None:
        self.order = np.argsort(content_ids, kind="stable")
        self.sorted = content_ids[self.order]

    def __len__(self) -> int:
        return len(self.order)

    def rows_of(self, contents: Int64) -> tuple[Int64, Int64]:
        """For every row that holds one of `contents` [r]: index into `contents`, row number."""
        low = np.searchsorted(self.sorted, contents, "left")
        counts = np.searchsorted(self.sorted, contents, "right") - low
        at = np.repeat(np.arange(len(contents)), counts)
        offset = np.arange(len(at)) - np.repeat(np.cumsum(counts) - counts, counts)
        return at, self.order[np.repeat(low, counts) + offset]


def _apply_rule(problem: Problem, name: Any, c: _Collector) -> tuple[Selection, dict[str, Any]]:
    rule = RULES[name]
    budget = problem.config.selection.budget(len(problem.pool.content_ids))
    if rule.reads == "scores":
        ranks = hash_rank(problem.pool.example_ids, problem.config.seed, "tie")
        return rule.select(c.scores.max(axis=1), budget, ranks), {}
    scaling = NonNegative(c.low, c.high)
    settings = problem.config.selection
    given: dict[str, Any] = {p: getattr(settings, p) for p in rule.parameters}
    if rule.existing:
        given["existing"] = scaling.apply(c.existing).T
    neighbours = min(ScaleOptions().neighbours, len(problem.pool.content_ids))
    found = facility_location_at_scale(
        _similarity(c, scaling),
        budget,
        objective=name,
        mode=settings.mode,
        options=ScaleOptions(seed=problem.config.seed, neighbours=neighbours),
        **given,
    )
    facts = {"scaled_from": [scaling.minimum, scaling.maximum], "selection_mode": found.mode}
    facts |= {p: getattr(settings, p) for p in rule.parameters}
    return found, facts | {"selection_gap": found.gap, "selection_note": _note(found)}


def _scores_note(scores: Float32) -> str:
    """What to tell where nothing seems to help; empty otherwise."""
    best = float(scores.max())
    if best > 0:
        return ""
    return f"no pool row has a mean influence above 0 on any target task; the best has {best:.3g}"


def _count_note(problem: Problem, picked: int) -> str:
    asked = problem.config.selection.count
    if asked is None or asked <= picked:
        return ""
    return f"selection.count asks for {asked:,} rows; the pool has {picked:,}, and all were taken"


def _note(found: Selection) -> str:
    """What to tell of an approximate selection; empty for an exact one."""
    if found.mode == "exact":
        return ""
    gap = "" if found.gap is None else f": {found.gap:.2%} below exact greedy on a part that both can do"
    return f"facility location was maximised approximately ({found.mode}){gap}"


def _similarity(c: _Collector, scaling: NonNegative) -> npt.NDArray[Any] | TileRows:
    """Influence >= 0, [represented, candidate], from the scratch file or, beyond it, made when it is read."""
    if c.candidates is not None:
        for start in range(0, len(c.candidates), 4096):
            part = c.candidates[start : start + 4096]
            scaling.apply(part, part)
        return c.candidates.T
    return scaled_tiles(c.reader, c.problem.pool.content_ids, c.columns, scaling)


def selection_table(run_id: str, choice: Choice, pool: Dataset) -> pa.Table:
    """View `selection`: rank 1 is the first pick."""
    k = len(choice.order)
    return pa.table(
        [
            pa.array([run_id] * k, pa.string()),
            pa.array(np.arange(1, k + 1)),
            pa.array(pool.example_ids[choice.order]),
            pa.array(choice.gains),
            pa.array(choice.score[choice.order].astype(np.float64)),
        ],
        schema=SELECTION_SCHEMA,
    )


def selected_rows(problem: Problem, path: str) -> Int64:
    """Indices of pool rows [k] in a stored selection, best first."""
    table = pq.read_table(problem.ws.root / path, columns=["rank", "train_id"]).sort_by("rank")
    place = {e: k for k, e in enumerate(problem.pool.example_ids.tolist())}
    return np.array([place[i] for i in table["train_id"].to_pylist()], dtype=np.int64)


def read_choice(problem: Problem, tables: dict[str, str]) -> tuple[Float32, Int64, npt.NDArray[np.bool_]]:
    """Of a stored selection: every pool row's score [M] (its best task's), the order [k] of the chosen rows,
    and whether all values behind a score are exact [M]."""
    found = pq.read_table(problem.ws.root / tables["scores"], columns=["train_id", "score", "origin"])
    place = {e: k for k, e in enumerate(problem.pool.example_ids.tolist())}
    at = np.array([place[i] for i in found["train_id"].to_pylist()], np.int64)
    scores = np.full(len(place), -np.inf, np.float32)
    np.maximum.at(scores, at, found["score"].to_numpy().astype(np.float32))
    exact = np.zeros(len(place), bool)
    exact[at] = np.array(found["origin"].to_pylist()) == "exact"
    return scores, selected_rows(problem, tables["selection"]), exact


def scores_table(run_id: str, problem: Problem, choice: Choice, learned: bool = True) -> pa.Table:
    """View `scores`: one row per pool row and target task; learned: by an estimator, not by a baseline."""
    rows, tasks = choice.scores.shape
    variant = "value" if problem.config.pointwise else "mean"
    origin = np.where(choice.exact_rows, "exact", "estimated" if learned else "baseline")
    return pa.table(
        {
            "run_id": pa.array([run_id] * (rows * tasks), pa.string()).dictionary_encode(),
            "function": pa.array([problem.config.influence.function] * (rows * tasks)).dictionary_encode(),
            "task": pa.array(np.repeat(problem.task_names, rows).tolist(), pa.string()).dictionary_encode(),
            "variant": pa.array([variant] * (rows * tasks)).dictionary_encode(),
            "seed": pa.array(np.full(rows * tasks, problem.config.seed, np.int64)),
            "origin": pa.array(np.tile(origin, tasks).tolist(), pa.string()).dictionary_encode(),
            "train_id": pa.array(np.tile(problem.pool.example_ids, tasks)),
            "score": pa.array(choice.scores.T.ravel().astype(np.float64)),
        }
    )


def _free(name: str, taken: set[str]) -> str:
    """`name`, with "nncift_" before it until no key of the user's is called so."""
    while name in taken:
        name = f"nncift_{name}"
    return name


def write_subset(
    ws: Workspace, path: Path, pool: Dataset, choice: Choice, *, key: str, parents: tuple[str, ...]
) -> None:
    """`subset.jsonl`: the user's own rows, best first, plus rank, gain and score.

    Where the user's rows have such a key already, ours is called nncift_rank, nncift_gain, nncift_score.
    """
    records = [json.loads(r) for r in pool.records(choice.order)]
    taken = {key for record in records for key in record}
    names = [_free(name, taken) for name in ("rank", "gain", "score")]
    scores = choice.score[choice.order].astype(np.float64).tolist()
    values = zip(range(1, len(records) + 1), choice.gains.tolist(), scores, strict=True)

    def write(part: Path) -> None:
        with part.open("w", encoding="utf-8") as f:
            for record, row in zip(records, values, strict=True):
                line = {**record, **dict(zip(names, row, strict=True))}
                f.write(json.dumps(line, ensure_ascii=False) + "\n")

    publish(
        ws.root, path, write, kind="subset", key=key, rows=len(records), producer="select", parents=parents
    )
