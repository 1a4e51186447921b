"""Intervals around estimates that hold their promise whatever the estimator is: split-conformal.

Residuals on audit pairs, which no fit has seen, give one half width. With audit pairs and new pairs drawn
alike, an interval covers a new pair with at least the promised probability, over both draws (Vovk et al.
2005; Lei et al. 2018). It is an interval for pairs at large: it does not say which pairs are predicted well.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Conformal:
    """Intervals `prediction +- half_width * scale`; without a scale, `prediction +- half_width`.

    half_width: None when the n audit pairs are too few for `level`, in influence units unless `scaled`.
    """

    half_width: float | None
    level: float
    n: int
    scaled: bool = False

    @property
    def text(self) -> str:
        """One sentence for people."""
        share = f"{100 * self.level:g} %"
        if self.half_width is None:
            return f"no {share} interval: {self.n} audit pairs are too few"
        unit = " times the estimator's own standard deviation" if self.scaled else ""
        return f"{share} of unseen pairs lie within {self.half_width:.3g}{unit} ({self.n} audit pairs)"

    def bounds(
        self, predicted: npt.NDArray[Any], scale: npt.NDArray[Any] | None = None
    ) -> tuple[Float64, Float64] | None:
        """Lower and upper ends for `predicted` of any shape; None without a half width.

        Raises ValueError when `scale`, of the same shape, is missing or given against `scaled`.
        """
        p = np.asarray(predicted, np.float64)
        s = _scale(scale, p.shape)
        if (scale is not None) != self.scaled:
            raise ValueError(f"these intervals {'need a' if self.scaled else 'have no'} scale per pair")
        if self.half_width is None:
            return None
        half = self.half_width * s
        return p - half, p + half

    def covers(
        self, truth: npt.NDArray[Any], predicted: npt.NDArray[Any], scale: npt.NDArray[Any] | None = None
    ) -> float | None:
        """Share of `truth` [k] inside the intervals; None without a half width or without pairs."""
        ends = self.bounds(predicted, scale)
        z = np.asarray(truth, np.float64)
        if ends is None or len(z) == 0:
            return None
        return float(((ends[0] <= z) & (z <= ends[1])).mean())

    def as_row(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def conformal(
    truth: npt.NDArray[Any],
    predicted: npt.NDArray[Any],
    level: float = 0.9,
    scale: npt.NDArray[Any] | None = None,
) -> Conformal:
    """Split-conformal intervals from audit pairs [n] that neither fitted nor chose the estimator.

    half_width is the ceil((n + 1) * level)-th smallest of |truth - predicted|, or of that over `scale` [n]
    (say, the estimator's own standard deviation). None below 1 / (1 - level) pairs (10 at 0.9), where the
    single largest residual or less would have to decide.
    Raises ValueError for a level outside (0, 1), lengths that differ, numbers that are not finite, or a
    scale that is not positive.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must be in (0, 1), got {level}")
    z, p = np.asarray(truth, np.float64), np.asarray(predicted, np.float64)
    if z.ndim != 1 or p.shape != z.shape:
        raise ValueError(f"predicted is {list(p.shape)}, the exact values are {list(z.shape)}")
    residuals = np.abs(z - p) / _scale(scale, z.shape)
    bad = int((~np.isfinite(residuals)).sum())
    if bad:
        raise ValueError(f"{bad} of {len(z)} residuals are not finite")
    # The small steps keep 10 * (1 - 0.9) at 1 and (9 + 1) * 0.9 at 9.
    if len(z) * (1 - level) < 1 - 1e-9:
        return Conformal(None, level, len(z), scale is not None)
    rank = math.ceil((len(z) + 1) * level - 1e-9)
    half = float(np.partition(residuals, rank - 1)[rank - 1])
    return Conformal(half, level, len(z), scale is not None)


def _scale(scale: npt.NDArray[Any] | None, shape: tuple[int, ...]) -> Float64:
    """`scale` as float64, ones for None; checked."""
    if scale is None:
        return np.ones(shape)
    s = np.asarray(scale, np.float64)
    if s.shape != shape:
        raise ValueError(f"scale is {list(s.shape)}, the predictions are {list(shape)}")
    bad = int((~(np.isfinite(s) & (s > 0))).sum())
    if bad:
        raise ValueError(f"{bad} of {s.size} scales are not positive and finite")
    return s
