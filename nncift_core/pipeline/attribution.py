"""An audit: its methods, its identity and checks, and which pool rows each of its models is trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nncift_core.attribution import keep_subsets, lowest, removals, top_rows
from nncift_core.config import Config, FinetuneConfig, run_key, settled
from nncift_core.errors import UserError
from nncift_core.finetune import settings, student_key
from nncift_core.hashing import digest
from nncift_core.pipeline.attribution_data import distinct_targets
from nncift_core.pipeline.methods import SCORED, Method, method_config
from nncift_core.pipeline.problem import Problem, keys_of

Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Kind = Literal["subset", "control", "qld", "top-k"]

RANDOM = "random"
# Values that are widened at once.
_FLOATS = 1 << 22
# Raise it when the same data and settings would be measured otherwise.
VERSION = 1


def audit_config(config: Config) -> Config:
    """The config that an audit's models are trained under: `[finetune]` as it is, or with its defaults, and
    nothing held out. Raises UserError where there is no target, or nothing of a kind that tests need."""
    if config.target.source == "self":
        raise UserError(
            "there is no target: the rows of the pool would be their own queries",
            field="target.source",
            mend="Name data sets whose loss training should lower.",
        )
    tuned = config.finetune or FinetuneConfig()
    target = config.target.model_copy(update={"test": None})
    return settled(config.model_copy(update={"finetune": tuned, "target": target}))


def check_sizes(config: Config, pool: int, queries: int) -> None:
    """Raise UserError for a pool or targets (distinct contents) too small to test anything on."""
    a = config.audit
    if queries < 2:
        raise UserError(
            f"{queries} distinct target rows are too few queries",
            field="target.source",
            mend="An audit needs 2 at least, and 20 to say much.",
        )
    if pool < 4:
        raise UserError(f"{pool} pool rows cannot be audited", field="pool.source", mend="Give it more.")
    small = [s for s in a.remove if round(s * pool) < 1 or round(s * pool) >= pool - 1]
    if small and {"qld", "top-k"}.intersection(a.tests):
        raise UserError(
            f"the share {small[0]:g} of {pool:,} pool rows is no row, or nearly all",
            field="audit.remove",
            mend=f"Use shares of {1 / pool:.2g} or more.",
        )


def audit_methods(config: Config) -> list[Method]:
    """Every function exact and estimated as `[audit]` asks, then the baselines that are functions."""
    a = config.audit
    found = [Method(f, v) for f in a.functions or [config.influence.function] for v in a.values]
    found += [Method(SCORED[b], rival=b) for b in a.baselines if b in SCORED]
    return list(dict.fromkeys(found))


def method_names(config: Config) -> list[str]:
    """Names of the methods as tables call them; the random baseline last."""
    names = [m.name for m in audit_methods(config)]
    return [*names, *([RANDOM] if RANDOM in config.audit.baselines else [])]


def audit_key(config: Config, data: dict[str, str]) -> str:
    """`run_id` of an audit: hash of what decides its numbers. config: as `audit_config` gives it; data: role
    and name -> version of the rows."""
    methods = {}
    for method in audit_methods(config):
        own = method_config(config, method)
        methods[method.name] = run_key(own, data, keys_of(own).models())
    section = config.audit.model_dump(mode="json")
    trained = [student_key(config), settings(config).values()]
    return digest(["audit", VERSION, config.seed, section, trained, methods, data])[:16]


@dataclass(frozen=True, eq=False)
class Trained:
    """What models of one set of rows are for. rows: indices of pool rows [k]; kind: "subset" of the bank,
    "control" (without random rows), "qld" (without a query's top rows) or "top-k"; query: content id."""

    name: str
    kind: Kind
    rows: Int64
    method: str = ""
    share: float | None = None
    query: int | None = None


def bank(problem: Problem) -> list[Trained]:
    """The random subsets that LDS is measured on; the same for every method and every later audit."""
    a = problem.config.audit
    if "lds" not in a.tests:
        return []
    drawn = keep_subsets(problem.pool.example_ids, a.models, a.share, problem.config.seed)
    return [Trained(f"subset {k}", "subset", rows) for k, rows in enumerate(drawn)]


def controls(problem: Problem) -> list[Trained]:
    """The pool without random rows, as many as each share of `audit.remove` says."""
    a, ids = problem.config.audit, problem.pool.example_ids
    found = []
    for share in a.remove if {"qld", "top-k"}.intersection(a.tests) else []:
        out = removals(ids, a.controls, removed(problem, share), problem.config.seed)
        found += [
            Trained(f"without {share:g} at random, {k}", "control", _without(ids, rows), share=share)
            for k, rows in enumerate(out)
        ]
    return found


def without_top(problem: Problem, method: str, values: Float32) -> list[Trained]:
    """The pool without the rows of highest value, of some queries and on average. values [M, Q]: of the
    distinct contents of the pool for the queries, in the order of `pool.contents` and `queries`. By query
    for the smallest share alone, since that takes a model for each."""
    a, pool, seed = problem.config.audit, problem.pool, problem.config.seed
    ids = pool.example_ids
    index = content_index(problem)
    found = []
    for share in a.remove:
        k = removed(problem, share)
        by_query = "qld" in a.tests and share == min(a.remove)
        for j in removed_queries(problem).tolist() if by_query else []:
            rows = _without(ids, top_rows(values[:, j].astype(np.float64)[index], k, ids, seed))
            query = int(queries(problem)[j])
            name = f"without {share:g} best of {method} for query {j}"
            found.append(Trained(name, "qld", rows, method, share, query))
        if "top-k" in a.tests:
            rows = _without(ids, top_rows(row_means(values)[index], k, ids, seed))
            found.append(Trained(f"without {share:g} best of {method}", "top-k", rows, method, share))
    return found


def row_means(values: Float32) -> Float64:
    """Means [M] of values [M, Q] over queries, in float64 without a copy of them all in it."""
    step = max(1, _FLOATS // max(1, values.shape[1]))
    parts = [values[k : k + step].astype(np.float64).mean(axis=1) for k in range(0, len(values), step)]
    return np.concatenate(parts) if parts else np.empty(0)


def queries(problem: Problem) -> Int64:
    """Contents of the queries [Q]."""
    return distinct_targets(problem.targets)


def query_tasks(problem: Problem) -> list[str]:
    """Target task of every query; that of its first row."""
    first: dict[int, str] = {}
    for d in problem.targets:
        for content, task in zip(d.content_ids.tolist(), d.tasks(), strict=True):
            first.setdefault(content, task)
    return [first[c] for c in queries(problem).tolist()]


def removed_queries(problem: Problem) -> Int64:
    """Indices of the queries that QLD trains models for, by hash rank."""
    return lowest(queries(problem), problem.config.audit.removed_queries, problem.config.seed, "audit-qld")


def removed(problem: Problem, share: float) -> int:
    """How many rows a share of the pool is."""
    return round(share * len(problem.pool.example_ids))


def content_index(problem: Problem) -> Int64:
    """Index into `pool.contents` of every pool row [rows]."""
    pool = problem.pool
    order = np.argsort(pool.contents)
    found: Int64 = order[np.searchsorted(pool.contents, pool.content_ids, sorter=order)]
    return found


def training_seeds(config: Config) -> list[int]:
    """Seeds that each set of rows is trained with."""
    return [config.seed + s for s in range(config.audit.seeds)]


def subsets_table(problem: Problem, run_id: str, sets: Sequence[Trained]) -> pa.Table:
    """Rows of view `subsets` for models of `sets`, each with every seed."""
    ids, seeds = problem.pool.example_ids, training_seeds(problem.config)
    sizes = [len(s.rows) for s in sets for _ in seeds]
    every = [ids[s.rows] for s in sets for _ in seeds]
    return pa.table(
        {
            "run_id": pa.array([run_id] * sum(sizes), pa.string()),
            "subset": pa.array(np.repeat([s.name for s in sets for _ in seeds], sizes).tolist(), pa.string()),
            "seed": pa.array(np.repeat([seed for _ in sets for seed in seeds], sizes), pa.int64()),
            "train_id": pa.array(np.concatenate(every) if every else np.empty(0, np.int64)),
        }
    )


def model_counts(config: Config) -> dict[str, int]:
    """How many models an audit trains at most, by what they are for; equal rows are trained once."""
    a = config.audit
    removing = {"qld", "top-k"}.intersection(a.tests)
    methods, shares = len(method_names(config)), len(a.remove)
    found = {
        "subsets": a.models if "lds" in a.tests else 0,
        "controls": shares * a.controls if removing else 0,
        "qld": methods * a.removed_queries if "qld" in a.tests else 0,
        "top_k": shares * methods if "top-k" in a.tests else 0,
    }
    return {name: n * a.seeds for name, n in found.items()}


def _without(ids: Int64, out: Int64) -> Int64:
    left: Int64 = np.setdiff1d(np.arange(len(ids)), out)
    return left


def about(config: Config) -> dict[str, Any]:
    """What of the settings a person is told beside the numbers; tokens: None unless they bound a training."""
    a, tuned = config.audit, settings(config)
    return {
        "models_of_the_bank": a.models, "share": a.share, "seeds": a.seeds,
        "epochs": tuned.passes, "tokens": tuned.tokens, "learning_rate": tuned.learning_rate,
        "tests": ", ".join(a.tests),
    }  # fmt: skip
