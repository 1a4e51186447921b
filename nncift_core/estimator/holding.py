"""The rule of a refresh: does the estimator of the previous run still hold?

The error of a measuring audit pair k is e_k = |exact_k - predicted_k|; no such pair was fitted on or chose
the estimator. R_k is its rank among the errors that are compared. Two one-sided tests ask whether errors are
larger on new pairs:

    batch:  pairs that touch what the previous run's data lacked, against pairs that touch nothing that came
            after the labels were drawn;
    since:  pairs that touch anything that came after the labels were drawn, against the same, so that slow
            drift, each batch of which passes, is seen.

Errors of one new row are alike (a row may be hard for every target), so pairs are no independent sample, and
the plain rank test of Mann and Whitney rejects far too often when few rows are new (docs/refresh.md). So the
difference of the mean ranks is measured against what varies between rows g (new columns where only those are
new), not between pairs:

    d   = mean(R | new) - mean(R | known)
    v_s = G_s / (G_s - 1) * sum_g (sum_{k in g} (R_k - mean_s))^2 / n_s^2      for s = new, known
    p   = P(t >= d / sqrt(v_new + v_known)),  t with the degrees of freedom of Welch and Satterthwaite,
          (v_new + v_known)^2 / (v_new^2 / (G_new - 1) + v_known^2 / (G_known - 1))

The estimator does not hold when a p is below `level`, or the gate refuses it now and did not before. Until a
second batch has come both tests ask the same; later the chance of a false alarm by them is at most twice
`level`. A test with fewer than `minimum` new pairs, or of fewer than 5 new rows or columns, is not made.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Bool = npt.NDArray[np.bool_]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

# With fewer, how much rows differ is not known.
MINIMUM_GROUPS = 5


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
    if counts[0] < minimum or counts[2] < MINIMUM_GROUPS or len(np.unique(groups[known])) < 2:
        return _Test(*counts)
    new_rms, known_rms = (float(np.sqrt(np.square(errors[which]).mean())) for which in (new, known))
    return _Test(*counts, new_rms, known_rms, larger(errors[new], errors[known], groups[new], groups[known]))


def larger(new: Float64, known: Float64, new_groups: Int64, known_groups: Int64) -> float:
    """p of the one-sided rank test in this module's head: are the errors `new` [n] larger than `known` [m]?

    groups: of each pair, two of either kind at least. Without any variation in ranks p is 0.5.
    """
    # Half a second to import: not for those who only ask what a command can do.
    from scipy.stats import rankdata, t

    ranks = rankdata(np.concatenate([new, known]))
    a, b = ranks[: len(new)], ranks[len(new) :]
    (v_a, g_a), (v_b, g_b) = _variance(a, new_groups), _variance(b, known_groups)
    difference, total = float(a.mean() - b.mean()), v_a + v_b
    if total == 0:
        return 0.5 if difference == 0 else float(difference < 0)
    freedom = total**2 / (v_a**2 / (g_a - 1) + v_b**2 / (g_b - 1))
    return float(t.sf(difference / np.sqrt(total), freedom))


def _variance(ranks: Float64, groups: Int64) -> tuple[float, int]:
    """Variance of the mean rank by what its groups differ in, and the number of groups."""
    _, group = np.unique(groups, return_inverse=True)
    sums = np.bincount(group, ranks - ranks.mean())
    n = len(sums)
    return float(n / (n - 1) * np.square(sums).sum() / len(ranks) ** 2), n


def _told(found: _Test) -> str:
    return (
        f"root mean squared error {found.error_new:.3g} on {found.n_new} pairs of {found.groups} of them, "
        f"{found.error_known:.3g} on {found.n_known} others, p = {found.p:.2g}"
    )
