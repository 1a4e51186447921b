"""From stored data to exact values: the stages that a valuation and a sweep have in common."""

from __future__ import annotations

from typing import Any

from flows.stages import Stages
from nncift_core.execution.job import Job
from nncift_core.pipeline.embed import embeddings_needed, plan_embed
from nncift_core.pipeline.estimator_features import plan_estimator_features
from nncift_core.pipeline.exact import ExactPlan, plan_exact
from nncift_core.pipeline.features import features_needed, plan_features
from nncift_core.pipeline.state import facts_of_state, needs_state, plan_state
from nncift_core.store.runs import Attempt
from tasks import shards
from tasks.running import run_shards


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
                run_shards(self.job, shards.prepare_function, [{"name": "", "state": state.key}])
        self.state_facts = {"state_kept_from_earlier_run": state.kept, **facts_of_state(self.ws, state)}
        identity = self.job.identity.with_state(state.key)
        self.job = self.job.model_copy(update={"identity": identity})
        self.problem = self.job.problem()

    def embed(self) -> None:
        """Vectors of texts, where any later stage reads them."""
        if not embeddings_needed(self.config):
            return
        found, total = plan_embed(self.problem)
        missing = sum(len(s.content_ids) for s in found)
        self.shards("embed", shards.embed, found, (total, missing, "texts"))
        self.problem.look_again()

    def estimator_features(self) -> None:
        """What the estimator reads beside embeddings: forward passes of the influence model."""
        found, total = plan_estimator_features(self.problem)
        if not total:
            return
        missing = sum(len(s.content_ids) for s in found)
        self.shards("estimator-features", shards.estimator_features, found, (total, missing, "texts"))
        self.problem.look_again()

    def features(self, plan: ExactPlan) -> None:
        """The function's features, where it has some, of what the missing pairs of `plan` touch."""
        if not features_needed(self.config):
            return
        found, total = plan_features(self.problem, plan)
        missing = sum(len(s.content_ids) for s in found)
        self.shards("features", shards.features, found, (total, missing, "rows"))
        self.problem.look_again()

    def exact(self) -> ExactPlan:
        """Exact values of labels and audit; returns the plan as it is afterwards."""
        plan = plan_exact(self.problem)
        self.features(plan)
        wanted = [s for s in plan.shards if s.missing]
        self.shards("exact-influence", shards.exact_influence, wanted, (plan.pairs, plan.missing, self.unit))
        return plan_exact(self.problem)
