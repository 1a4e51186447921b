"""The rehearsal from labels to a subset: fit, audit, estimates, selection."""

from __future__ import annotations

from nncift_core.forecast.measuring import seconds_of_call
from nncift_core.forecast.setting import Setting, clock
from nncift_core.influence.registry import create
from nncift_core.pipeline.assess import assess_estimator
from nncift_core.pipeline.choose import choose, scores_table, selection_table, write_subset
from nncift_core.pipeline.estimate import estimate_shard, estimator_key, plan_estimate, train
from nncift_core.pipeline.exact import ExactPlan
from nncift_core.pipeline.overview import best_table, histogram_table
from nncift_core.pipeline.result import members_table
from nncift_core.store.references import EstimatorRef
from nncift_core.store.runs import publish_table

_RUN = "rehearsal"
# Seconds from which on a selection may have spent most of its time on compiling.
_SLOW = 2.0


class FitRehearsal:
    """Everything that follows exact values on the processor of the flow's own process."""

    def __init__(self, setting: Setting) -> None:
        self.s = setting

    def run(self, plan: ExactPlan) -> float:
        """All of it; returns the seconds that a run spends beside its stages for it."""
        ref, beside = (None, 0.0) if self.s.problem.all_exact else self._fit(plan)
        self._select(plan, ref)
        return beside

    def _fit(self, plan: ExactPlan) -> tuple[EstimatorRef, float]:
        problem = self.s.problem
        self.s.mark()
        start = clock()
        # The first key of a workspace measures which kernel predicts there.
        key = estimator_key(problem, plan)
        beside = clock() - start
        start = clock()
        ref = train(problem, plan, key)
        self.s.found("train-influence-network", clock() - start)
        taken = seconds_of_call(lambda: assess_estimator(problem, plan, ref))
        self.s.mark()
        self.s.found("assess-estimator", taken)
        if self.s.work["estimate-influence"].items:
            start = clock()
            for shard in plan_estimate(problem, ref):
                estimate_shard(problem, ref, shard)
            self.s.found("estimate-influence", clock() - start)
        return ref, beside

    def _select(self, plan: ExactPlan, ref: EstimatorRef | None) -> None:
        problem, ws = self.s.problem, self.s.problem.ws
        function = create(self.s.config, *self.s.devices)
        if problem.keys.state is not None:
            function.load_state(ws.state_dir(problem.keys.state))
        self.s.mark()
        start = clock()
        choice = choose(problem, function, ref)
        if clock() - start > _SLOW:
            # The first selection on a machine compiles its loops; a run finds them compiled.
            start = clock()
            choice = choose(problem, function, ref)
        tables = {
            "members": members_table(problem, plan),
            "influence_histogram": histogram_table(_RUN, problem, choice.overview, "estimated"),
            "influence_best": best_table(_RUN, problem, choice.overview),
            "scores": scores_table(_RUN, problem, choice),
            "selection": selection_table(_RUN, choice, problem.pool),
        }
        for name, table in tables.items():
            publish_table(ws, _RUN, name, _RUN, table, producer="select", parents=())
        write_subset(ws, ws.subset_file(_RUN), problem.pool, choice, key=_RUN, parents=())
        self.s.found("select", clock() - start)
