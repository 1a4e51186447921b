"""The stages of one method inside the attempt of a flow that compares several."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from flows.estimation import Estimation, EstimationStages
from flows.exact_stages import ExactStages
from flows.stages import Done
from nncift_core.execution.job import Job
from nncift_core.pipeline.exact import ExactPlan
from nncift_core.pipeline.methods import Method, method_config
from nncift_core.pipeline.problem import Problem, keys_of
from nncift_core.store.references import EstimatorRef
from nncift_core.store.runs import Attempt


@dataclass(frozen=True)
class Valued:
    """A method whose matrix is complete: its job and problem, the design and audit, what fills the rest."""

    method: Method
    job: Job
    problem: Problem
    plan: ExactPlan
    estimation: Estimation

    @property
    def ref(self) -> EstimatorRef | None:
        """What estimates the pairs that are not exact; None where all are."""
        return self.estimation.used


def method_job(job: Job, method: Method) -> Job:
    """The job of a method over the data sets that `job` has stored."""
    config = method_config(job.config, method)
    return job.model_copy(
        update={
            "config_json": config.model_dump_json(),
            "identity": keys_of(config),
            "refresh": None,
            "own_values": method.values == "estimated",
        }
    )


class _Named(ExactStages):
    """Stages whose costs carry the method's name."""

    method: Method

    def _stage(self, name: str) -> str:
        own = f" ({self.method.name})"
        return name if name.endswith(own) else name + own

    @contextmanager
    def stage(self, name: str, items: int, missing: int, unit: str) -> Iterator[Done]:
        """As `Stages.stage`, under the method's name."""
        with super().stage(self._stage(name), items, missing, unit) as done:
            yield done

    def cost(
        self, name: str, device: str, items: int, computed: int, seconds: float, workers_mb: float = 0.0
    ) -> None:
        """As `Stages.cost`, under the method's name."""
        super().cost(self._stage(name), device, items, computed, seconds, workers_mb)


class _Estimates(_Named, EstimationStages):
    """Fit, assessment and estimates of one method."""

    def __init__(self, job: Job, attempt: Attempt, method: Method) -> None:
        super().__init__(job, attempt)
        self.method = method


class MethodStages(_Named):
    """All stages of one method up to its completed matrix; what other methods have stored is reused."""

    def __init__(self, job: Job, attempt: Attempt, method: Method) -> None:
        super().__init__(method_job(job, method), attempt)
        self.method = method

    def value(self) -> Valued:
        """Exact values, and estimates of the rest where the method learns. Raises RunError as a run does."""
        self.prepare()
        self.embed()
        plan = self.exact()
        estimation = Estimation()
        if not self.problem.all_exact:
            self.estimator_features()
            stages = _Estimates(self.job, self.attempt, self.method)
            estimation = stages.fill(plan, *stages.fit(plan), self.unit)
        return Valued(self.method, self.job, self.problem, plan, estimation)


def described(valued: Valued) -> dict[str, Any]:
    """What a table says of how a method got its values."""
    plan, facts = valued.plan, valued.estimation.facts()
    config = valued.problem.config
    return {
        "method": valued.method.name,
        "function": valued.method.function,
        "origin": valued.method.values,
        "teacher": config.language_model.model if valued.method.teacher else None,
        "rule": config.resolve_rule(),
        "pairs": len(valued.problem.rows) * len(valued.problem.columns),
        "exact_pairs": plan.pairs,
        "predictor": facts.get("estimator_used"),
        "verdict": facts.get("estimator_verdict"),
        "reason": facts.get("estimator_reason"),
    }
