"""`kernel`: a Kronecker Gaussian process on row and column features with a linear mean on pair features.

    (z - mean) / sd  ~  F beta + GP(0, sigma^2 (K_r (x) K_c + s^2 I)),    beta ~ N(0, sigma^2 diag(t)),
    K = a + exp(-sum_g w_g D_g) + d I.

Weights of groups w, biases a, own effects d, noise s^2 and widths t by marginal likelihood (type II maximum
likelihood, Rasmussen and Williams 2006, chapter 5), on at most 150 x 50 labels of a block and about 600 of
scattered ones; sigma^2 in closed form; then one solve with all labels. beta of a block is the mean of that
solve's and of `kernel_held_out`'s. A pointwise function has one column.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from nncift_core.estimator import kernel_block, kernel_iterative, kernel_pairs
from nncift_core.estimator.contract import Estimator, Features, Float32, Float64, Int64, checked_labels
from nncift_core.estimator.kernel_block import BlockVariance
from nncift_core.estimator.kernel_held_out import held_out_slopes
from nncift_core.estimator.kernel_labels import Labels, drawn, hyperparameters, labels_of, sub_block
from nncift_core.estimator.kernel_pairs import Pairs, PairVariance
from nncift_core.estimator.kernel_search import Hyper, scale_of
from nncift_core.estimator.kernel_sides import Scaled, Side, SideWeights
from nncift_core.estimator.kernel_thin import Linear, Thin
from nncift_core.estimator.warm import Unfit
from nncift_core.hashing import hash_rank

_STD_CHUNK = 1024


class Kernel:
    """Gaussian process over pairs (module docstring); fills `contract.Estimator`.

    A row or column is known again by its content id; labels of one pair are averaged. Labels that form a
    full product are solved by eigen-decompositions (R^3 + C^3), others pair by pair (`kernel_pairs`).
    After a fit `thin` and `linear` predict; `form` says how it was solved, `steps` in how many steps of
    conjugate gradients. A warm start gives the hyperparameters at which their search begins.
    """

    name: ClassVar[str] = "kernel"
    learned: ClassVar[bool] = True

    def __init__(self) -> None:
        self._previous: Estimator | None = None

    def warm(self, previous: Estimator) -> Self:
        """As `warm.WarmStarting.warm`."""
        self._previous = previous
        return self

    def fit(self, features: Features, i: Int64, j: Int64, values: npt.NDArray[Any], *, seed: int) -> Self:
        """As `contract.Estimator.fit`. Raises ValueError for features without any group or pair feature,
        and for features of labelled items that are not finite."""
        if not features.rows and not features.columns and not features.pairs:
            raise ValueError("kernel needs at least one feature group or pair feature")
        z = checked_labels(features, i, j, values)
        labels = labels_of(features, i, j, z)
        rows, columns = Scaled.of(features.rows, labels.rows), Scaled.of(features.columns, labels.columns)
        start, told = self._start(labels, rows, columns)
        hyper = hyperparameters(labels, rows, columns, seed, start)
        self.noise, self.widths = hyper.noise, hyper.widths
        self.block_variance: BlockVariance | None = None
        self.pair_variance: PairVariance | None = None
        self.variance_pairs: Pairs | None = None
        self.shift, self.scale = labels.shift, labels.scale
        fitted = self._fit_block if labels.is_block else self._fit_pairs
        beta, quadratic, logdet = fitted(features, labels, rows, columns, hyper, seed)
        n = len(labels.pairs.y)
        self.sigma = math.sqrt(scale_of(quadratic, n))
        self.linear = Linear(labels.linear.names, labels.linear.mean, labels.linear.sd, self.scale * beta)
        self.facts = _facts(labels, hyper, rows, columns, beta, self.sigma, len(z))
        if logdet is not None:
            value = kernel_block.likelihood(quadratic, logdet, n) + n / 2 * math.log(2 * math.pi * math.e)
            self.facts["log_marginal_likelihood_per_label"] = -value / n
        self.facts |= {"form": self.form, "steps": self.steps} | told
        return self

    def _start(self, labels: Labels, rows: Scaled, columns: Scaled) -> tuple[Hyper | None, dict[str, str]]:
        """The earlier fit's hyperparameters, and for `describe` whether they serve; once only."""
        previous, self._previous = self._previous, None
        if previous is None:
            return None, {}
        try:
            return _hyper_of(previous, labels, rows, columns), {"warm_start": "yes"}
        except Unfit as reason:
            return None, {"warm_start": f"no: {reason}"}

    def _fit_block(
        self, features: Features, labels: Labels, rows: Scaled, columns: Scaled, hyper: Hyper, seed: int
    ) -> tuple[Float64, float, float | None]:
        row_side = Side.of(rows, hyper.rows, np.arange(rows.n), labels.row_ids)
        column_side = Side.of(columns, hyper.columns, np.arange(columns.n), labels.column_ids)
        at = kernel_block.solve_block(row_side, column_side, labels.block(), hyper.noise, hyper.widths)
        self.form, self.steps = "block", 0
        beta = at.beta
        if len(beta):
            held_out = held_out_slopes(*sub_block(labels, rows, columns, seed), hyper)
            # Held-out fits see fewer labels than this one, so the truth lies between the two.
            beta = beta if held_out is None else (beta + held_out) / 2
        self.thin = Thin.of(row_side, column_side, labels.scale * (at.Qr @ at.alpha_of(beta) @ at.Qc.T))
        self.block_variance = BlockVariance.of(at, hyper.noise)
        return beta, at.quadratic, at.logdet

    def _fit_pairs(
        self, features: Features, labels: Labels, rows: Scaled, columns: Scaled, hyper: Hyper, seed: int
    ) -> tuple[Float64, float, float | None]:
        pairs = labels.pairs
        exact = kernel_iterative.exact_is_cheap(rows.n, columns.n)
        limit = kernel_iterative.EXACT_ITEMS if exact else kernel_iterative.LANDMARKS
        row_side = Side.of(rows, hyper.rows, drawn(labels.row_ids, seed, limit), labels.row_ids)
        column_side = Side.of(
            columns, hyper.columns, drawn(labels.column_ids, seed, limit), labels.column_ids
        )
        direct = exact and len(pairs.y) <= kernel_pairs.DIRECT
        if direct:
            self.form = "pairs, Cholesky"
            at = kernel_pairs.solve_direct(row_side, column_side, pairs, hyper.noise, hyper.widths)
        elif exact:
            self.form = "pairs, conjugate gradients"
            at = kernel_iterative.solve_grid(row_side, column_side, pairs, hyper.noise, hyper.widths)
        else:
            self.form = "pairs, conjugate gradients, landmarks"
            k_r = row_side.against(features.rows, labels.rows)
            k_c = column_side.against(features.columns, labels.columns)
            at = kernel_iterative.solve_landmarks(
                row_side, column_side, k_r, k_c, pairs, hyper.noise, hyper.widths
            )
        self.steps = at.steps
        if exact:
            rank = hash_rank(labels.row_ids[pairs.r], seed, "kernel-std", labels.column_ids[pairs.c])
            self.variance_pairs = pairs.take(np.sort(np.argsort(rank)[: kernel_pairs.DIRECT]))
        parts = (labels.scale * x for x in (at.W, at.row_part, at.column_part))
        self.thin = Thin.of(row_side, column_side, *parts)
        return at.beta, at.quadratic, at.logdet

    def predict(self, features: Features) -> Float32:
        """As `contract.Estimator.predict`: `k_r W k_c^T + F beta`, thin matrix products in float32."""
        return self.thin.tile(features, self.linear.weighted(features, self.shift))

    def predict_pairs(self, features: Features, i: Int64, j: Int64) -> Float32:
        """As `contract.Estimator.predict_pairs`."""
        out = self.thin.pairs(features, i, j)
        self.linear.add_pairs(out, features, i, j)
        out += np.float32(self.shift)
        return out

    def std(self, features: Features, i: Int64, j: Int64) -> Float32 | None:
        """Root of the Gaussian process's variance with noise, at each pair [k].

        None when labels do not vary (no scale is known) and for labels scattered over more rows or columns
        than the exact kernels take (their variance through landmarks is too small to trust). With more
        scattered labels than one Cholesky factor takes, it is that given a subsample of them: an upper bound.
        """
        variance = self._variance()
        if variance is None or self.scale == 0:
            return None
        rows, columns = self.thin.rows, self.thin.columns
        own = [side.a + 1 + side.d for side in (rows, columns)]
        out = np.empty(len(i), np.float32)
        for first in range(0, len(i), _STD_CHUNK):
            r, c = i[first : first + _STD_CHUNK], j[first : first + _STD_CHUNK]
            f = self.linear.standardised(features, r, c)
            k_r = _with_own(rows, features.rows, features.row_ids, r)
            k_c = _with_own(columns, features.columns, features.column_ids, c)
            out[first : first + _STD_CHUNK] = np.sqrt(variance.variance(k_r, k_c, own[0] * own[1], f))
        out *= np.float32(self.sigma * self.scale)
        return out

    def _variance(self) -> BlockVariance | PairVariance | None:
        if self.variance_pairs is None:
            return self.block_variance
        if self.pair_variance is None:
            # Made when first asked for: a state keeps the labels' places and not their inverse covariance.
            self.pair_variance = PairVariance.of(
                self.thin.rows, self.thin.columns, self.variance_pairs, self.noise, self.widths
            )
        return self.pair_variance

    def describe(self) -> dict[str, Any]:
        """Form, number of labels, noise share of the labels' variance, weights of feature groups by side,
        slopes of the standardised pair features, log marginal likelihood per standardised label where the
        form gives it."""
        return dict(self.facts)

    def state(self) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        """As `contract.Estimator.state`."""
        arrays, settings = self.thin.state()
        linear, widths = self.linear, self.widths
        arrays |= {"mean": linear.mean, "sd": linear.sd, "beta": linear.beta, "widths": widths}
        if self.block_variance is not None:
            block, _ = self.block_variance.state()
            arrays |= block
        if self.variance_pairs is not None:
            pairs = self.variance_pairs
            arrays |= {"pairs.r": pairs.r, "pairs.c": pairs.c, "pairs.y": pairs.y, "pairs.F": pairs.F}
        numbers = {
            name: getattr(self, name)
            for name in ("shift", "scale", "noise", "sigma", "form", "steps", "facts")
        }
        return arrays, settings | numbers | {"name": self.name, "pair_features": list(linear.names)}

    @classmethod
    def from_state(cls, arrays: dict[str, npt.NDArray[Any]], settings: dict[str, Any]) -> Self:
        """As `contract.Estimator.from_state`."""
        if settings["name"] != cls.name:
            raise ValueError(f"this is the state of {settings['name']!r}, not of {cls.name!r}")
        new = cls()
        for name in ("shift", "scale", "noise", "sigma", "form", "steps", "facts"):
            setattr(new, name, settings[name])
        new.thin = Thin.from_state(arrays, settings)
        mean, sd, beta, new.widths = (arrays[name] for name in ("mean", "sd", "beta", "widths"))
        new.linear = Linear(tuple(settings["pair_features"]), mean, sd, beta)
        new.block_variance, new.pair_variance, new.variance_pairs = None, None, None
        if "block.Qr" in arrays:
            new.block_variance = BlockVariance.from_state(arrays, settings)
        if "pairs.r" in arrays:
            new.variance_pairs = Pairs(*(arrays[f"pairs.{name}"] for name in ("r", "c", "y", "F")))
        return new


