"""The paper's findings (methods.md 2) held against what was measured here: which of them reproduce."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nncift_core.estimator.metrics import spearman
from nncift_core.evaluation.intervals import BETTER, WORSE
from nncift_core.pruning.claims import (
    Finding,
    Holds,
    chosen,
    differences,
    judged,
    not_studied,
    shown_of,
)
from nncift_core.pruning.paired import Point, paired
from nncift_core.pruning.summary import ALL, RANDOM
from nncift_core.scores.catalogue import CATALOGUE

STRATIFIED = "stratified"
# Up to which share the paper saw a score beat random rows.
PAPER_SHARES = {"el2n": 0.25, "tracin": 0.30, "pvi": 0.10}
# A rank correlation below this explains less than a quarter of the order.
_HALF = 0.5
_PLACE = ("study", "noise", "noise_rate", "pruned")
_SETTING = (*_PLACE, "score", "variant", "sampling", "pruned_end")


def findings(
    summary: Sequence[Point], detection: Sequence[Point], points: Sequence[Point]
) -> list[dict[str, Any]]:
    """Rows of the view `findings` without run_id, from rows of `summarise`, of the view `noise_detection` and
    points of all studies.

    Every claim is judged by differences of accuracy between points of the same seed, averaged over the
    settings that both sides share (`claims.judged`): clear of 0 over seeds, or "unclear"; "not studied" where
    points are missing. effect and spread are shares of accuracy, but for "beats-random-*" (effect: the
    largest share up to which the verdict is "better" throughout), "noise-not-removal" (rank correlation) and
    "tails-are-not-mislabels" (share found less chance).
    """
    by_score = [p for p in points if p["score"] not in (ALL, RANDOM, STRATIFIED)]
    found = [
        _hard_hurts(by_score, points),
        _el2n_early(by_score),
        _vog_normalisation(by_score),
        *(_probabilistic(by_score, sampling) for sampling in ("softmax", "linear")),
        *(_beats_random(summary, name, share) for name, share in PAPER_SHARES.items()),
        _noise_easy(by_score, points),
        _noise_hard(by_score, points),
        _noise_removal(by_score, points),
        _tails_and_mislabels(detection),
        _stratified(points),
        _vog_imbalance(points),
    ]
    return [f.as_row() for f in found]


def _hard_hurts(by_score: Sequence[Point], points: Sequence[Point]) -> Finding:
    claim = "Pruning the hard end of clean data usually hurts, more than dropping random rows."
    hard = chosen(by_score, study="curve", noise="", pruned_end="hard", sampling="cut")
    hard = _at_share(hard, largest=True)
    what = f"hard end cut off{_share(hard)}, less random rows at that share"
    per_seed = differences(hard, chosen(points, score=RANDOM), _PLACE)
    return judged(
        "hard-hurts", claim, per_seed, what, "needs study curve with end hard and random rows", sign=-1.0
    )


def _el2n_early(by_score: Sequence[Point]) -> Finding:
    claim = "EL2N of an early epoch prunes better than EL2N of the last one."
    ours = chosen(by_score, score=shown_of("el2n"), pruned_end="easy", noise="")
    late, early = chosen(ours, variant="late"), chosen(ours, variant="early")
    same = [name for name in _SETTING if name != "variant"]
    what = "easy end pruned by early EL2N, less by late EL2N"
    return judged(
        "el2n-early", claim, differences(early, late, same), what, "needs EL2N early and late, easy end"
    )


def _vog_normalisation(by_score: Sequence[Point]) -> Finding:
    claim = "VoG normalised inside classes keeps more accuracy than VoG normalised over the data set."
    ours = chosen(by_score, score=shown_of("vog"), study="curve", pruned_end="easy", noise="")
    same = [name for name in _SETTING if name != "variant"]
    per_seed = differences(chosen(ours, variant="class"), chosen(ours, variant="dataset"), same)
    what = "easy end pruned by VoG class-normalised, less data-set-normalised"
    return judged(
        "vog-normalisation", claim, per_seed, what, "needs VoG variants class and dataset, easy end"
    )


def _probabilistic(by_score: Sequence[Point], sampling: str) -> Finding:
    claim = f"Sampling with probabilities ({sampling}) keeps more accuracy than a hard cut-off."
    clean = chosen(by_score, study="curve", noise="")
    same = [name for name in _SETTING if name != "sampling"]
    per_seed = differences(chosen(clean, sampling=sampling), chosen(clean, sampling="cut"), same)
    what = f"{sampling} sampling, less a cut by the same score, end and share"
    return judged(
        f"probabilistic-{sampling}", claim, per_seed, what, f"needs {sampling} and cut of one score"
    )


def _beats_random(summary: Sequence[Point], name: str, share: float) -> Finding:
    """Judged by the verdicts of the summary: all "better" at shares up to the paper's, or not."""
    title = CATALOGUE[name].title
    finding, claim = f"beats-random-{name}", f"{title} beats random rows up to {share:.0%} pruned."
    rows = chosen(summary, study="curve", noise="", score=shown_of(name), pruned_end="easy", sampling="cut")
    rows = chosen(rows, variant=CATALOGUE[name].variants[0], verdict=lambda v: v is not None)
    rows.sort(key=lambda r: float(r["pruned"]))
    within = [r for r in rows if r["pruned"] <= share + 1e-9]
    if not within:
        return not_studied(
            finding, claim, f"needs {title}, easy end, at a share up to {share:.0%}, two seeds"
        )
    up_to = 0.0
    for r in rows:
        if r["verdict"] != BETTER:
            break
        up_to = float(r["pruned"])
    verdicts = {r["verdict"] for r in within}
    holds: Holds = "yes" if verdicts == {BETTER} else "no" if WORSE in verdicts else "unclear"
    told = ", ".join(f"{r['pruned']:.0%} {100 * r['gain']:+.2f} points ({r['verdict']})" for r in rows)
    return Finding(finding, claim, holds, up_to, None, f"{title}, easy end, against random rows: {told}")


