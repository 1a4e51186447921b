"""What a prune job would do: rows, classes, trainings; nothing is started or written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nncift_core.config_prune import PruneConfig
from nncift_core.pipeline.inputs import Input
from nncift_core.pruning.inputs import check_prune_devices, labels_note, read_labelled_inputs
from nncift_core.pruning.job import prune_keys
from nncift_core.pruning.studies import label_sets, points, run_seeds
from nncift_core.store.workspace import Workspace


def checked(config: PruneConfig, workspace: str | Path) -> list[Input]:
    """The labelled rows of a job, read and checked with all else that it needs; nothing is written.

    Raises UserError for rows, models, devices and a workspace that no run could use.
    """
    inputs = read_labelled_inputs(config)
    prune_keys(config)
    check_prune_devices(config)
    Workspace.check_usable(workspace)
    return inputs


def overview(config: PruneConfig, workspace: str | Path) -> dict[str, Any]:
    """Counts of a job, at most: trainings that are kept already, or shared by points, are not taken off.

    labels_note: what to look at before it is run, "" for nothing. Raises UserError as `checked`.
    """
    inputs = checked(config, workspace)
    by_role = {i.role: len(i.examples) for i in inputs}
    labels = label_sets(config)
    return {
        "rows": by_role["train"],
        "test_rows": by_role["test"],
        "new_rows": by_role.get("new", 0),
        "rows_dropped": sum(len(i.report.dropped) for i in inputs),
        "classes": len({e.label for e in inputs[0].examples}),
        "text": inputs[0].report.shape,
        "mode": config.training.mode,
        "label_sets": len(labels),
        "trainings_for_scores": len(labels) * len(run_seeds(config)),
        "trainings_on_subsets": len(points(config)),
        "labels_note": labels_note(inputs),
    }
