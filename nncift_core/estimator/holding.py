"""The rule of a refresh: does the estimator of the previous run still hold?

The error of a measuring audit pair k is e_k = |exact_k - predicted_k|; no such pair was fitted on or chose
the estimator. Two one-sided tests ask whether errors are
larger on new pairs:

    batch:  pairs that touch what the previous run's data lacked, against pairs that touch nothing that came
            after the labels were drawn;
    since:  pairs that touch anything that came after the labels were drawn, against the same, so that slow
            drift, each batch of which passes, is seen.

The test is that of `error_ranks`, which compares rows (new columns where only those are new), not pairs.

The estimator does not hold when a p is below `level`, or the gate refuses it now and did not before. Until a
second batch has come both tests ask the same; later the chance of a false alarm by them is at most twice
`level`. A test with fewer than `minimum` new pairs, or of fewer than 5 new rows or columns, is not made.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nncift_core.estimator.error_ranks import MINIMUM_GROUPS, enough, larger

Bool = npt.NDArray[np.bool_]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Holding:
    """What the rule says, and by which figures.

    judged: whether there were enough new pairs to say anything; pairs: measuring pairs of the newest batch;
    error_new, error_known: root mean squared errors on new and on known pairs, and p: of the test that
    decided (the batch's where none did), None where it was not made.
    """

    holds: bool
    judged: bool
    reason: str
    pairs: int
    error_new: float | None = None
    error_known: float | None = None
    p: float | None = None


@dataclass(frozen=True)
class _Test:
    """One test: pairs of either kind, new rows or columns, RMS errors, p (None: not made)."""

    n_new: int
    n_known: int
    groups: int
    error_new: float | None = None
    error_known: float | None = None
    p: float | None = None


def holding(
    exact: npt.NDArray[np.floating],
    predicted: npt.NDArray[np.floating],
    batch: Bool,
    since_labels: Bool,
    groups: Int64,
    verdicts: tuple[str | None, str],
    why: str,
    *,
    level: float,
    minimum: int,
) -> Holding:
    """The rule above on audit pairs [k].

    batch, since_labels [k]: whether a pair touches a row or column that the previous run's data, or the draw
    of the labels, lacked; groups [k]: a number for the row, or the new column, whose errors may be alike;
    verdicts: levels of the gate before and now (None: unknown); why: the reason of the present one.
    """
    errors = np.abs(np.asarray(exact, np.float64) - np.asarray(predicted, np.float64))
    known = ~(batch | since_labels)
    sets = [("new rows or targets", batch)]
    sets += [("rows or targets that came after the labels", since_labels | batch)]
    tests = [(of, _compared(errors, new, known, groups, minimum)) for of, new in sets]
    worse = [(of, t) for of, t in tests if t.p is not None and t.p < level]
    made = worse or [(of, t) for of, t in tests if t.p is not None] or tests
    of, shown = made[0]
    n = int(batch.sum())
    figures = shown.error_new, shown.error_known, shown.p
    if worse:
        reason = f"errors are larger on {of} than on known ones: {_told(shown)} < {level:g}"
        return Holding(False, True, reason, n, *figures)
    if verdicts[0] not in (None, "refused") and verdicts[1] == "refused":
        reason = f"the audit now refuses estimates that were {verdicts[0]} before: {why}"
        return Holding(False, shown.p is not None, reason, n, *figures)
    if shown.p is None:
        against = "" if known.any() else " and none of known rows"
        reason = (
            f"{shown.n_new} measuring pairs of {shown.groups} new rows or targets{against} are too few to "
            f"judge by ({minimum} of {MINIMUM_GROUPS} would do)"
        )
        return Holding(True, False, reason, n)
    return Holding(True, True, f"no sign of larger errors on {of}: {_told(shown)}", n, *figures)


def _compared(errors: Float64, new: Bool, known: Bool, groups: Int64, minimum: int) -> _Test:
    counts = int(new.sum()), int(known.sum()), len(np.unique(groups[new]))
    either = new | known
    if not enough(new[either], groups[either], minimum):
        return _Test(*counts)
    new_rms, known_rms = (float(np.sqrt(np.square(errors[which]).mean())) for which in (new, known))
    return _Test(*counts, new_rms, known_rms, larger(errors[new], errors[known], groups[new], groups[known]))


def _told(found: _Test) -> str:
    return (
        f"root mean squared error {found.error_new:.3g} on {found.n_new} pairs of {found.groups} of them, "
        f"{found.error_known:.3g} on {found.n_known} others, p = {found.p:.2g}"
    )
