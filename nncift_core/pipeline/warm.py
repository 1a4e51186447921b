"""The earlier fit that a fit on an extended label design starts from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nncift_core.config_sections import LEARNED
from nncift_core.estimator.registry import class_of, name_of
from nncift_core.estimator.training import FIT_VERSION
from nncift_core.estimator.warm import WarmStarting
from nncift_core.hashing import digest
from nncift_core.pipeline.estimator_features import features_key
from nncift_core.pipeline.exact import ExactPlan
from nncift_core.pipeline.problem import Problem
from nncift_core.store.estimators import fitted_on
from nncift_core.store.references import EstimatorRef


@dataclass(frozen=True)
class Earlier:
    """The estimator that was fitted, by the same settings, before the labels were extended.

    ref: None without one; keep: the architecture that a choice is not made anew of, or ""; told: what a
    person should hear of it, or "".
    """

    ref: EstimatorRef | None = None
    keep: str = ""
    told: str = ""


def fit_settings(problem: Problem, name: str) -> dict[str, Any]:
    """Identity of a fit of `name` without its labels: function, features, architecture, seed, algorithm
    version; of a choice among candidates also what it is made by."""
    c = problem.config
    parts: dict[str, Any] = {
        "function": problem.keys.values,
        "features": features_key(problem),
        "architecture": name,
        "hidden": c.estimator.hidden,
        "seed": c.seed,
        "version": FIT_VERSION,
    }
    if name == "auto":
        # Not the audit pairs: a growing pool draws others, and its estimator is to last as its labels do.
        s = c.selection
        budget = s.count if s.count is not None else s.share
        parts["choice"] = [c.estimator.candidates, c.resolve_rule(), budget]
    return parts


def earlier_fit(problem: Problem, plan: ExactPlan, name: str) -> Earlier:
    """What the fit of the estimator `name` starts from.

    Nothing unless the design extends another one on which a fit of equal settings is stored and intact; the
    oldest of them, so that a later one moves no key. Where a learned estimator had won a choice ("auto"), it
    is kept; where a baseline had, the choice is made anew and starts from nothing.
    """
    extended = plan.design.ref.extends
    if not extended or (name != "auto" and not can_start(name)):
        return Earlier()
    wanted = digest(fit_settings(problem, name))
    found = [m for m in fitted_on(problem.ws, extended) if m.meta.get("settings") == wanted]
    if not found:
        return Earlier(told="the estimator of the earlier labels is not stored: fitted from nothing")
    ref = EstimatorRef(**found[0].meta["reference"])
    if name != "auto":
        return Earlier(ref, told=f"started from the fit on the earlier labels ({ref.key[:8]})")
    winner = name_of(ref.architecture)
    if not ref.learned or winner not in LEARNED:
        return Earlier(told=f"chosen anew: on the earlier labels the baseline {ref.architecture} had won")
    how = "started from that fit" if can_start(winner) else "fitted on all labels"
    told = f"{winner} was chosen on the earlier labels and is kept, {how} ({ref.key[:8]})"
    return Earlier(ref, winner, told)


def standing_fit(problem: Problem, plan: ExactPlan, name: str, kernel: dict[str, Any] | None) -> str | None:
    """The key of the oldest stored fit of `name` on this design that stands; None without one.

    It stands while at most `refit_growth` of its labels are gone. kernel: what predicts networks here; a fit
    made under another one does not stand.
    """
    wanted, left = digest(fit_settings(problem, name)), len(plan.labels()[0])
    growth = problem.config.estimator.refit_growth
    for m in fitted_on(problem.ws, plan.design.ref.key):
        alike = m.meta.get("settings") == wanted and m.meta.get("kernel") == kernel
        if alike and left <= m.rows and m.rows - left <= growth * m.rows:
            return m.key
    return None


def can_start(name: str) -> bool:
    """Whether the estimator `name` can start from an earlier fit."""
    return issubclass(class_of(name), WarmStarting)
