"""Fitting an estimator on the labels and estimating every tile that lacks values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from nncift_core.config import Config
from nncift_core.config_sections import CHEAP
from nncift_core.errors import RunError, UserError
from nncift_core.estimator.choice import choose, split_audit
from nncift_core.estimator.contract import Estimator, Features
from nncift_core.estimator.registry import make, name_of, possible
from nncift_core.estimator.saving import load, save
from nncift_core.estimator.warm import WarmStarting
from nncift_core.hashing import digest
from nncift_core.pipeline.estimator_features import feature_files, load_features, readable
from nncift_core.pipeline.exact import ExactPlan, exact_values
from nncift_core.pipeline.kernels import needs_kernel, settle_kernel
from nncift_core.pipeline.problem import Problem
from nncift_core.pipeline.warm import Earlier, earlier_fit, fit_settings, standing_fit
from nncift_core.store.files import is_intact, publish, read_manifest, verify
from nncift_core.store.references import EstimatorRef
from nncift_core.store.segments import rectangles
from nncift_core.store.tile_writer import TileWriter

Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]
Progress = Callable[[int], None]


@dataclass(frozen=True)
class EstimateShard:
    """One block of rows against all columns; missing = pairs without an estimate."""

    name: str
    rows: tuple[int, ...]
    missing: int


@dataclass(frozen=True, eq=False)
class Known:
    """Exact values by position in `features`: row i[k] has influence values[k] on column j[k]."""

    i: Int64
    j: Int64
    values: Float32


def estimator_key(problem: Problem, plan: ExactPlan, architecture: str | None = None) -> str:
    """Identity of a fit: its settings, its labels; of what may be a network, the kernel that predicts here;
    of a fit that starts from an earlier one, that one. architecture: another one than the config's.

    While at most `refit_growth` of the labels that a stored fit of these settings and this design was made on
    went away with their rows, that fit stands, as the design does."""
    return _identity(problem, plan, architecture)[0]


def _identity(problem: Problem, plan: ExactPlan, architecture: str | None) -> tuple[str, Earlier]:
    """The key of a fit, and what it starts from."""
    c = problem.config
    name = architecture or c.estimator.architecture
    kernel = _kernel(problem, name)
    standing = standing_fit(problem, plan, name, kernel)
    if standing is not None:
        return standing, Earlier()
    earlier = earlier_fit(problem, plan, name)
    parts = fit_settings(problem, name) | {
        "design": plan.design.ref.key,
        "labels": digest([part.tolist() for part in plan.labels()]),
    }
    if kernel is not None:
        parts["kernel"] = kernel
    if earlier.ref is not None:
        parts["warm_from"] = earlier.ref.key
    return digest(parts), earlier


def _kernel(problem: Problem, name: str) -> dict[str, Any] | None:
    """Identity of what predicts here, where `name` may be a network."""
    c = problem.config
    return settle_kernel(problem.ws, c.estimator.hidden) if needs_kernel(c, name) else None


def choosing(problem: Problem, plan: ExactPlan) -> npt.NDArray[np.bool_]:
    """Which audit pairs [k] choose among candidates, and so cannot measure the one that is chosen."""
    if problem.config.estimator.architecture != "auto":
        return np.zeros(len(plan.audit_rows), bool)
    return split_audit(plan.audit_rows, plan.audit_columns, problem.config.seed)


def known_values(
    problem: Problem, plan: ExactPlan, which: npt.NDArray[np.bool_]
) -> tuple[Features, Known, Known]:
    """Features of all rows and columns that labels and the audit pairs at `which` [k] touch, and both.

    Raises RunError when exact values are missing.
    """
    parts = [exact_values(problem.exact_store, plan.shards, purpose) for purpose in ("label", "audit")]
    parts[1] = tuple(part[which] for part in parts[1])  # type: ignore[assignment]
    rows, columns, values = (np.concatenate(both) for both in zip(*parts, strict=True))
    missing = int(np.isnan(values).sum())
    if missing:
        raise RunError(f"{missing} exact values are missing; run again to compute them")
    row_ids, i = np.unique(rows, return_inverse=True)
    column_ids, j = np.unique(columns, return_inverse=True)
    n = len(parts[0][0])
    labels, audit = Known(i[:n], j[:n], values[:n]), Known(i[n:], j[n:], values[n:])
    return load_features(problem, row_ids, column_ids), labels, audit


def find_estimator(problem: Problem, key: str) -> EstimatorRef | None:
    """The fitted estimator under `key`, when it is stored and intact."""
    path = problem.ws.network_file(key)
    if not is_intact(path):
        return None
    manifest = read_manifest(path)
    return EstimatorRef(**manifest.meta["reference"]) if manifest else None


def train(
    problem: Problem,
    plan: ExactPlan,
    key: str,
    architecture: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> EstimatorRef:
    """Fit the configured estimator (or the best candidate, or `architecture`) on the labels; store it.

    Where the labels extend an earlier design it starts from the fit on that (`warm.earlier_fit`).
    Raises UserError for an architecture that these features cannot serve, RunError when what it would start
    from went away since `key` was made.
    """
    c = problem.config
    name = architecture or c.estimator.architecture
    now, earlier = _identity(problem, plan, architecture)
    if now != key:
        raise RunError("the estimator that this fit was to start from has changed; run again")
    fitted = earlier.keep or name
    everything, labels, audit = known_values(problem, plan, choosing(problem, plan))
    features = read_by(c, name, everything)
    about: dict[str, Any] = {"reason": earlier.told}
    if fitted == "auto":
        given = (audit.i, audit.j, audit.values) if len(audit.i) else None
        stand = candidates(c, features)
        estimator, choice = choose(
            features,
            labels.i,
            labels.j,
            labels.values,
            candidates=stand,
            rule=c.resolve_rule(),
            share=_share(problem),
            audit=given,
            seed=c.seed,
            progress=_counted(progress, len(stand)),
        )
        reason = f"{earlier.told}; {choice.reason}" if earlier.told else choice.reason
        about = {"reason": reason, "candidates": choice.as_rows()}
    else:
        estimator = _made(c, fitted, features)
        if earlier.ref is not None and isinstance(estimator, WarmStarting):
            estimator.warm(load_estimator(problem, earlier.ref))
        estimator.fit(features, labels.i, labels.j, labels.values, seed=c.seed)
    settings = {"settings": digest(fit_settings(problem, name)), "kernel": _kernel(problem, name)}
    chosen = name == "auto"
    return _publish(problem, plan, key, estimator, len(labels.i), chosen, about, earlier.ref, settings)


def _made(config: Config, name: str, features: Features) -> Estimator:
    obstacle = possible(name, features)
    if obstacle is not None:
        raise UserError(
            f"{name!r} cannot be fitted here: {obstacle}",
            field="estimator.architecture",
            mend='Choose another one, or "auto".',
        )
    return make(name, hidden=config.estimator.hidden)


def read_by(config: Config, name: str, features: Features) -> Features:
    """What the estimator `name` may read of `features`: baselines all, others what the config allows."""
    cheap = name != "auto" and name_of(name) in CHEAP
    return features if cheap else features.only(readable(config))


def candidates(config: Config, features: Features) -> dict[str, Callable[[], Estimator]]:
    """Who may be chosen: the configured estimators and every cheap baseline that the features can serve."""
    names = [*config.estimator.candidates, *(name for name in CHEAP if name != "random")]
    makers = {n: partial(make, n, hidden=config.estimator.hidden) for n in dict.fromkeys(names)}
    return {n: maker for n, maker in makers.items() if possible(n, features) is None}


def _counted(progress: Callable[[int, int], None] | None, total: int) -> Progress | None:
    """`progress(done, total)` as something that is told of one more."""
    if progress is None:
        return None
    done = 0

    def more(n: int) -> None:
        nonlocal done
        done += n
        progress(done, total)

    return more


def _share(problem: Problem) -> float:
    rows = len(problem.pool.content_ids)
    # Whoever selects everything has nothing to choose by: nearly everything will do.
    return min(problem.config.selection.budget(rows) / rows, 0.99)


def _publish(
    problem: Problem,
    plan: ExactPlan,
    key: str,
    estimator: Estimator,
    labels: int,
    chosen: bool,
    about: dict[str, Any],
    start: EstimatorRef | None,
    settings: dict[str, Any],
) -> EstimatorRef:
    """settings: what a later fit on more labels finds this one by."""
    path = problem.ws.network_file(key)
    ref = EstimatorRef(
        key=key,
        path=problem.ws.relative(path),
        architecture=estimator.name,
        learned=estimator.learned,
        chosen=chosen,
        labels=labels,
        about=estimator.describe(),
        reason=about.get("reason", ""),
        candidates=tuple(about.get("candidates", ())),
        warm_from=start.key if start else "",
    )
    rows = np.unique(plan.labels()[0])
    before = (start.path,) if start else ()
    publish(
        problem.ws.root,
        path,
        lambda part: save(estimator, part),
        kind="estimator",
        key=key,
        rows=labels,
        producer="train-influence-network",
        parents=(
            plan.design.ref.path,
            *before,
            *problem.exact_store.files(rows),
            *feature_files(problem, rows, np.unique(plan.labels()[1])),
        ),
        meta={"reference": ref.model_dump(), **settings},
    )
    return ref


def load_estimator(problem: Problem, ref: EstimatorRef) -> Estimator:
    """The estimator of `ref`; raises IntegrityError when its file is damaged."""
    if needs_kernel(problem.config, ref.architecture):
        settle_kernel(problem.ws, problem.config.estimator.hidden)
    path = problem.ws.root / ref.path
    verify(path)
    return load(path)


def plan_estimate(problem: Problem, ref: EstimatorRef) -> list[EstimateShard]:
    """One shard per row block, with the number of pairs that have no estimate yet."""
    store = problem.estimate_store(ref.key)
    store.refresh()
    return [
        EstimateShard(f"block {n}", tuple(rows.tolist()), store.missing(rows, problem.columns))
        for n, rows in enumerate(problem.row_shards)
    ]


def estimate_shard(
    problem: Problem, ref: EstimatorRef, shard: EstimateShard, progress: Progress | None = None
) -> int:
    """Predict the missing tiles of one row block, column block by column block; returns computed pairs."""
    store = problem.estimate_store(ref.key)
    estimator = load_estimator(problem, ref)
    rows = np.array(shard.rows, np.int64)
    computed = 0
    parents = (ref.path, *feature_files(problem, rows, problem.columns))
    with TileWriter(store, producer="estimate-influence", parents=parents) as writer:
        for columns in problem.column_shards:
            missing = ~store.coverage(rows, columns)
            if not missing.any():
                continue
            features = load_features(problem, rows, columns)
            for r, k in rectangles(missing):
                values = estimator.predict(read_by(problem.config, ref.architecture, features.take(r, k)))
                writer.put(rows[r], columns[k], values)
                computed += values.size
                if progress:
                    progress(values.size)
    return computed
