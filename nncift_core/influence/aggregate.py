"""From a row's influence on single target rows to its score for a task."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nncift_core.influence.contract import Float32


def mean_by_task(matrix: Float32, tasks: npt.NDArray[np.int64]) -> Float32:
    """score[i, t] = mean of influence[i, j] over the columns j of task t.

    matrix [M, N]; tasks [N], numbers 0..T-1, each with at least one column -> float32 [M, T].
    Raises ValueError for another length or a task without columns.
    """
    if tasks.shape != (matrix.shape[1],):
        raise ValueError(f"{matrix.shape[1]} columns but {len(tasks)} task numbers")
    counts = np.bincount(tasks)
    if (counts == 0).any():
        raise ValueError(f"task {int(np.argmin(counts))} has no columns")
    scores = np.empty((matrix.shape[0], len(counts)), np.float32)
    for task in range(len(counts)):
        scores[:, task] = matrix[:, tasks == task].mean(axis=1, dtype=np.float64)
    return scores
