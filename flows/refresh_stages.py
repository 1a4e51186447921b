"""The stages of a refresh: those of a valuation, under the earlier design, with a ruling on the estimator."""

from __future__ import annotations

from typing import Any

import numpy as np

from flows import refresh_artifacts
from flows.estimation import Estimation, EstimationStages
from flows.valuation_stages import Valuation
from nncift_core.estimator.holding import Holding
from nncift_core.execution.job import Job
from nncift_core.hashing import digest
from nncift_core.pipeline.audit import batch_audit
from nncift_core.pipeline.diff import changes_since
from nncift_core.pipeline.exact import ExactPlan, plan_exact
from nncift_core.pipeline.refresh import (
    Decision,
    changes,
    extend_labels,
    going_on,
    keep_design,
    refs_of,
    ruling,
    subset_moves,
)
from nncift_core.pipeline.state import keep_state
from nncift_core.store.datasets import version_contents
from nncift_core.store.references import Refresh
from nncift_core.store.runs import Attempt, read_result
from tasks import shards
from tasks.progress import say

_NONE_BEFORE = "the workspace holds no earlier result of this job: everything is valued"
_INCOMPLETE = "the last result on these data is not complete: what it lacks is made"


class RefreshStages(Valuation):
    """A valuation that goes on from `earlier`, the published result of an earlier run, where there is one."""

    def __init__(self, job: Job, attempt: Attempt, command: str, earlier: dict[str, Any] | None) -> None:
        super().__init__(job, attempt, command)
        self.earlier = earlier
        lacking = read_result(self.ws, self.run_id) is not None
        self.decision = Decision("first", _INCOMPLETE if lacking else _NONE_BEFORE)
        self.holding: Holding | None = None
        self.audited = self.added = 0

    def run(self) -> dict[str, Any]:
        """All stages; returns the fields of `ValuationResult`."""
        result = super().run()
        refresh_artifacts.publish(self.run_id, result["facts"])
        return result

    def prepare(self) -> None:
        """As a valuation, with the state of the earlier run; then from which design to go on."""
        if self.earlier is None:
            super().prepare()
            return
        pools = [version_contents(self.ws, r) for r in refs_of(self.earlier) if r.role == "pool"]
        before = np.unique(np.concatenate(pools))
        keep_state(self.ws, self.config, self.job.identity, before, self.problem.pool.contents)
        super().prepare()
        refresh, decided = going_on(self.problem, self.earlier)
        if refresh is not None:
            self._go_on(refresh)
        if decided is not None:
            self.decision = decided

    def _go_on(self, refresh: Refresh) -> None:
        """From here on every process plans by `refresh`."""
        self.job = self.job.model_copy(update={"refresh": refresh})
        self.problem = self.job.problem()

    def estimated(self, plan: ExactPlan) -> tuple[ExactPlan, Estimation]:
        """The earlier estimator, where the audit of what is new lets it stand; else one of more labels."""
        if self.job.refresh is None or self.earlier is None:
            return super().estimated(plan)
        self.estimator_features()
        estimation = EstimationStages(self.job, self.attempt)
        fitted, check = estimation.fit(plan)
        self.audited = len(batch_audit(self.problem, plan.design)[0])
        found = ruling(self.problem, plan, check, self.earlier["facts"].get("estimator_verdict"))
        self.holding, self.decision = found, Decision("kept", found.reason)
        say(f"the earlier estimator {'holds' if found.holds else 'does not hold'}: {found.reason}")
        more = None if found.holds else self._more_labels(plan, self.job.refresh)
        if more is not None:
            plan = more
            estimation = EstimationStages(self.job, self.attempt)
            fitted, check = estimation.fit(plan)
        keep_design(self.problem, plan.design.ref.key)
        return plan, estimation.fill(plan, fitted, check, self.unit)

    def _more_labels(self, plan: ExactPlan, refresh: Refresh) -> ExactPlan | None:
        """The plan with labels for what is new, and their values; None where nothing can be labelled."""
        reason = self.decision.reason
        extended = extend_labels(self.problem, plan.design)
        if extended is None:
            self.decision = Decision(
                "kept", f"{reason}; nothing came since its labels that could be labelled"
            )
            return None
        self.decision = Decision("retrained", reason)
        self._go_on(refresh.model_copy(update={"design": extended.ref.key}))
        grown = plan_exact(self.problem)
        self.added = len(grown.labels()[0]) - len(plan.labels()[0])
        self.features(grown)
        wanted = [s for s in grown.shards if s.missing]
        counts = grown.missing, grown.missing, self.unit
        self.shards("added-labels", shards.exact_influence, wanted, counts)
        return plan_exact(self.problem)

    def more_facts(self, chosen: dict[str, Any]) -> dict[str, Any]:
        """What was new, what the audit said of it, what was decided and how the subset moved."""
        earlier, held = self.earlier, self.holding
        refs = [d.ref for d in self.problem.datasets]
        facts: dict[str, Any] = {
            "refresh_previous_run": earlier["run_id"] if earlier else "",
            "refresh_decision": self.decision.kind,
            "refresh_reason": self.decision.reason,
            "refresh_told": f"refresh: {self.decision.kind}: {self.decision.reason}",
            **changes(self.ws, refs_of(earlier) if earlier else (), refs),
            "refresh_audit_pairs": self.audited,
            "refresh_error_new": held.error_new if held else None,
            "refresh_error_known": held.error_known if held else None,
            "refresh_p": held.p if held else None,
            "refresh_labels_added": self.added,
        }
        if earlier is not None:
            facts |= subset_moves(self.ws, earlier, chosen["tables"]["selection"])
        if self.decision.kind == "retrained":
            facts["labels_kept_from_earlier_run"] = False
        return facts

    def more_tables(self, tables: dict[str, str]) -> dict[str, str]:
        """View `subset_changes`: which rows entered and left the subset since the earlier run, and why."""
        if self.earlier is None:
            return {}
        earlier = self.earlier["run_id"]
        rows = changes_since(self.problem, earlier, tables["selection"], tables["scores"], self.run_id)
        key = digest([self.run_id, "subset_changes", rows])
        parents = tables["selection"], self.earlier["tables"]["selection"]
        path = self.publish_rows("subset_changes", key, rows, producer="refresh", parents=parents)
        return {"subset_changes": path}
