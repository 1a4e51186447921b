"""From exact labels to a completed matrix: fit, judge, fall back where the fit is no good, estimate."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from flows.stages import Stages
from nncift_core.errors import RunError
from nncift_core.estimator.registry import name_of
from nncift_core.hashing import digest
from nncift_core.pipeline.assess import assessed
from nncift_core.pipeline.estimate import estimator_key, find_estimator, plan_estimate
from nncift_core.pipeline.exact import ExactPlan
from nncift_core.store.references import EstimatorRef
from tasks import shards, stages
from tasks.caching import cached
from tasks.progress import say

# Raise it when the same labels and audit pairs would be judged otherwise.
_ASSESS_VERSION = 7


@dataclass(frozen=True)
class Estimation:
    """What fills the pairs that are not exact, and what the audit says of it.

    used: the estimator or, where it was refused, a baseline; fitted: what was fitted first; check: as
    `assess_estimator` gives it. Both refs are None where every pair is exact.
    """

    used: EstimatorRef | None = None
    fitted: EstimatorRef | None = None
    check: dict[str, Any] = field(default_factory=dict)

    @property
    def quality(self) -> list[dict[str, Any]]:
        """Rows of `estimator_quality` without run_id."""
        rows: list[dict[str, Any]] = self.check.get("quality", [])
        return rows

    @property
    def half_width(self) -> float | None:
        """Half of a 90 % interval around an estimate; None without enough audit pairs."""
        widths = self.check.get("intervals", {})
        return widths.get(self.used.architecture) if self.used else None

    def facts(self) -> dict[str, Any]:
        """What a person should hear of it."""
        if self.used is None or self.fitted is None:
            return {}
        verdict = self.check["verdict"]
        return {
            "estimator": self.fitted.architecture,
            "estimator_used": self.used.architecture,
            "estimator_verdict": verdict["level"],
            "estimator_reason": verdict["reason"],
            "estimator_choice": self.fitted.reason,
            "estimator_about": self.fitted.about,
            "audit_measuring_pairs": len(self.check["pairs"]),
            "interval_half_width": self.half_width,
            "estimator_drift": self.check["drift"]["told"],
        }


class EstimationStages(Stages):
    """Stages `train-influence-network`, `assess-estimator` and `estimate-influence`."""

    def fit(self, plan: ExactPlan) -> tuple[EstimatorRef, dict[str, Any]]:
        """The estimator of the labels, and what the audit says of it."""
        fitted = self._train(plan)
        check = self._check(plan, fitted)
        verdict = check["verdict"]
        say(f"{fitted.architecture}: {verdict['level']}: {verdict['reason']}")
        return fitted, check

    def fill(self, plan: ExactPlan, fitted: EstimatorRef, check: dict[str, Any], unit: str) -> Estimation:
        """Estimate, by a baseline where the estimates of `fitted` are refused.

        Raises RunError when they are and the config says stop.
        """
        verdict, used = check["verdict"], fitted
        if verdict["level"] == "refused" and verdict["fallback"] != fitted.architecture:
            if self.config.estimator.on_refusal == "stop":
                raise RunError(
                    f"the audit refuses the estimates of {fitted.architecture!r}: {verdict['reason']}. Label "
                    "more (influence.label_fraction), or let the best baseline select: "
                    'estimator.on_refusal = "baseline"'
                )
            say(f"pairs that are not exact are estimated by the baseline {verdict['fallback']!r} instead")
            used = self._train(plan, name_of(verdict["fallback"]))
        self._estimate(used, unit)
        return Estimation(used, fitted, check)

    def _train(self, plan: ExactPlan, architecture: str | None = None) -> EstimatorRef:
        key = estimator_key(self.problem, plan, architecture)
        ref = find_estimator(self.problem, key)
        name = "train-influence-network" if architecture is None else "fit-baseline"
        with self.stage(name, 1, 0 if ref else 1, "estimator"):
            if ref is None:
                value, _ = cached(
                    self.job,
                    stages.train_influence_network,
                    key,
                    lambda v: find_estimator(self.problem, key) is not None,
                    architecture,
                )
                ref = EstimatorRef.model_validate(value)
        return ref

    def _check(self, plan: ExactPlan, ref: EstimatorRef) -> dict[str, Any]:
        key = digest(["assess", _ASSESS_VERSION, ref.key, *assessed(self.problem, plan)])
        start = time.monotonic()
        check, fresh = cached(self.job, stages.assess, key, lambda v: True, ref.model_dump(mode="json"))
        self.cost("assess-estimator", "cpu", 1, int(fresh), time.monotonic() - start)
        found: dict[str, Any] = check
        return found

    def _estimate(self, ref: EstimatorRef, unit: str) -> None:
        kept = self.config.shards.store_matrix
        if kept != "all":
            say(f'estimates are made while rows are selected and not stored (store_matrix = "{kept}")')
            return
        found = plan_estimate(self.problem, ref)
        missing = sum(s.missing for s in found)
        total = len(self.problem.rows) * len(self.problem.columns)
        wanted = [s for s in found if s.missing]
        given = {"estimator": ref.model_dump(mode="json")}
        self.shards("estimate-influence", shards.estimate_influence, wanted, (total, missing, unit), given)