def _noise_easy(by_score: Sequence[Point], points: Sequence[Point]) -> Finding:
    claim = "Under label noise, pruning a large part of the easy end by VoG beats random rows."
    easy = chosen(by_score, study="noise", score=shown_of("vog"), pruned_end="easy", sampling="cut")
    easy = _at_share(easy, largest=True)
    per_seed = differences(easy, chosen(points, score=RANDOM), _PLACE)
    what = f"easy end cut off by VoG{_share(easy)}, less random rows at that share"
    return judged("noise-vog-easy", claim, per_seed, what, "needs study noise with VoG, easy end, and random")


def _noise_hard(by_score: Sequence[Point], points: Sequence[Point]) -> Finding:
    claim = "Under label noise, pruning a few of the hardest rows helps."
    hard = chosen(by_score, study="noise", pruned_end="hard", sampling="cut")
    hard = _at_share(hard, largest=False)
    per_seed = differences(hard, chosen(points, score=ALL), ("study", "noise", "noise_rate"))
    what = f"hard end cut off{_share(hard)}, less all noisy rows (mean over scores)"
    return judged("noise-hard", claim, per_seed, what, "needs study noise, end hard, and all data")


def _noise_removal(by_score: Sequence[Point], points: Sequence[Point]) -> Finding:
    """Rank correlation over subsets of the gain over random rows with the planted labels dropped beyond what
    random rows drop, at every noise and share, averaged in each seed.

    "no" (removal goes with the gain) where its 90 % interval over seeds lies above 0; "yes" where it does not
    and its upper end is below 0.5; else "unclear".
    """
    finding = "noise-not-removal"
    claim = "Gains under label noise are not explained by dropping wrong labels."
    lacking = "needs study noise with three subsets or more beside random rows at one share"
    random = {_at(p): p for p in chosen(points, study="noise", score=RANDOM)}
    sets: dict[tuple[Any, ...], list[tuple[float, float]]] = {}
    for p in chosen(by_score, study="noise"):
        other = random.get(_at(p))
        if other is not None and p["mislabelled"] is not None and other["mislabelled"] is not None:
            dropped = float(other["mislabelled"] - p["mislabelled"])
            sets.setdefault(_at(p), []).append((p["accuracy"] - other["accuracy"], dropped))
    by_seed: dict[int, list[float]] = {}
    for at, pairs in sets.items():
        gains, dropped = np.array(pairs, np.float64).T
        rank = spearman(gains, dropped)
        if rank is not None:
            by_seed.setdefault(at[0], []).append(rank)
    found = paired([float(np.mean(r)) for r in by_seed.values()])
    if found is None:
        return not_studied(finding, claim, lacking)
    text = f"rank correlation of gain over random with planted wrong labels dropped: {found.mean:+.2f}"
    if found.lower is None or found.upper is None:
        return Finding(finding, claim, "unclear", found.mean, None, f"{text} with one seed: no spread")
    holds: Holds = "no" if found.lower > 0 else "yes" if found.upper < _HALF else "unclear"
    text += f" (90 % interval {found.lower:+.2f} to {found.upper:+.2f}, {found.n} seeds)"
    return Finding(finding, claim, holds, found.mean, found.spread, text)


