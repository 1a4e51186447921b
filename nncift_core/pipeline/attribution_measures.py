"""The numbers of an audit: every method's values against the models' losses and the planted rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nncift_core.attribution import (
    Measured,
    auc,
    copies_found,
    lds,
    removal_effect,
    seed_agreement,
    subset_sums,
)
from nncift_core.config import Config
from nncift_core.functions import CATALOGUE
from nncift_core.hashing import hash_rank
from nncift_core.pipeline.attribution import (
    RANDOM,
    Trained,
    audit_methods,
    content_index,
    queries,
    query_tasks,
    row_means,
)
from nncift_core.pipeline.attribution_data import Planted
from nncift_core.pipeline.attribution_losses import loss_matrix, read_losses
from nncift_core.pipeline.downstream import Cell
from nncift_core.pipeline.matrix import open_matrix
from nncift_core.pipeline.problem import ALL_TASKS, Problem
from nncift_core.store.references import EstimatorRef

Float64 = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]
Rows = list[dict[str, Any]]

POINTWISE_NOTE = "one value per row, used for every query"


@dataclass(frozen=True)
class Subject:
    """A method as the tables name it. values: "exact", "estimated" or "baseline"."""

    method: str
    function: str
    values: str
    pointwise: bool


def subjects(config: Config) -> list[Subject]:
    """Who is measured, in the order of `attribution.method_names`."""
    found = [
        Subject(
            m.name, m.function, "baseline" if m.rival else m.values,
            CATALOGUE[m.function].kind == "pointwise",
        )
        for m in audit_methods(config)
    ]  # fmt: skip
    if RANDOM in config.audit.baselines:
        found.append(Subject(RANDOM, RANDOM, "baseline", False))
    return found


def dense_values(problem: Problem, ref: EstimatorRef | None, wanted: Int64) -> Float32:
    """Values [M, Q] of a valued job: rows in the order of `pool.contents`, columns of the `wanted` queries
    [Q]; the one column of a pointwise function for each of them."""
    contents = problem.pool.contents
    reader = open_matrix(problem, ref)
    place = {c: k for k, c in enumerate(reader.columns.tolist())}
    columns = np.zeros(len(wanted), np.int64)
    if not problem.config.pointwise:
        columns = np.array([place[c] for c in wanted.tolist()], np.int64)
    row = {c: k for k, c in enumerate(contents.tolist())}
    found = np.full((len(contents), len(wanted)), np.nan, np.float32)
    for block in reader:
        here = np.isin(block.row_ids, contents)
        at = [row[c] for c in block.row_ids[here].tolist()]
        found[at] = block.values[here][:, columns]
    return found


def random_values(contents: Int64, wanted: Int64, seed: int) -> Float32:
    """Values [M, Q] in 0..1 by hash rank of row and query contents."""
    ranks = hash_rank(contents[:, None], seed, "audit-random", wanted[None, :])
    return (ranks / float(2**64)).astype(np.float32)


class Measures:
    """Rows of the view `attribution` for the methods of one audit, without run_id.

    problem: under `audit_config`; sets: rows that models were trained on, and what for; cells: their models,
    one of every seed, whose losses are all there.
    """

    def __init__(self, problem: Problem, cells: Sequence[Cell], sets: Sequence[Trained]) -> None:
        self.problem, self.config = problem, problem.config
        self.cells, self.sets = cells, sets
        self.tasks = np.array(query_tasks(problem), dtype=np.str_)
        self._lost: dict[tuple[str, ...], Float64] = {}
        self.index = content_index(problem)

    def losses(self, names: Sequence[str]) -> Float64:
        """[s, len(names), Q]."""
        key = tuple(names)
        if key not in self._lost:
            self._lost[key] = loss_matrix(self.problem, self.cells, names)
        return self._lost[key]

    def of_bank(self, subject: Subject, values: Float32) -> Rows:
        """LDS over all queries and per task. values [M, Q]: as `dense_values` gives them."""
        subsets = [s for s in self.sets if s.kind == "subset"]
        if len(subsets) < 2:
            return []
        losses = self.losses([s.name for s in subsets]).mean(axis=0)
        size = len(self.problem.pool.contents)
        counts = np.stack([np.bincount(self.index[s.rows], minlength=size) for s in subsets])
        sums = subset_sums(values, counts)
        note = POINTWISE_NOTE if subject.pointwise else ""
        found = []
        for task, here in self._slices():
            measured = lds(sums[:, here], losses[:, here], self.config.seed)
            found.append(_row(subject, "lds", measured, target_task=task, note=note))
        return found

    def agreement(self) -> float | None:
        """How alike the bank ranks queries' losses under two seeds; None for one seed or no bank."""
        names = [s.name for s in self.sets if s.kind == "subset"]
        found = seed_agreement(self.losses(names)) if len(names) > 1 else math.nan
        return None if math.isnan(found) else found

    def of_removals(self, subject: Subject) -> Rows:
        """QLD and leave-top-k-out of a method, for every share."""
        found = []
        for share in self.config.audit.remove:
            controls = [s.name for s in self.sets if s.kind == "control" and s.share == share]
            own = [s for s in self.sets if s.method == subject.method and s.share == share]
            if not controls:
                continue
            random = self.losses(controls).mean(axis=0)
            place = {c: j for j, c in enumerate(queries(self.problem).tolist())}
            by_query = [s for s in own if s.kind == "qld" and s.query is not None]
            if by_query:
                at = np.array([place[int(s.query or 0)] for s in by_query], np.int64)
                lost = self.losses([s.name for s in by_query]).mean(axis=0)
                top = lost[np.arange(len(at)), at]
                measured = removal_effect(top, random[:, at], one_model=False)
                found.append(_row(subject, "qld", measured, share=share))
            for s in own:
                if s.kind == "top-k":
                    top = self.losses([s.name]).mean(axis=0)[0]
                    measured = removal_effect(top, random, one_model=True)
                    found.append(_row(subject, "top-k", measured, share=share))
        return found

    def _slices(self) -> list[tuple[str, npt.NDArray[np.bool_]]]:
        names = sorted(set(self.tasks.tolist()))
        found = [(ALL_TASKS, np.ones(len(self.tasks), dtype=bool))]
        if len(names) > 1:
            found += [("all (task)" if n == ALL_TASKS else n, self.tasks == n) for n in names]
        return found


