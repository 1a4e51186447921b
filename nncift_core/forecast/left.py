"""What of a run's work the workspace holds already: it is reused, and no forecast counts it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nncift_core.config import Config
from nncift_core.errors import HubUnreachable
from nncift_core.forecast.rates import Work
from nncift_core.forecast.scratch import Scratch, scratch
from nncift_core.pipeline.audit import audit_of
from nncift_core.pipeline.embed import plan_embed
from nncift_core.pipeline.estimate import estimator_key, find_estimator, plan_estimate
from nncift_core.pipeline.estimator_features import plan_estimator_features
from nncift_core.pipeline.exact import ExactPlan, plan_exact
from nncift_core.pipeline.exact_shards import stored_values
from nncift_core.pipeline.features import features_needed
from nncift_core.pipeline.inputs import Input
from nncift_core.pipeline.kernels import needs_kernel, recorded
from nncift_core.pipeline.problem import SIDES, Keys, Problem, keys_of
from nncift_core.pipeline.state import expected_state
from nncift_core.store.designs import StoredDesign, find
from nncift_core.store.folders import is_whole
from nncift_core.store.runs import finished, read_result
from nncift_core.store.workspace import Workspace

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Left:
    """Items of each stage that are not there yet, and the id of the run."""

    items: dict[str, int]
    run_id: str


def left_of(config: Config, ws: Workspace, inputs: Sequence[Input], work: dict[str, Work]) -> Left:
    """What a run of `config` on `inputs` would still compute in `ws`; writes nothing there.

    Where labels of earlier rows would be kept, the fit and what follows it count in full: whether they stand
    is known once the values are there. Models are counted in full unless the very run has finished.
    """
    everything = {name: w.items for name, w in work.items()}
    if not ws.exists():
        return Left(everything, "")
    try:
        keys = keys_of(config)
    except HubUnreachable:
        return Left(everything, "")
    with scratch(config, inputs) as stored:
        run_id = stored.run_id(config, keys)
        before = read_result(ws, run_id)
        if before is not None and finished(ws, before):
            return Left({name: int(name == "report") for name in everything}, run_id)
        return Left(everything | _missing(config, ws, keys, stored, work), run_id)


def _missing(
    config: Config, ws: Workspace, keys: Keys, stored: Scratch, work: dict[str, Work]
) -> dict[str, int]:
    """Stages of which something is there."""
    found: dict[str, int] = {}
    pool = stored.problem(config, keys).pool.contents
    state = expected_state(ws, config, keys, pool)
    if state is not None:
        found["prepare-function"] = int(not is_whole(ws.state_dir(state)))
    problem = stored.problem(config, keys.with_state(state), ws)
    found["embed"] = sum(len(s.content_ids) for s in plan_embed(problem)[0])
    found["estimator-features"] = sum(len(s.content_ids) for s in plan_estimator_features(problem)[0])
    growth = 0.0 if problem.all_exact else config.estimator.refit_growth
    design = find(ws, problem.family(), problem.rows, problem.columns, growth)
    if design is not None:
        found |= _of_design(problem, design, work)
    return found


def _of_design(problem: Problem, design: StoredDesign, work: dict[str, Work]) -> dict[str, int]:
    """Exact values and what rests on them, under a design that is there."""
    rows, columns = _pairs(problem, design)
    values = stored_values(problem.exact_store, rows, columns)
    missing = np.isnan(values)
    found = {"exact-influence": int(missing.sum())}
    if features_needed(problem.config):
        touched = zip(SIDES, (rows[missing], columns[missing]), strict=True)
        found["features"] = sum(len(problem.features(side).missing(np.unique(ids))) for side, ids in touched)
    if not design.ref.reused and not missing.any() and not problem.all_exact:
        # Drawn from these very rows: planning finds the design and writes nothing.
        found |= _estimates(problem, plan_exact(problem), work)
    return found


def _pairs(problem: Problem, design: StoredDesign) -> tuple[Int64, Int64]:
    """Labelled pairs, then audit pairs, as content ids."""
    if design.kind == "scattered":
        rows, columns = design.pairs_among(problem.rows, problem.columns)
    else:
        r = problem.rows[np.isin(problem.rows, design.label_rows)]
        k = problem.columns[np.isin(problem.columns, design.label_columns)]
        rows, columns = np.repeat(r, len(k)), np.tile(k, len(r))
    more = audit_of(problem, design, len(rows))
    return np.concatenate([rows, more[0]]), np.concatenate([columns, more[1]])


def _estimates(problem: Problem, plan: ExactPlan, work: dict[str, Work]) -> dict[str, int]:
    """The fit and its estimates, where a fit is there."""
    c = problem.config
    if needs_kernel(c, c.estimator.architecture) and recorded(problem.ws) is None:
        return {}
    ref = find_estimator(problem, estimator_key(problem, plan))
    if ref is None:
        return {}
    found = {"train-influence-network": 0}
    if work["estimate-influence"].items:
        found["estimate-influence"] = sum(s.missing for s in plan_estimate(problem, ref))
    return found
