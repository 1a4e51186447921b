"""Whether to estimate at all: seconds of computing every pair against labels, features, fit and estimates.

Both ways share reading, selection and what follows, so these are left out; so are audit pairs, which no
exact matrix needs, on the side of the exact one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from nncift_core.config import Config
from nncift_core.estimator.label_sizes import Costs, LabelCounts
from nncift_core.forecast.rates import ON_DEVICE, Rates, Work
from nncift_core.forecast.work import Sizes, matrix_work
from nncift_core.influence.registry import implementation
from nncift_core.pipeline.exact import audit_size
from nncift_core.pipeline.labelling import planned_labels

_SHARED = ("select", "prepare-function")
# Pools beyond this are not looked at.
_LARGEST = 1 << 30
_STEPS = 100


def break_even(
    config: Config, rates: Rates, letters: Mapping[str, float], rows: int, columns: int, slots: int
) -> dict[str, Any] | None:
    """Seconds of both ways for a matrix [rows, columns]; None for a job that estimates nothing anyway.

    exact_seconds, estimated_seconds; pays: whether estimating takes less; pool: distinct pool rows from
    which on it pays, at this target (for a pool against itself: of it), None where it never does;
    label_fraction: largest u, in steps of 0.01, at which it pays for this pool, None where none does.
    """
    fraction = config.influence.label_fraction
    itself = config.target.source == "self" and not config.pointwise
    if fraction >= 1 or not _rates_all(rates, _estimated(config, letters, rows, columns, fraction)):
        return None

    def seconds(work: Mapping[str, Work]) -> float:
        return sum(
            rates.stages[name].time(w, slots if name in ON_DEVICE else 1)
            for name, w in work.items()
            if w.items and name not in _SHARED and name in rates.stages
        )

    def both(m: int, u: float = fraction) -> tuple[float, float]:
        n = m if itself else columns
        return seconds(_all_exact(config, letters, m, n)), seconds(_estimated(config, letters, m, n, u))

    exact, estimated = both(rows)

    def pays(u: float) -> bool:
        whole, partly = both(rows, u)
        return partly < whole

    fractions = [k / _STEPS for k in range(1, _STEPS) if pays(k / _STEPS)]
    return {
        "exact_seconds": round(exact, 1),
        "estimated_seconds": round(estimated, 1),
        "pays": estimated < exact,
        "pool": _smallest(lambda m: (lambda e: e[1] < e[0])(both(m))),
        "label_fraction": max(fractions, default=None),
    }


def _rates_all(rates: Rates, work: Mapping[str, Work]) -> bool:
    return all(name in rates.stages for name, w in work.items() if w.items and name not in _SHARED)


def _all_exact(config: Config, letters: Mapping[str, float], m: int, n: int) -> dict[str, Work]:
    """Work where every pair is exact."""
    labels = LabelCounts("block", m, n, m * n, 0.0, 0.0, "pairs")
    sizes = Sizes(m, n, _texts(config, m, n), labels, 0, (m, n))
    work = matrix_work(config, dict(letters), sizes, m)
    if "embedding" not in implementation(config).needs:
        # Only estimators and baselines read them.
        work["embed"] = Work(0, 0.0)
    return work


def _estimated(config: Config, letters: Mapping[str, float], m: int, n: int, u: float) -> dict[str, Work]:
    """Work where a share u is labelled and the rest estimated."""
    asked = config.influence.model_copy(update={"label_fraction": u})
    config = config.model_copy(update={"influence": asked})
    costs = Costs(row=letters["row"], pair=letters["column"], unit="characters")
    priced = implementation(config).cost.per_pair > 0 and not config.pointwise
    labels = planned_labels(config, m, n, costs if priced else None)
    audit = 0 if labels.pairs == m * n else audit_size(config, m, n, labels.pairs)
    touched = min(m, labels.rows + audit), min(n, labels.columns + audit)
    return matrix_work(config, dict(letters), Sizes(m, n, _texts(config, m, n), labels, audit, touched), m)


def _texts(config: Config, m: int, n: int) -> int:
    return m if config.pointwise or config.target.source == "self" else m + n


def _smallest(pays: Callable[[int], bool]) -> int | None:
    """The smallest pool from which on it pays, by doubling and halving; None beyond `_LARGEST`."""
    low, high = 2, 4
    while not pays(high):
        low, high = high, high * 2
        if high > _LARGEST:
            return None
    while high - low > max(1, low // 100):
        middle = (low + high) // 2
        low, high = (low, middle) if pays(middle) else (middle, high)
    return high