def _tails_and_mislabels(detection: Sequence[Point]) -> Finding:
    """effect: share of the planted labels among as many hardest rows, less the noise rate, which is chance
    (a little too high for "shuffle", where some labels stay right); mean over scores and noises."""
    finding = "tails-are-not-mislabels"
    claim = "The hardest rows hold wrong labels about as often as chance."
    by_seed: dict[int, list[float]] = {}
    by_score: dict[str, list[float]] = {}
    for r in detection:
        if r["found"] is not None:
            by_seed.setdefault(r["seed"], []).append(r["found"] - r["noise_rate"])
            by_score.setdefault(r["score"], []).append(r["found"])
    found = paired([float(np.mean(v)) for v in by_seed.values()])
    if found is None:
        return not_studied(finding, claim, "needs study noise")
    means = sorted(((float(np.mean(v)), name) for name, v in by_score.items()), reverse=True)
    text = (
        f"found beyond chance, mean over scores: {found.mean:+.1%}; most by {means[0][1]} ({means[0][0]:.1%} "
        f"of the planted ones), fewest by {means[-1][1]} ({means[-1][0]:.1%})"
    )
    answers: dict[str | None, Holds] = {BETTER: "no", None: "unclear"}
    holds = answers.get(found.verdict, "yes")
    return Finding(finding, claim, holds, found.mean, found.spread, text)


def _stratified(points: Sequence[Point]) -> Finding:
    claim = "On imbalanced data, stratified sampling loses less accuracy than random rows."
    ours = chosen(points, study="imbalance", score=STRATIFIED)
    per_seed = differences(ours, chosen(points, study="imbalance", score=RANDOM), _PLACE)
    what = "stratified less random rows at the same share"
    return judged("imbalance-stratified", claim, per_seed, what, "needs study imbalance")


def _vog_imbalance(points: Sequence[Point]) -> Finding:
    """Against the samplings the paper compares, the best of them by mean accuracy on the shared places."""
    finding = "imbalance-vog-dataset"
    claim = (
        "On imbalanced data, VoG normalised over the data set has the lowest relative error of random, "
        "stratified and VoG sampling."
    )
    study = chosen(points, study="imbalance")
    vog = chosen(study, score=shown_of("vog"), pruned_end="easy")
    ours = chosen(vog, variant="dataset")
    rivals = {name: chosen(study, score=name) for name in (RANDOM, STRATIFIED)}
    rivals["VoG class-normalised"] = chosen(vog, variant="class")
    found = {}
    for name, theirs in rivals.items():
        same = (*_PLACE, "sampling") if name.startswith("VoG") else _PLACE
        if per_seed := differences(ours, theirs, same):
            found[name] = per_seed
    lacking = "needs study imbalance with VoG variant dataset, random, stratified and VoG variant class"
    if len(found) < len(rivals):
        return not_studied(finding, claim, lacking)
    nearest = min(found, key=lambda name: float(np.mean([np.mean(d) for d in found[name].values()])))
    what = f"VoG data-set-normalised, easy end, less its best rival ({nearest})"
    return judged(finding, claim, found[nearest], what, lacking)


def _at(p: Point) -> tuple[Any, ...]:
    """Seed and place of a point: what it shares with the random rows it is compared with."""
    return p["seed"], p["noise"], round(float(p["noise_rate"] or 0), 9), round(float(p["pruned"]), 9)


def _at_share(points: Sequence[Point], largest: bool) -> list[Point]:
    """The points at the largest, or the smallest, pruned share among them."""
    shares = [float(p["pruned"]) for p in points]
    if not shares:
        return []
    share = max(shares) if largest else min(shares)
    return [p for p in points if float(p["pruned"]) == share]


def _share(points: Sequence[Point]) -> str:
    return f" at {float(points[0]['pruned']):.3g} pruned" if points else ""