def _with_own(side: Side, groups: Mapping[str, Float32], ids: Int64, at: Int64) -> Float64:
    """Kernel of the items at `at` with the labelled items, with their own effect, [k, m]."""
    items, inverse = np.unique(at, return_inverse=True)
    out = side.against(groups, items).astype(np.float64)
    here, place = side.known(ids[items])
    out[here, place] += side.d
    return out[inverse]


def _hyper_of(previous: Estimator, labels: Labels, rows: Scaled, columns: Scaled) -> Hyper:
    """Hyperparameters of an earlier fit on the same groups and pair features; raises Unfit without one."""
    if not isinstance(previous, Kernel):
        raise Unfit(f"the earlier fit is {previous.name!r}, not {Kernel.name!r}")
    facts, sides = previous.facts, []
    if previous.scale == 0:
        raise Unfit("the earlier labels were all equal")
    for side, scaled in (("row", rows), ("column", columns)):
        known = facts[f"{side}_weights"]
        if set(known) != set(scaled.names):
            raise Unfit(f"the earlier fit read {sorted(known)} of {side}s, this one {sorted(scaled.names)}")
        w = np.array([known[name] for name in scaled.names], np.float64)
        sides.append(SideWeights(w, facts[f"{side}_bias"], facts[f"{side}_own"]))
    if previous.linear.names != labels.linear.names:
        raise Unfit(f"the earlier fit read the pair features {list(previous.linear.names)}")
    return Hyper(sides[0], sides[1], previous.noise, previous.widths)


def _facts(
    labels: Labels, hyper: Hyper, rows: Scaled, columns: Scaled, beta: Float64, sigma: float, given: int
) -> dict[str, Any]:
    noise = sigma**2 * (hyper.noise + hyper.rows.d * hyper.columns.d)
    sides = (("row", rows, hyper.rows), ("column", columns, hyper.columns))
    facts: dict[str, Any] = {
        "labels": given,
        "rows": rows.n,
        "columns": columns.n,
        "noise_share": min(1.0, noise),
        "pair_features": dict(zip(labels.linear.names, beta.tolist(), strict=True)),
    }
    for side, scaled, weights in sides:
        facts[f"{side}_weights"] = dict(zip(scaled.names, weights.w.tolist(), strict=True))
        facts[f"{side}_bias"], facts[f"{side}_own"] = weights.a, weights.d
    return facts
