"""The exact matrix of `nncift sweep`, and what a study asks of it.

A study takes some rows and columns of the job's matrix by hash rank, the corner. Its exact values, embeddings
and features lie in the same stores as a valuation's, so that both reuse them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from nncift_core.config import Config
from nncift_core.config_sections import LEARNED
from nncift_core.errors import RunError, UserError
from nncift_core.estimator.label_sizes import Costs
from nncift_core.estimator.pair_features import Table
from nncift_core.estimator.training import FIT_VERSION
from nncift_core.hashing import digest, hash_rank
from nncift_core.pipeline.estimator_features import load_features, readable
from nncift_core.pipeline.labelling import label_costs, planned_labels
from nncift_core.pipeline.problem import Problem
from nncift_core.studies import STUDIES, Grid, Material, Study
from nncift_core.studies.fits import STUDY_VERSION

Int64 = npt.NDArray[np.int64]


def check_study(config: Config, study: str) -> Study:
    """`study` by its type; raises UserError for an unknown one, or where nothing would be left to predict."""
    found = next((s for s in STUDIES if s == study), None)
    if found is None:
        known = " or ".join(STUDIES)
        raise UserError(f"no such study as {study!r}", field="--study", mend=f"Choose {known}.")
    if config.influence.label_fraction >= 1:
        raise UserError(
            "label_fraction = 1 leaves no pair to predict",
            field="influence.label_fraction",
            mend="Set the label budget that estimators should be studied at, 0.05 say.",
        )
    return found


def study_config(config: Config) -> Config:
    """The config under which a study's inputs are made: nothing after selection, and features for every
    estimator that `estimator.features` allows, whichever one the job uses."""
    e = config.estimator
    candidates = list(dict.fromkeys((default_estimator(config), *e.candidates, *LEARNED)))
    estimator = e.model_copy(update={"architecture": "auto", "candidates": candidates})
    # Asked for by name, labels are drawn even where exact values cost next to nothing.
    influence = config.influence.model_copy(update={"labels": "block", "block_ratio": None})
    return config.model_copy(update={"estimator": estimator, "influence": influence, "finetune": None})


def default_estimator(config: Config) -> str:
    """The job's own learned estimator: the one it names, else the first candidate."""
    e = config.estimator
    return e.architecture if e.architecture in LEARNED else e.candidates[0]


def studied_rule(config: Config) -> str:
    """The selection rule that regret is measured under; "flcg" without its existing rows is "fl"."""
    rule = config.resolve_rule()
    return "fl" if rule == "flcg" else rule


def sweep_key(config: Config, study: Study, data: dict[str, str], models: dict[str, str]) -> str:
    """`run_id` of a sweep: hash of what decides its values. data, models: as in `config.run_key`."""
    s, i, e = config.sweep, config.influence, config.estimator
    method = {
        "study": [study, STUDY_VERSION, FIT_VERSION],
        "seed": config.seed,
        "sweep": s.model_dump(mode="json"),
        "influence": [i.function, i.labels, i.label_fraction, i.block_ratio],
        "estimator": [default_estimator(config), e.hidden, sorted(e.features)],
        "rule": [studied_rule(config), config.selection.eta, config.selection.count, config.selection.share],
    }
    return digest({"method": method, "data": data, "models": models})[:16]


