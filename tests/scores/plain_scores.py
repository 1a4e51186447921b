"""Dynamics for tests: of plain logits in float64, and of right and wrong answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from nncift_core.classification.contract import Dynamics

ORACLE = Path(__file__).parents[1] / "data" / "oracles" / "scores.npz"


def oracle() -> dict[str, Any]:
    with np.load(ORACLE, allow_pickle=False) as arrays:
        return dict(arrays)


def points(t: int, per_epoch: int = 1) -> dict[str, Any]:
    """t logging points, `per_epoch` of them in an epoch."""
    number = np.arange(1, t + 1)
    return {"steps": number, "epochs": number / per_epoch, "epoch_end": number % per_epoch == 0}


def exact_dynamics(logits: np.ndarray, labels: np.ndarray) -> Dynamics:
    """Of logits [T, N, K], a point per epoch, nothing rounded to float32; one row at a time."""
    t, n, _ = logits.shape
    log_probability, margin, el2n = np.empty((3, t, n))
    for c in range(t):
        for i in range(n):
            f, y = logits[c, i].astype(np.float64), labels[i]
            log_p = f - np.logaddexp.reduce(f)
            log_probability[c, i], margin[c, i] = log_p[y], f[y] - max(np.delete(f, y))
            el2n[c, i] = np.linalg.norm(np.exp(log_p) - np.eye(len(f))[y])
    return Dynamics(
        **points(t),
        log_probability=log_probability,  # type: ignore[arg-type]
        margin=margin,  # type: ignore[arg-type]
        el2n=el2n,  # type: ignore[arg-type]
        predicted=logits.argmax(axis=2),
    )


def answered(right: list[str], per_epoch: int = 1) -> Dynamics:
    """Rows of label 0, one string per row, one letter per point: "+" is right, "-" wrong."""
    predicted = np.array([[letter == "-" for letter in row] for row in right], np.int64).T
    zeros = np.zeros(predicted.shape, np.float32)
    return Dynamics(
        **points(len(predicted), per_epoch),
        log_probability=np.where(predicted == 0, np.log(0.75), np.log(0.25)).astype(np.float32),
        margin=zeros,
        el2n=zeros,
        predicted=predicted,
    )
