"""From stored data to exact values: the stages that a valuation and a sweep have in common."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from flows.stages import Stages
from nncift_core.hashing import digest
from nncift_core.pipeline.embed import embeddings_needed, plan_embed
from nncift_core.pipeline.estimator_features import plan_estimator_features
from nncift_core.pipeline.exact import ExactPlan, plan_exact
from nncift_core.pipeline.features import features_needed, plan_features
from nncift_core.pipeline.problem import SIDES
from nncift_core.pipeline.state import facts_of_state, needs_state, plan_state
from nncift_core.store.runs import Attempt
from tasks import stages
from tasks.job import Job
from tasks.running import cached, run_shards


class ExactStages(Stages):
    """Stages `prepare-function`, `embed`, `estimator-features`, `features` and `exact-influence`.

    state_facts: what a person should know of the function's state, once it is there.
    """

    def __init__(self, job: Job, attempt: Attempt) -> None:
        super().__init__(job, attempt)
        self.state_facts: dict[str, Any] = {}
        self.unit = "rows" if self.config.pointwise else "pairs"

    def prepare(self) -> None:
        """Fit the function's state where it lacks one; from here on the job's keys name it."""
        if not needs_state(self.config):
            return
        state = plan_state(self.problem)
        with self.stage("prepare-function", 1, 0 if state.ready else 1, "state"):
            if not state.ready:
                key = digest(["prepare", state.key])
                cached(self.job, stages.prepare_function, key, lambda v: plan_state(self.problem).ready)
        self.state_facts = {"state_kept_from_earlier_run": state.kept, **facts_of_state(self.ws, state)}
        identity = self.job.identity.with_state(state.key)
        self.job = self.job.model_copy(update={"identity": identity})
        self.problem = self.job.problem()

    def embed(self) -> None:
        """Vectors of texts, where any later stage reads them."""
        if not embeddings_needed(self.config):
            return
        shards, total = plan_embed(self.problem)
        missing = sum(len(s.content_ids) for s in shards)
        with self.stage("embed", total, missing, "texts"):
            run_shards(self.job, stages.embed, [asdict(s) for s in shards])
        for side in SIDES:
            self.problem.vectors(side).refresh()

    def estimator_features(self) -> None:
        """What the estimator reads beside embeddings: forward passes of the influence model."""
        shards, total = plan_estimator_features(self.problem)
        if not total:
            return
        missing = sum(len(s.content_ids) for s in shards)
        with self.stage("estimator-features", total, missing, "texts"):
            run_shards(self.job, stages.estimator_features, [asdict(s) for s in shards])

    def features(self, plan: ExactPlan) -> None:
        """The function's features, where it has some, of what the missing pairs of `plan` touch."""
        if not features_needed(self.config):
            return
        shards, total = plan_features(self.problem, plan)
        missing = sum(len(s.content_ids) for s in shards)
        with self.stage("features", total, missing, "rows"):
            run_shards(self.job, stages.features, [asdict(s) for s in shards])
        for side in SIDES:
            self.problem.features(side).refresh()

    def exact(self) -> ExactPlan:
        """Exact values of labels and audit; returns the plan as it is afterwards."""
        plan = plan_exact(self.problem)
        self.features(plan)
        with self.stage("exact-influence", plan.pairs, plan.missing, self.unit):
            run_shards(self.job, stages.exact_influence, [asdict(s) for s in plan.shards if s.missing])
        return plan_exact(self.problem)
