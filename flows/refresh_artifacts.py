"""What a person sees of a refresh in the Prefect UI: what was new, what the audit said, what was decided."""

from __future__ import annotations

from typing import Any

from prefect.artifacts import create_table_artifact

from nncift_core.text import one_line

SHOWN = {
    "refresh_decision": "decision",
    "refresh_reason": "reason",
    "refresh_previous_run": "previous run",
    "refresh_new_rows": "new pool rows",
    "refresh_removed_rows": "pool rows gone",
    "refresh_new_targets": "new target rows",
    "refresh_removed_targets": "target rows gone",
    "refresh_audit_pairs": "exact pairs that audit what is new",
    "refresh_error_new": "root mean squared error on new pairs",
    "refresh_error_known": "root mean squared error on known pairs",
    "refresh_p": "p of the rank test",
    "refresh_labels_added": "labels added",
    "refresh_entered": "rows that entered the subset",
    "refresh_left": "rows that left the subset",
}


def publish(run_id: str, facts: dict[str, Any]) -> None:
    """Create the run's table `refresh-RUN`; what was not measured is "n/a"."""
    rows = [{"what": name, "value": _shown(facts.get(fact))} for fact, name in SHOWN.items()]
    create_table_artifact(
        rows, key=f"refresh-{run_id}", description="What was new, and whether the earlier estimator holds"
    )


def _shown(value: Any) -> Any:
    if value is None or value == "":
        return "n/a"
    if isinstance(value, float):
        return float(f"{value:.4g}")
    return one_line(value, 400) if isinstance(value, str) else value
