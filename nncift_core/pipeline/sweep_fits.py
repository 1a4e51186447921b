"""The fits of a sweep: what is kept of each, which are missing, and the rows of the view `sweep`.

A fit is kept under the identity of its inputs, whichever study or setting asks for it, so that a later sweep
computes only what it adds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from nncift_core.errors import RunError
from nncift_core.estimator.training import FIT_VERSION
from nncift_core.hashing import digest
from nncift_core.pipeline.estimator_features import features_key
from nncift_core.pipeline.sweep import Corner, costs_of, studied_rule
from nncift_core.store.sweeps import read_fit, write_fit
from nncift_core.store.workspace import Workspace
from nncift_core.studies import Cell, Fit, Material, Study, measure_fit
from nncift_core.studies.fits import STUDY_VERSION

# So many tasks at most; beyond them, a task makes several fits.
TASKS = 500


@dataclass(frozen=True)
class Scope:
    """Under which keys the fits of a study are kept: everything but the fit itself, as identities."""

    ws: Workspace
    matrix: str
    selection: str
    costs: dict[str, Any]
    parents: tuple[str, ...]

    @classmethod
    def of(cls, corner: Corner) -> Scope:
        """Of a corner under `study_config`, whose function's state is known."""
        rows, columns = corner.sorted_rows.tolist(), corner.sorted_columns.tolist()
        words = digest(np.sort(corner.pool.contents).tolist())
        matrix = digest([corner.keys.values, rows, columns, features_key(corner), words])
        rule = [studied_rule(corner.config), corner.config.selection.eta, corner.task_numbers().tolist()]
        return cls(corner.ws, matrix, digest(rule), asdict(costs_of(corner)), corner.valued)

    def fit_key(self, fit: Fit) -> str:
        """Identity of a fit and what is measured of it, whatever is selected on it."""
        costs = None if fit.design == "block" else self.costs
        return digest([STUDY_VERSION, FIT_VERSION, self.matrix, asdict(fit), costs])

    def selection_key(self, v: float) -> str:
        """Under which key a fit keeps what a share v of the rows gains."""
        return f"{self.selection[:16]}/{v!r}"

    def missing(self, fit: Fit, fractions: Iterable[float]) -> list[float] | None:
        """Shares that are not measured of a fit yet; None where the fit itself is not."""
        found = read_fit(self.ws, self.fit_key(fit))
        if found is None:
            return None
        if found["failed"]:
            return []
        return [v for v in fractions if self.selection_key(v) not in found["selection"]]


@dataclass(frozen=True)
class FitShard:
    """Fits of one task, as dicts of `Fit`, and the shares of rows that are selected on each.

    matrix: identity of values and features, `Scope.matrix`; with it a shard names its work.
    """

    name: str
    matrix: str
    fits: tuple[dict[str, Any], ...]
    fractions: tuple[tuple[float, ...], ...]


def plan_fits(scope: Scope, cells: Sequence[Cell]) -> tuple[list[FitShard], int]:
    """Shards of the fits that are not kept yet, and the number of distinct fits in all."""
    wanted: dict[Fit, list[float]] = {}
    for cell in cells:
        wanted.setdefault(cell.fit, []).extend(cell.fractions)
    # What a missing fit is to select goes with it; a kept one is made again only for shares it lacks.
    missing = {f: scope.missing(f, vs) for f, vs in wanted.items()}
    todo = {f: tuple(dict.fromkeys(wanted[f] if m is None else m)) for f, m in missing.items()}
    todo = {f: vs for f, vs in todo.items() if missing[f] is None or vs}
    shards = [_shard(scope, part, todo) for part in _parts(list(todo))]
    return shards, len(wanted)


def _parts(fits: list[Fit]) -> list[list[Fit]]:
    """Fits of one task each: the draws of one estimator in one place, more where there would be too many."""
    draws: dict[Fit, list[Fit]] = {}
    for fit in fits:
        draws.setdefault(replace(fit, seed=0), []).append(fit)
    parts = list(draws.values())
    size = max(1, -(-len(parts) // TASKS))
    return [[f for p in parts[k : k + size] for f in p] for k in range(0, len(parts), size)]


def _shard(scope: Scope, fits: list[Fit], fractions: dict[Fit, tuple[float, ...]]) -> FitShard:
    described = tuple(asdict(f) for f in fits)
    return FitShard(_name(fits), scope.matrix, described, tuple(fractions[f] for f in fits))


def _name(fits: list[Fit]) -> str:
    first = fits[0]
    width = f" {first.hidden}" if first.hidden else ""
    less = f" without {first.without}" if first.without else ""
    return f"{first.predictor}{width}{less}, {first.design} {first.u:g}, {len(fits)} fits"


def compute_fits(
    scope: Scope, material: Material, shard: FitShard, progress: Callable[[int], None] | None = None
) -> int:
    """Make and keep the fits of a shard; returns how many."""
    for described, fractions in zip(shard.fits, shard.fractions, strict=True):
        fit = Fit(**described)
        found = measure_fit(material, fit, fractions)
        key, selection = scope.fit_key(fit), found["selection"]
        kept = read_fit(scope.ws, key) or {**found, "selection": {}}
        merged = {
            **kept["selection"],
            **{scope.selection_key(v): selection[repr(v)] for v in fractions if selection},
        }
        write_fit(scope.ws, key, {**kept, "selection": merged}, scope.parents)
        if progress:
            progress(1)
    return len(shard.fits)


def sweep_rows(
    scope: Scope, run_id: str, function: str, study: Study, cells: Sequence[Cell]
) -> list[dict[str, Any]]:
    """Rows of the view `sweep`: one number each; a cell that failed has one row, "failed", and says why.

    Raises RunError for a cell that is not kept.
    """
    rows: list[dict[str, Any]] = []
    for cell in cells:
        found = read_fit(scope.ws, scope.fit_key(cell.fit))
        if found is None:
            raise RunError("fits of the study are missing; run again to compute them")
        fit = cell.fit
        shared: dict[str, Any] = {
            "run_id": run_id, "function": function, "study": study, "setting": cell.setting,
            "design": fit.design, "predictor": found["predictor"], "u": fit.u, "v": None, "seed": fit.seed,
            "quadrant": None, "note": None,
        }  # fmt: skip
        if found["failed"]:
            rows.append({**shared, "metric": "failed", "value": None, "note": found["failed"]})
            continue
        rows += [{**shared, **measure} for measure in found["measures"]]
        for v in cell.fractions:
            gains = found["selection"][scope.selection_key(v)]
            rows += [{**shared, "v": v, "metric": m, "value": value} for m, value in gains.items()]
    return rows
