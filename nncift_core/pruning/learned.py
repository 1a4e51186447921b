"""Learned scores: an estimator of this project predicts a score from embedding and label, without training.

A score of a row depends on its label as well as on its text, so that the estimator reads two groups:

    embedding   x_i, [N, d]
    label       cos(x_i, m_y), max over c != y of cos(x_i, m_c), their difference, ln n_y, [N, 4], z-scaled

with m_c the mean embedding of the rows of class c, row i itself left out, and n_c their number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nncift_core.estimator.baselines import Calibrated, ConstantMean, ShrunkMeans
from nncift_core.estimator.contract import EMBEDDING, LENGTH, Estimator, Features
from nncift_core.estimator.gate import Verdict, judge
from nncift_core.estimator.linear import folds
from nncift_core.estimator.metrics import r_squared
from nncift_core.estimator.pair_features import OfRow
from nncift_core.estimator.quality import assess
from nncift_core.estimator.registry import make
from nncift_core.pruning.class_sums import blocks, class_sums

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

LABEL = "label"
CLASS_MEAN = "class mean"
CANDIDATES = ("ridge", "kernel", "knn")
# Every row gets a held-out prediction up to here; beyond it a fifth of them does.
CROSS_VALIDATED = 5_000
FOLDS = 5
# Rows that one fit reads; the kernel's fit grows with their cube.
MOST = {"kernel": 1_000}
MOST_FITTED = 4_000
_CHOOSING = 1_500


@dataclass(frozen=True, eq=False)
class Learned:
    """A score predicted for new rows, and how far to trust that.

    predicted [M]: of the new rows; held_out [N]: of the rows whose score is known, by fits that did not see
    them, nan where none was made; estimator: the candidate used; verdict: of the gate on the measured rows;
    quality: rows of the view `estimator_quality` without run_id, role "audit", quadrant None, baselines
    beside; spearman_per_target is inside classes; fitted: rows that the fit behind `predicted` read, of how
    many: `of`; choice: candidate -> R^2 by which it was chosen, None: undefined; text: all of it in words.
    """

    predicted: Float64
    held_out: Float64
    estimator: str
    verdict: Verdict
    quality: list[dict[str, Any]]
    fitted: int
    of: int
    choice: dict[str, float | None]
    text: str


def learn_score(
    x: Float32,
    labels: Int64,
    values: npt.NDArray[Any],
    x_new: Float32,
    labels_new: Int64,
    *,
    seed: int,
    candidates: Sequence[str] = CANDIDATES,
    name: str = "",
    lengths: npt.NDArray[Any] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Learned:
    """Learn the score `values` [N] of rows with embeddings x [N, d] and classes labels [N]; predict it for
    x_new [M, d], labels_new [M].

    name: shown name of the score, `function` in the quality rows; lengths [N]: of the texts, for a baseline;
    progress: called with 1 after each fit of a candidate.

    1. A third of the rows (no more than 1,500) choose: candidates are fitted on four fifths of them and
       the one with the highest R^2 on the last fifth is used, the first of equal ones. These rows measure
       nothing.
    2. Held-out predictions: up to 5,000 rows by 5 folds; beyond, of one fifth of those that did not
       choose. Quality and verdict (`gate.judge`, whole classes drawn) are of rows that did not choose, beside
       "constant", "class mean" (shrunk as `ShrunkMeans`) and "length", fitted on the same rows.
    3. The new rows are predicted by a fit on all rows; beyond 5,000, by the very fit that was measured. One
       fit reads at most 4,000 rows drawn at random, the kernel 1,000; `text` says so.

    Raises ValueError for fewer than 10 rows, lengths that differ, values that are not finite, or a new row
    whose class has no row.
    """
    z = _checked(x, labels, values, x_new, labels_new)
    n = len(z)
    features = _features(x, labels, x, labels, own=True, lengths=lengths)
    chooses = np.zeros(n, bool)
    order = np.random.default_rng(seed).permutation(n)
    chooses[order[: min(n // 3, _CHOOSING)]] = True
    tell = progress or (lambda _: None)
    chosen, choice = _choose(features, z, np.flatnonzero(chooses), candidates, seed, tell)
    fold = folds(n, FOLDS, seed)
    if n > CROSS_VALIDATED:
        fold = np.where(~chooses & (fold == 0), 0, 1)
    held: dict[str, Float64] = {}
    fitted: Estimator | None = None
    used = np.arange(n)
    for number in range(FOLDS if n <= CROSS_VALIDATED else 1):
        rest, out = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
        fitted, used = _fit(chosen, features, rest, z, seed)
        tell(1)
        for title, p in _predictions(chosen, fitted, features, rest, out, z, seed).items():
            held.setdefault(title, np.full(n, np.nan))[out] = p
    if fitted is None or n <= CROSS_VALIDATED:
        fitted, used = _fit(chosen, features, np.arange(n), z, seed)
        tell(1)
    new = _features(x, labels, x_new, labels_new, own=False, lengths=None)
    predicted = _predict(fitted, new, np.arange(len(x_new)))
    measured = np.flatnonzero(~chooses & np.isfinite(held[chosen]))
    verdict, quality = _quality(name, chosen, z, held, measured, labels, seed)
    told = f"{chosen} fitted on {len(used):,} of {n:,} rows, measured on {len(measured):,} others: "
    text = f"{told}{verdict.level}, {verdict.reason}"
    return Learned(predicted, held[chosen], chosen, verdict, quality, len(used), n, choice, text)


def label_features(x: Float32, labels: Int64, x_of: Float32, labels_of: Int64, own: bool) -> Float64:
    """The four label-aware features (module docstring) of x_of [M, d], labels_of [M], before scaling, [M, 4].

    x [N, d], labels [N]: the rows that make the class means; own: x_of are those very rows, each left out of
    its class's mean and count. A class left empty has the zero vector for a mean, cosine 0. Memory beyond
    the result: of a block of rows, whatever M and K.
    """
    classes = int(max(labels.max(), labels_of.max(initial=0))) + 1
    sums = class_sums(x, labels, classes)
    count = np.bincount(labels, minlength=classes)
    directions = _unit(sums).T
    out = np.empty((len(x_of), 4))
    for part in blocks(len(x_of), max(classes, x.shape[1])):
        at = labels_of[part]
        units = _unit(x_of[part].astype(np.float64))
        rivals = units @ directions
        rivals[:, count == 0] = -np.inf
        rivals[np.arange(len(at)), at] = -np.inf
        nearest = rivals.max(axis=1)
        mine = sums[at] - (x_of[part] if own else 0)
        out[part, 0] = np.einsum("nd,nd->n", units, _unit(mine))
        out[part, 1] = np.where(np.isfinite(nearest), nearest, 0.0)
    out[:, 2] = out[:, 0] - out[:, 1]
    out[:, 3] = np.log(np.maximum(count[labels_of] - own, 0) + 1)
    return out


def _features(
    x: Float32,
    labels: Int64,
    x_of: Float32,
    labels_of: Int64,
    *,
    own: bool,
    lengths: npt.NDArray[Any] | None,
) -> Features:
    """Pointwise features; both calls scale by the known rows. Rows are known by their class: only the
    baseline of class means asks who a row is."""
    known = label_features(x, labels, x, labels, True)
    mine = known if own else label_features(x, labels, x_of, labels_of, False)
    sd = known.std(axis=0)
    scaled = ((mine - known.mean(axis=0)) / np.where(sd > 0, sd, 1.0)).astype(np.float32)
    pairs = {} if lengths is None else {LENGTH: OfRow(np.asarray(lengths, np.float32), 1)}
    groups = {EMBEDDING: x_of.astype(np.float32, copy=False), LABEL: scaled}
    return Features(labels_of, np.zeros(1, np.int64), groups, {}, pairs)


def _choose(
    features: Features,
    z: Float64,
    rows: Int64,
    candidates: Sequence[str],
    seed: int,
    tell: Callable[[int], None],
) -> tuple[str, dict[str, float | None]]:
    """The candidate with the highest R^2 on a fifth of `rows`, fitted on the others; and all R^2."""
    part = folds(len(rows), FOLDS, seed + 1)
    found: dict[str, float | None] = {}
    for name in candidates:
        fitted, _ = _fit(name, features, rows[part != 0], z, seed)
        out = rows[part == 0]
        found[name] = r_squared(z[out], _predict(fitted, features, out))
        tell(1)
    best = max(candidates, key=lambda name: -np.inf if found[name] is None else found[name] or 0.0)
    return best, found


def _fit(name: str, features: Features, rows: Int64, z: Float64, seed: int) -> tuple[Estimator, Int64]:
    """The estimator fitted on at most so many of `rows` as it may read, and these."""
    most = MOST.get(name, MOST_FITTED)
    if len(rows) > most:
        rows = np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))
    # Estimators know rows again by id: every row is itself here, not its class.
    mine = _reads(features).take(rows)
    return make(name).fit(mine, np.arange(len(rows)), np.zeros(len(rows), np.int64), z[rows], seed=seed), rows


def _reads(features: Features) -> Features:
    """Without the length, which is the baseline's, and with a number of its own for every row."""
    ids = np.arange(features.shape[0])
    return Features(ids, features.column_ids, features.rows)


