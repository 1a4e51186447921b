"""Does an estimator still hold for rows and columns that came after its labels were drawn?"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from nncift_core.estimator.error_ranks import MINIMUM_GROUPS, enough, larger
from nncift_core.estimator.gate import Verdict

MINIMUM_NEW = 20
LEVEL = 0.01


@dataclass(frozen=True)
class Drift:
    """What audit pairs of new rows or columns say beside those of known ones.

    n_new, n_known: pairs of either kind; error_new, error_known: root mean squared errors; skill: 1 minus
    the squared error on new pairs over that of the labels' mean; p: chance of errors so much larger on new
    pairs if they were no different. The last four are None with fewer than 20 new pairs or 5 new rows (or
    columns), or hardly any known ones.
    """

    n_new: int
    n_known: int
    error_new: float | None = None
    error_known: float | None = None
    skill: float | None = None
    p: float | None = None

    @property
    def worse(self) -> bool:
        """Whether the errors are clearly larger on new pairs."""
        return self.p is not None and self.p < LEVEL

    @property
    def told(self) -> str:
        """One sentence for a person; empty when there is nothing to say."""
        if not self.n_new:
            return ""
        pairs = f"{self.n_new} audit pairs of rows or targets that came after the labels"
        if self.p is None or self.error_new is None or self.error_known is None or self.skill is None:
            enough_ = f"{MINIMUM_NEW} of {MINIMUM_GROUPS} rows would do"
            return f"{pairs} are too few to say whether the estimator holds for them ({enough_})"
        errors = (
            f"root mean squared error {self.error_new:.3g} on {pairs}, {self.error_known:.3g} on the others"
        )
        if not self.worse:
            return (
                f"no sign that estimates of what came after the labels are worse: {errors} (p = {self.p:.2g})"
            )
        return (
            f"the estimator does not hold for what came after its labels: {errors} (p = {self.p:.1g}), "
            f"skill {self.skill:.2f} where predicting the labels' mean has 0"
        )


def drift(
    truth: npt.NDArray[Any],
    predicted: npt.NDArray[Any],
    new: npt.NDArray[np.bool_],
    of: npt.NDArray[np.int64],
    centre: float,
) -> Drift:
    """Compare audit pairs [k] by `new` [k], whether their row or column came after the labels.

    of [k]: the row or column that each pair counts for (`error_ranks.groups`). Absolute errors are compared
    by ranks (`error_ranks.larger`), which one huge value cannot decide; centre: mean of the labels.
    """
    n_new, n_known = int(new.sum()), int((~new).sum())
    if not enough(new, of, MINIMUM_NEW):
        return Drift(n_new, n_known)
    errors = np.abs(np.asarray(truth, np.float64) - predicted)
    squares = [float(np.square(errors[which]).mean()) for which in (new, ~new)]
    constant = float(np.square(truth[new] - centre).mean())
    skill = 1 - squares[0] / constant if constant > 0 else 0.0
    p = larger(errors[new], errors[~new], of[new], of[~new])
    return Drift(n_new, n_known, squares[0] ** 0.5, squares[1] ** 0.5, skill, p)


def after_drift(verdict: Verdict, found: Drift) -> Verdict:
    """The verdict where errors are clearly larger on new pairs, with that as its reason: refused where their
    estimates are no better than the labels' mean, else at most "weak"; unchanged without drift."""
    if not found.worse or found.skill is None:
        return verdict
    refused = verdict.level == "refused" or found.skill <= 0
    reason = f"{found.told}; over all audit pairs: {verdict.reason}"
    return replace(verdict, level="refused" if refused else "weak", reason=reason)
