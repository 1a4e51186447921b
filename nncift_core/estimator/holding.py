"""The rule of a refresh: does the estimator of the previous run still hold?

The error of a measuring audit pair k is e_k = |exact_k - predicted_k|; no such pair was fitted on or chose
the estimator. Two one-sided rank tests (Mann and Whitney 1947) ask whether errors are larger on new pairs:

    p_batch = P(U >= u) of {e_k: k touches what the previous run's data lacked} against {e_k: k touches
              nothing that came after the labels were drawn}
    p_since = P(U >= u) of {e_k: k touches anything that came after the labels were drawn} against the
              same, so that slow drift, each batch of which passes, is seen.

The estimator does not hold when p_batch < level, or p_since < level, or the gate refuses it now and did not
before. Until labels are added both tests ask the same of a first refresh, and the chance of a false alarm by
the tests is `level`; of later ones it is at most twice that, were pairs independent (docs/refresh.md measures
it). A test with fewer than `minimum` new pairs is not made.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nncift_core.estimator.drift import Drift, drift

Bool = npt.NDArray[np.bool_]
Float64 = npt.NDArray[np.float64]


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


def holding(
    exact: npt.NDArray[np.floating],
    predicted: npt.NDArray[np.floating],
    batch: Bool,
    since_labels: Bool,
    verdicts: tuple[str | None, str],
    why: str,
    *,
    level: float,
    minimum: int,
) -> Holding:
    """The rule above on audit pairs [k].

    batch, since_labels [k]: whether a pair touches a row or column that the previous run's data, or the draw
    of the labels, lacked; verdicts: levels of the gate before and now (None: unknown); why: the reason of the
    present one.
    """
    z, f = np.asarray(exact, np.float64), np.asarray(predicted, np.float64)
    known = ~(batch | since_labels)
    tests = [(of, _compared(z, f, new, known, minimum)) for of, new in _sets(batch, since_labels)]
    worse = [(of, d) for of, d in tests if d.p is not None and d.p < level]
    n = int(batch.sum())
    of, shown = worse[0] if worse else tests[0]
    judged = shown.p is not None
    figures = (shown.error_new, shown.error_known, shown.p)
    if worse:
        reason = f"errors are larger on {of} than on known ones: {_told(shown)} < {level:g}"
        return Holding(False, True, reason, n, *figures)
    if verdicts[0] not in (None, "refused") and verdicts[1] == "refused":
        reason = f"the audit now refuses estimates that were {verdicts[0]} before: {why}"
        return Holding(False, judged, reason, n, *figures)
    if not judged:
        known_pairs = "" if known.any() else " and none of known rows"
        reason = f"{n} measuring pairs of new rows or targets{known_pairs} are too few to judge by"
        return Holding(True, False, f"{reason} ({minimum} would do)", n, *figures)
    return Holding(True, True, f"no sign of larger errors on {of}: {_told(shown)}", n, *figures)


def _sets(batch: Bool, since_labels: Bool) -> list[tuple[str, Bool]]:
    return [
        ("new rows or targets", batch),
        ("rows or targets that came after the labels", since_labels | batch),
    ]


def _compared(z: Float64, f: Float64, new: Bool, known: Bool, minimum: int) -> Drift:
    """New pairs against known ones; without a p-value below `minimum` new pairs."""
    if int(new.sum()) < minimum or not known.any():
        return Drift(int(new.sum()), int(known.sum()))
    either = new | known
    return drift(z[either], f[either], new[either], float(z[known].mean()))


def _told(found: Drift) -> str:
    return (
        f"root mean squared error {found.error_new:.3g} on {found.n_new} pairs, {found.error_known:.3g} on "
        f"{found.n_known}, p = {found.p:.2g}"
    )