def _predict(fitted: Estimator, features: Features, rows: Int64) -> Float64:
    # New ids, so that no row passes for one that was fitted.
    mine = Features(-1 - rows, features.column_ids, {g: v[rows] for g, v in features.rows.items()})
    at = np.arange(len(rows))
    return fitted.predict_pairs(mine, at, np.zeros(len(rows), np.int64)).astype(np.float64)


def _predictions(
    chosen: str, fitted: Estimator, features: Features, rest: Int64, out: Int64, z: Float64, seed: int
) -> dict[str, Float64]:
    """Of the rows `out`: by the estimator, and by the baselines fitted on `rest`."""
    found = {chosen: _predict(fitted, features, out)}
    baselines: dict[str, Estimator] = {"constant": ConstantMean(), CLASS_MEAN: ShrunkMeans()}
    if LENGTH in features.pairs:
        baselines[LENGTH] = Calibrated(LENGTH)
    for name, baseline in baselines.items():
        model = baseline.fit(features, rest, np.zeros(len(rest), np.int64), z[rest], seed=seed)
        zeros = np.zeros(len(out), np.int64)
        found[name] = model.predict_pairs(features, out, zeros).astype(np.float64)
    return found


def _quality(
    name: str, chosen: str, z: Float64, held: dict[str, Float64], at: Int64, labels: Int64, seed: int
) -> tuple[Verdict, list[dict[str, Any]]]:
    """The gate's verdict and the rows of `estimator_quality`, on the rows `at`."""
    predictions = {title: p[at] for title, p in held.items()}
    baselines = [title for title in predictions if title != chosen]
    verdict = judge(z[at], predictions, estimator=chosen, baselines=baselines, columns=labels[at], seed=seed)
    rows = assess(
        z[at],
        predictions,
        estimator=chosen,
        columns=labels[at],
        quadrants=np.full(len(at), "unseen"),
        function=name,
        seed=seed,
        overall=f"{verdict.level}: {verdict.reason}",
    )
    # The pooled rows: with one quadrant the same numbers, and the gate's sentence.
    pooled = [asdict(r) for r in rows if r.quadrant == "all"]
    return verdict, [r | {"quadrant": None, "role": "audit"} for r in pooled]


def _checked(
    x: Float32, labels: Int64, values: npt.NDArray[Any], x_new: Float32, labels_new: Int64
) -> Float64:
    z = np.asarray(values, np.float64)
    if z.ndim != 1 or len(z) < 2 * FOLDS or len(x) != len(z) or labels.shape != z.shape:
        raise ValueError(
            f"need {2 * FOLDS} rows or more of equal length, got {x.shape}, {labels.shape}, {z.shape}"
        )
    if len(x_new) != len(labels_new) or x_new.shape[1:] != x.shape[1:]:
        raise ValueError(f"new rows are {x_new.shape} with {labels_new.shape} labels, the others {x.shape}")
    bad = int((~np.isfinite(z)).sum())
    if bad:
        raise ValueError(f"{bad} of {len(z)} values are not finite")
    strange = np.setdiff1d(labels_new, labels)
    if len(strange):
        raise ValueError(f"class {strange[0]} of a new row has no row to learn from")
    return z


def _unit(x: Float64) -> Float64:
    length = np.linalg.norm(x, axis=-1, keepdims=True)
    out: Float64 = x / np.where(length > 0, length, 1.0)
    return out