@dataclass(frozen=True, eq=False)
class Corner(Problem):
    """The rows and columns of the job's matrix with the smallest hash rank, `[sweep]` says how many.

    Only pool rows: those of `selection.existing` are no candidates.
    """

    @classmethod
    def of(cls, problem: Problem, *, exact: bool = False) -> Corner:
        """The corner of `problem`; exact: as a job that labels every pair of it."""
        config = problem.config
        if exact:
            influence = config.influence.model_copy(update={"label_fraction": 1.0})
            config = config.model_copy(update={"influence": influence})
        return cls(problem.ws, config, problem.keys, problem.datasets)

    @cached_property
    def row_shards(self) -> list[Int64]:
        """Row contents of the corner, block by block of the pool."""
        shards = Problem(self.ws, self.config, self.keys, self.datasets).row_shards
        pool = [s[np.isin(s, self.pool.contents)] for s in shards]
        return _smallest(pool, self.config.sweep.rows, self.config.seed, "sweep-row")

    @cached_property
    def column_shards(self) -> list[Int64]:
        """Column contents of the corner, block by block of the targets."""
        shards = Problem(self.ws, self.config, self.keys, self.datasets).column_shards
        return _smallest(shards, self.config.sweep.columns, self.config.seed, "sweep-column")

    @property
    def sorted_rows(self) -> Int64:
        """Row contents [M] in the order of the study, which is not that of arrival."""
        return np.sort(self.rows)

    @property
    def sorted_columns(self) -> Int64:
        """Column contents [N] in the order of the study."""
        return np.sort(self.columns)

    def task_numbers(self) -> Int64:
        """Task of every column in the order of the study, 0.. without gaps; [N]. A content that several tasks
        hold counts for its first."""
        if self.config.pointwise:
            return np.zeros(1, np.int64)
        first: dict[int, int] = {}
        for content, task in zip(self.target_contents.tolist(), self.task_of_target.tolist(), strict=True):
            first.setdefault(content, task)
        tasks = np.array([first[c] for c in self.sorted_columns.tolist()])
        return np.unique(tasks, return_inverse=True)[1]


def _smallest(shards: Sequence[Int64], n: int, seed: int, salt: str) -> list[Int64]:
    """Of the ids in all `shards` the `n` of smallest hash rank, in their shards."""
    ids = np.concatenate(list(shards))
    kept = ids[np.argsort(hash_rank(ids, seed, salt), kind="stable")][:n]
    parts = [s[np.isin(s, kept)] for s in shards]
    return [p for p in parts if len(p)]


def grid_of(config: Config, corner: Corner) -> Grid:
    """The grid of a job's studies. config: the job's own; corner: under `study_config` of it.

    Raises UserError for a corner so small that its labels would be all of it.
    """
    shape = len(corner.rows), len(corner.columns)
    if corner.all_exact:
        raise UserError(
            f"the {shape[0]:,} x {shape[1]:,} values of the study would all be labelled",
            field="sweep.rows",
            mend="Give it more rows and columns, or lower influence.label_fraction.",
        )
    s = config.sweep
    rows = len(corner.pool.content_ids)
    return Grid(
        default=default_estimator(config),
        budget=config.influence.label_fraction,
        design=planned_labels(config, *shape, costs_of(corner)).kind,
        share=config.selection.budget(rows) / rows,
        hidden=config.estimator.hidden,
        seeds=tuple(config.seed + k for k in range(s.seeds)),
        groups=tuple(config.estimator.features),
        architectures=None if s.architectures is None else tuple(s.architectures),
        label_fractions=tuple(s.label_fractions),
        fractions=tuple(s.fractions),
        widths=tuple(s.hidden),
        designs=("block",) if config.pointwise else tuple(s.designs),
    )


def costs_of(corner: Corner) -> Costs:
    """What labels of the corner are paid in."""
    return label_costs(
        corner.config,
        corner.sorted_rows,
        corner.sorted_columns,
        lambda ids, side: corner.texts(ids, side=side),
    )


def material_of(corner: Corner) -> Material:
    """What every fit reads. Raises RunError when exact values or vectors of the corner are missing."""
    rows, columns = corner.sorted_rows, corner.sorted_columns
    exact = np.full((len(rows), len(columns)), np.nan, np.float32)
    corner.exact_store.refresh()
    corner.exact_store.fill(rows, columns, exact)
    missing = int(np.isnan(exact).sum())
    if missing:
        raise RunError(f"{missing:,} exact values of the study are missing; run again to compute them")
    features = load_features(corner, rows, columns)
    # Each fit reads them: made once, for words are slow to count.
    pairs = {name: Table(feature.tile()) for name, feature in features.pairs.items()}
    return Material(
        replace(features, pairs=pairs),
        exact,
        readable=readable(corner.config),
        costs=costs_of(corner),
        rule=studied_rule(corner.config),
        tasks=corner.task_numbers(),
        eta=corner.config.selection.eta,
    )
