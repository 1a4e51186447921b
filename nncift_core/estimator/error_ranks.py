"""Are errors larger on some pairs than on others? A rank test that knows that errors of one row are alike.

A row may be hard for every target, so pairs are no independent sample, and the plain rank test of Mann and
Whitney (1947) rejects far too often when few rows are new. So the difference of the mean ranks R of errors is
measured against what varies between groups g of pairs (rows, or columns), not between pairs:

    d   = mean(R | new) - mean(R | known)
    v_s = G_s / (G_s - 1) * sum_g (sum_{k in g} (R_k - mean_s))^2 / n_s^2      for s = new, known
    p   = P(t >= d / sqrt(v_new + v_known)),  t with the degrees of freedom of Welch and Satterthwaite,
          (v_new + v_known)^2 / (v_new^2 / (G_new - 1) + v_known^2 / (G_known - 1))
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Bool = npt.NDArray[np.bool_]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

# With fewer new groups, how much they differ is not known.
MINIMUM_GROUPS = 5


def groups(rows: Int64, columns: Int64, new_row: Bool, new_column: Bool) -> Int64:
    """A number per pair [k], of its row; of its column where only that is new (new_row, new_column [k])."""
    by_column = new_column & ~new_row
    which = np.stack([by_column.astype(np.int64), np.where(by_column, columns, rows)])
    return np.unique(which, axis=1, return_inverse=True)[1].ravel()


def enough(new: Bool, of: Int64, minimum: int) -> bool:
    """Whether `new` [k] are pairs enough for a test: `minimum` of them in 5 groups, and the others in two."""
    counts = len(np.unique(of[new])), len(np.unique(of[~new]))
    return int(new.sum()) >= minimum and counts[0] >= MINIMUM_GROUPS and counts[1] >= 2


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