def of_planted(subject: Subject, values: Float32, contents: Int64, wanted: Int64, planted: Planted) -> Rows:
    """How well values [M, Q] of the planted pool's distinct `contents` [M] for the `wanted` queries [Q] find
    what was planted; copies count as found by their own query alone, and are no other rows for wrong ones."""
    found: Rows = []
    is_copy, is_wrong = np.isin(contents, planted.copies), np.isin(contents, planted.wrong)
    if len(planted.wrong):
        scores = row_means(values)[~is_copy]
        found.append(_row(subject, "wrong auc", auc(scores, is_wrong[~is_copy])))
    if len(planted.copies):
        row = {c: k for k, c in enumerate(contents.tolist())}
        column = {c: k for k, c in enumerate(wanted.tolist())}
        copies = np.array([row[c] for c in planted.copies.tolist()], np.int64)
        of_query = values[:, [column[c] for c in planted.copies.tolist()]].astype(np.float64)
        note = POINTWISE_NOTE if subject.pointwise else ""
        for name, measured in copies_found(of_query, copies).items():
            found.append(_row(subject, f"duplicate {name}", measured, note=note))
    return found


def loss_facts(models: Rows) -> dict[str, Any]:
    """Of rows of `attribution_models`: how many models, and losses in nats a token.

    Means of the untrained model and of those on random subsets, and the standard deviation of the latter;
    None where there is none.
    """
    losses = {kind: [m["loss"] for m in models if m["kind"] == kind] for kind in ("base", "subset")}
    mean = {kind: float(np.mean(some)) if some else None for kind, some in losses.items()}
    spread = losses["subset"]
    return {
        "models": len({m["key"] for m in models if m["kind"] != "base"}),
        "subset_models": len(spread),
        "loss_untrained": mean["base"],
        "loss_trained": mean["subset"],
        "loss_spread": float(np.std(spread, ddof=1)) if len(spread) > 1 else None,
    }


def model_rows(
    problem: Problem, found: Sequence[Cell], sets: Sequence[Trained], tables: Mapping[str, int]
) -> tuple[Rows, Rows]:
    """Rows of the views `attribution_models` and `attribution_losses`, without run_id. tables: example id of
    the first row of each query's content, by content id as text."""
    about = {s.name: s for s in sets}
    models, losses = [], []
    ids = [tables[str(c)] for c in queries(problem).tolist()]
    for cell in found:
        lost = read_losses(problem, cell).losses
        s = about.get(cell.subset)
        models.append(
            {
                "key": cell.key, "subset": cell.subset, "kind": s.kind if s else "base",
                "method": s.method if s and s.method else None, "share": s.share if s else None,
                "target_id": tables[str(s.query)] if s and s.query is not None else None,
                "seed": cell.seed, "rows": len(cell.rows), "loss": float(lost.mean()),
            }
        )  # fmt: skip
        losses += [
            {"key": cell.key, "subset": cell.subset, "seed": cell.seed, "target_id": i, "loss": float(v)}
            for i, v in zip(ids, lost.tolist(), strict=True)
        ]
    return models, losses


def first_targets(problem: Problem) -> dict[str, int]:
    """Example id of the first target row of every query, by its content id as text."""
    found: dict[str, int] = {}
    for d in problem.targets:
        for content, example in zip(d.content_ids.tolist(), d.example_ids.tolist(), strict=True):
            found.setdefault(str(content), example)
    return found


def _row(
    subject: Subject, metric: str, m: Measured, *, target_task: str = ALL_TASKS, share: float | None = None,
    note: str = "",
) -> dict[str, Any]:  # fmt: skip
    return {
        "method": subject.method, "function": subject.function, "origin": subject.values, "metric": metric,
        "target_task": target_task, "share": share, "value": _number(m.value), "lower": _number(m.lower),
        "upper": _number(m.upper), "n": m.n, "note": note or None,
    }  # fmt: skip


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
