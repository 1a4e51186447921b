"""Which estimator a run uses: candidates fitted, judged on held-out labels and on a part of the audit."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from nncift_core.estimator.contract import Estimator, Features, checked_labels
from nncift_core.estimator.criterion import (
    SELECTING,
    Measures,
    combined,
    mean_measures,
    measure,
    measure_audit,
)
from nncift_core.estimator.evidence import (
    FAILURES,
    Audit,
    Evidence,
    Maker,
    difference_variance,
    gather,
    message,
    predicted_pairs,
)
from nncift_core.estimator.refits import group_gains, learning_curve
from nncift_core.hashing import hash_rank

__all__ = ["Candidate", "Choice", "choose", "group_gains", "learning_curve", "split_audit"]

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

SMALLEST_AUDIT = 60


@dataclass(frozen=True)
class Candidate:
    """How one estimator did.

    criterion, components: `criterion.combined` and what it combines; None: not defined by the data.
    seconds: all its fits and predictions; failed: the message of what it raised, its other numbers are void.
    """

    name: str
    learned: bool
    criterion: float | None
    components: dict[str, float | None]
    seconds: float
    failed: str | None


@dataclass(frozen=True)
class Choice:
    """Who won, who came next, why, on which evidence, and all candidates in the order they were given."""

    winner: str
    runner_up: str | None
    reason: str
    judged_on: str
    candidates: tuple[Candidate, ...]

    def as_rows(self) -> list[dict[str, Any]]:
        """One JSON-ready row per candidate; place: "winner", "runner-up" or ""."""
        place = {self.runner_up: "runner-up", self.winner: "winner"}
        return [
            {
                "candidate": c.name,
                "place": place.get(c.name, ""),
                "learned": c.learned,
                "criterion": c.criterion,
                **c.components,
                "seconds": c.seconds,
                "failed": c.failed,
            }
            for c in self.candidates
        ]


@dataclass
class _Trial:
    """A candidate at work: its measures in each fold, and its predictions of the audit pairs."""

    name: str
    learned: bool
    folds: list[Measures] = field(default_factory=list)
    audit: Measures = field(default_factory=dict)
    audit_predicted: Float64 | None = None
    criterion: float | None = None
    fold_criteria: list[float | None] = field(default_factory=list)
    seconds: float = 0.0
    failed: str | None = None

    def candidate(self) -> Candidate:
        components = {} if self.failed else mean_measures(self.folds) | self.audit
        criterion = None if self.failed else self.criterion
        return Candidate(self.name, self.learned, criterion, components, self.seconds, self.failed)


def choose(
    features: Features,
    i: Int64,
    j: Int64,
    values: npt.NDArray[Any],
    *,
    candidates: Mapping[str, Maker],
    rule: str,
    share: float,
    audit: Audit | None,
    seed: int,
    progress: Callable[[int], None] | None = None,
    folds: int = 4,
) -> tuple[Estimator, Choice]:
    """The best of `candidates` (name -> maker), fitted on all labels, and the record of the choice.

    i, j, values [k]: labels as in `Estimator.fit`; rule: "top-k", "fl", "flmi" or "flcg", and share: the part
    of the rows it will select; audit: exact pairs (i, j, values) for choosing only (`split_audit`), or None;
    progress: called with 1 after each candidate.

    Evidence. Cross-validation over whole labelled rows: rows are dealt to `folds` folds by the hash of their
    content id (fewer folds when a fold would have under 5 rows), each candidate is fitted on the other
    folds and measured on the held-out rows' labels (`criterion.measure`), fold by fold. Audit: fitted on all
    labels, measured on the audit pairs (`criterion.measure_audit`). Above 20,000 labels all this uses a
    sub-block drawn by hash: of a block at least 50 columns and as many rows as then fit, of scattered labels
    whole rows; only the winner is fitted on everything, and `judged_on` and `reason` say so.

    Rule. Criterion: `criterion.combined`. Standard error of a difference of criteria: spread of the paired
    differences between folds, and for the audit 2 (1 - rho_ab) / n, rho_ab the Spearman correlation of the
    two predictions. A learned candidate can win only if its criterion is above that of the best baseline by
    more than one standard error. Among those that can, and among baselines when none can, candidates within
    one standard error of the best are a near tie, which goes to the one that comes first in `candidates`:
    callers list the cheaper or better proven ones first. Time never decides, so equal arguments give an
    equal choice.
    With no evidence at all (one labelled row and no audit) the first baseline wins.

    A candidate that raises ValueError or RuntimeError, or predicts numbers that are not finite, is recorded
    as failed. Raises ValueError when all fail, for no candidates, an unknown rule, a share outside (0, 1],
    fewer than 2 folds, or labels that `checked_labels` refuses.
    """
    if rule not in SELECTING:
        raise ValueError(f"rule must be one of {', '.join(SELECTING)}, got {rule!r}")
    if not 0 < share <= 1 or folds < 2 or not candidates:
        raise ValueError(
            f"need share in (0, 1), folds >= 2 and candidates; got {share}, {folds}, {candidates}"
        )
    labels = checked_labels(features, i, j, values)
    evidence = gather(features, i, j, labels, audit, seed, folds)
    trials: list[_Trial] = []
    for name, make in candidates.items():
        trials.append(_try(name, make, evidence, rule, share, seed))
        if progress is not None:
            progress(1)
    while True:
        winner = _winner(trials)
        try:
            fitted = candidates[winner.name]().fit(features, i, j, labels, seed=seed)
        except FAILURES as error:
            winner.failed = message(error)
        else:
            return fitted, _record(winner, trials, evidence.told)


def split_audit(rows: Int64, columns: Int64, seed: int) -> Bool:
    """Which audit pairs (content ids rows[k], columns[k]) choose the estimator, [k]; the others measure it.

    About one third, by pair hash: a pair keeps its side when the audit grows. None below 60 pairs, where
    both halves would be too small to tell anything.
    """
    if len(rows) < SMALLEST_AUDIT:
        return np.zeros(len(rows), dtype=bool)
    out: Bool = hash_rank(rows, seed, "audit-chooses", columns) < np.uint64((1 << 64) // 3)
    return out


def _try(name: str, make: Maker, e: Evidence, rule: str, share: float, seed: int) -> _Trial:
    """Fit and measure one candidate in every fold and on the audit; what fails is recorded."""
    trial = _Trial(name, True)
    start = time.perf_counter()
    try:
        trial.learned = make().learned
        for fold in range(e.folds):
            rest, held = np.flatnonzero(e.fold != fold), np.flatnonzero(e.fold == fold)
            i, j = e.i[held], e.j[held]
            fitted = make().fit(e.features, e.i[rest], e.j[rest], e.labels[rest], seed=seed)
            predicted = predicted_pairs(fitted, e.features, i, j)
            trial.folds.append(measure(e.labels[held], predicted, i, j, rule=rule, share=share))
        if e.audit is not None:
            i, j, truth = e.audit
            fitted = make().fit(e.features, e.i, e.j, e.labels, seed=seed)
            trial.audit_predicted = predicted_pairs(fitted, e.features, i, j)
            trial.audit = measure_audit(truth, trial.audit_predicted, j)
    except FAILURES as error:
        trial.failed = message(error)
    trial.criterion = combined(mean_measures(trial.folds) | trial.audit, rule)
    trial.fold_criteria = [combined(fold, rule) for fold in trial.folds]
    trial.seconds = time.perf_counter() - start
    return trial


def _winner(trials: list[_Trial]) -> _Trial:
    """By the rule in the docstring of `choose`; raises ValueError when all failed."""
    alive = [t for t in trials if t.failed is None]
    if not alive:
        raise ValueError("every candidate failed: " + "; ".join(f"{t.name}: {t.failed}" for t in trials))
    baselines = [t for t in alive if not t.learned]
    if all(t.criterion is None for t in alive):
        return (baselines or alive)[0]
    bar = max(baselines, key=_value, default=None)
    contenders = [t for t in alive if t.learned and _clearly_better(t, bar)] or baselines
    best = max(contenders, key=_value)
    return next(t for t in contenders if _value(best) - _value(t) <= _standard_error(best, t))


def _clearly_better(trial: _Trial, other: _Trial | None) -> bool:
    """By more than one standard error."""
    return other is None or _value(trial) - _value(other) > _standard_error(trial, other)


def _standard_error(a: _Trial, b: _Trial) -> float:
    """Of the difference of two criteria; 0 of a candidate with itself or when nothing tells it."""
    if a is b:
        return 0.0
    pairs = zip(a.fold_criteria, b.fold_criteria, strict=True)
    differences = [x - y for x, y in pairs if x is not None and y is not None]
    # The audit is one of three parts of the criterion, or all of it.
    audit = 0.0 if a.audit_predicted is None else 1 / 3 if differences else 1.0
    variance = 0.0
    if len(differences) > 1:
        variance += (1 - audit) ** 2 * float(np.var(differences, ddof=1)) / len(differences)
    if a.audit_predicted is not None and b.audit_predicted is not None:
        variance += audit**2 * difference_variance(a.audit_predicted, b.audit_predicted)
    return math.sqrt(variance)


def _record(winner: _Trial, trials: list[_Trial], told: str) -> Choice:
    others = sorted((t for t in trials if t.failed is None and t is not winner), key=lambda t: -_value(t))
    second = others[0] if others else None
    return Choice(
        winner.name,
        second.name if second else None,
        f"{_reason(winner, second, others)}; judged on {told}",
        told,
        tuple(t.candidate() for t in trials),
    )


def _reason(winner: _Trial, second: _Trial | None, others: list[_Trial]) -> str:
    if winner.criterion is None:
        return f"{winner.name} is used because there is too little to choose by"
    own = f"{winner.name} (criterion {winner.criterion:.3f})"
    if second is None:
        return f"{own} is the only candidate that could be fitted"
    rival = f"{second.name} ({_value(second):.3f})"
    error = _standard_error(winner, second)
    if not winner.learned and (learned := [t for t in others if t.learned]):
        best = f"{learned[0].name} ({_value(learned[0]):.3f})"
        return f"{own}, a cheap baseline, wins: the best learned candidate {best} is not clearly better"
    if _value(second) - winner.criterion > error:
        return f"{own} wins: {rival} is not clearly better than the best cheap baseline"
    if _value(second) > winner.criterion:
        return f"{own} is within one standard error ({error:.3f}) of {rival} and comes first in the list"
    reason = f"{own} is best, before {rival}, standard error of the difference {error:.3f}"
    baselines = [t for t in others if not t.learned]
    if winner.learned and second.learned and baselines:
        reason += f"; best cheap baseline {baselines[0].name} ({_value(baselines[0]):.3f})"
    return reason


def _value(trial: _Trial) -> float:
    return -math.inf if trial.criterion is None else trial.criterion
