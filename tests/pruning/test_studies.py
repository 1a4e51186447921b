"""Points of the studies: how many there are, which rows they keep, which share a training."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from nncift_core.config_prune import PruneConfig, parse_prune_config
from nncift_core.pipeline.problem import Keys
from nncift_core.pruning.problem import GIVEN, LabelSet, PruneProblem
from nncift_core.pruning.studies import (
    Point,
    difficulties,
    kept_rows,
    label_sets,
    planted,
    points,
    run_seeds,
    seeds,
    variants,
)
from nncift_core.scores.catalogue import CATALOGUE
from nncift_core.scores.compute import Scores
from nncift_core.store.workspace import Workspace

N, K = 120, 4
LABELS = np.arange(N) % K


def config(**sections: Any) -> PruneConfig:
    return parse_prune_config({"data": {"source": "d.jsonl", "test": "t.jsonl"}, **sections})


def problem(given: PruneConfig) -> Any:
    """What points ask of a problem: labels, under noise other ones, and the config."""

    def labels_of(labels: LabelSet) -> np.ndarray:
        if not labels.noise:
            return LABELS
        from nncift_core.pruning.noise import plant

        kind: Any = labels.noise
        return plant(LABELS, K, kind, labels.rate, labels.seed, np.roll(np.arange(K), 1))

    def seed_of(purpose: str, number: int) -> int:
        return number

    return SimpleNamespace(config=given, labels=LABELS, labels_of=labels_of, seed_of=seed_of)


def made_scores(given: PruneConfig) -> dict[LabelSet, Scores]:
    """Scores of every label set; forgetting in few steps, so that it has ties."""
    found = {}
    for at, labels in enumerate(label_sets(given)):
        rng = np.random.default_rng(at)
        scores = {(n, v): rng.normal(size=N) for n, entry in CATALOGUE.items() for v in entry.variants}
        scores["forgetting", "count"] = rng.integers(0, 4, N).astype(float)
        found[labels] = scores
    return found


ALL_STUDIES = {"studies": ["curve", "noise", "imbalance"]}


def test_points_of_the_usual_curve_are_counted():
    """A seed: all rows; random and stratified by 3 shares; EL2N and VoG in 2 variants, 3 scores in one, by 2
    ends and 3 shares; forgetting and VoG by 2 samplings, 2 ends, 3 shares."""
    found = points(config())
    assert len(found) == 3 * (1 + 2 * 3 + (2 + 1 + 1 + 1 + 2) * 6 + 2 * 2 * 6)
    kinds = Counter((p.score, p.variant, p.sampling) for p in found if p.seed == 0)
    assert kinds == {
        ("all", "", ""): 1, ("random", "", ""): 3, ("stratified", "", ""): 3,
        ("el2n", "early", "cut"): 6, ("el2n", "late", "cut"): 6, ("aum", "mean", "cut"): 6,
        ("forgetting", "count", "cut"): 6, ("pvi", "mean", "cut"): 6,
        ("vog", "class", "cut"): 6, ("vog", "dataset", "cut"): 6,
        ("forgetting", "count", "softmax"): 6, ("forgetting", "count", "linear"): 6,
        ("vog", "dataset", "softmax"): 6, ("vog", "dataset", "linear"): 6,
    }  # fmt: skip


def test_points_of_the_usual_noise_study_are_counted():
    """A label set: all rows; random, and 5 scores by 2 ends, by 2 shares."""
    given = config(study={"studies": ["noise"]})
    assert len(label_sets(given)) == 1 + 2 * 1 * 3
    found = points(given)
    assert len(found) == 6 * (1 + 2 + 5 * 2 * 2)
    assert {p.variant for p in found} == {"", *(CATALOGUE[s].variants[0] for s in given.studied)}
    assert all(p.seed == p.labels.seed and p.labels.noise for p in found)
    assert {p.pruned for p in found} == {0.0, 0.1, 0.2}


def test_points_of_the_usual_imbalance_study_are_counted():
    """A seed: all rows; by 3 shares random, stratified, and VoG in 2 variants cut and drawn by softmax."""
    found = points(config(study={"studies": ["imbalance"]}))
    assert len(found) == 3 * (1 + 3 * (2 + 2 * 2))
    assert {p.pruned_end for p in found if p.score == "vog"} == {"easy"}


def test_without_vog_the_imbalance_study_takes_the_first_studied_score():
    given = config(scores={"names": ["pvi", "aum"]}, study={"studies": ["imbalance"]})
    assert {p.score for p in points(given)} == {"all", "random", "stratified", "aum"}


def test_variants_and_probabilistic_scores_can_be_left_out():
    given = config(study={"variants": False, "probabilistic": []})
    assert all(len(variants(given, s)) == 1 for s in given.studied)
    assert len(points(given)) == 3 * (1 + 6 + 5 * 6)
    drawn = [p for p in points(config(study={"variants": False})) if p.sampling == "softmax"]
    assert {p.variant for p in drawn if p.score == "vog"} == {"class"}


def test_no_point_is_repeated_and_every_one_has_its_own_settings():
    found = points(config(study=ALL_STUDIES))
    assert len(set(found)) == len(found)
    told = [tuple(p.told("frozen").items()) for p in found]
    assert len(set(told)) == len(told)
    assert {dict(t)["score"] for t in told} >= {"vog-embedding", "all"}
    assert {dict(t)["score"] for t in (tuple(p.told("full").items()) for p in found)} >= {"vog"}


def test_noise_has_a_label_set_for_every_kind_rate_and_seed():
    given = config(
        seed=5,
        study={"studies": ["noise"], "seeds": 2},
        noise={"kinds": ["shuffle", "uniform"], "rates": [0.1, 0.2]},
    )
    assert label_sets(given)[0] == GIVEN
    assert [(s.noise, s.rate, s.seed) for s in label_sets(given)[1:]] == [
        (kind, rate, seed) for kind in ("shuffle", "uniform") for rate in (0.1, 0.2) for seed in (0, 1)
    ]
    assert len({s.name for s in label_sets(given)}) == 9
    assert label_sets(config()) == [GIVEN]
    for labels in label_sets(given)[1:]:
        changed = int(planted(problem(given), labels).sum())
        assert 0 < changed <= N * labels.rate
        assert changed == N * labels.rate or labels.noise == "shuffle"
    assert planted(problem(given), GIVEN).sum() == 0


def test_draws_are_counted_from_0_whatever_the_seed_of_the_job():
    given = config(seed=7, study={"seeds": 2}, scores={"runs": 4})
    assert (seeds(given), run_seeds(given)) == ([0, 1], [0, 1, 2, 3])


def test_no_two_purposes_numbers_or_jobs_share_a_seed(tmp_path):
    made = [
        PruneProblem(Workspace(tmp_path), config(seed=s), Keys("encoder", "prune"), ()).seed_of(what, k)
        for s in range(5)
        for what in ("score", "training", "draw", "noise")
        for k in range(50)
    ]
    assert len(set(made)) == len(made) and all(0 <= seed < 2**32 for seed in made)


@pytest.fixture(scope="module")
def kept() -> dict[Point, np.ndarray]:
    """Rows of every point of all studies."""
    given = config(study=ALL_STUDIES, noise={"rates": [0.1, 0.25]})
    scores = made_scores(given)
    return {p: kept_rows(problem(given), p, scores).index for p in points(given)}


def test_points_of_one_subset_name_keep_the_same_rows_and_others_do_not(kept):
    by_name: dict[str, np.ndarray] = {}
    shared = 0
    for p, rows in kept.items():
        shared += p.subset in by_name
        assert np.array_equal(by_name.setdefault(p.subset, rows), rows), p
    # Of the imbalance study 3 * (1 + 5 * 3), and all rows under two more seeds of the curve.
    assert shared == 50
    of = {p: p.subset for p in kept if p.study == "curve"}
    assert len(set(of.values())) == len(of) - 2, "all rows are the same under every seed"


def test_curve_and_imbalance_share_their_trainings(kept):
    curve = {(p.subset, p.seed) for p in kept if p.study == "curve"}
    other = {(p.subset, p.seed) for p in kept if p.study == "imbalance"}
    extra = {
        p.sampling + " " + p.variant
        for p in kept
        if p.study == "imbalance" and (p.subset, p.seed) not in curve
    }
    assert extra == {"softmax class"}
    assert len(other & curve) == len(other) - 3 * 3


def test_shares_that_hardly_differ_have_names_of_their_own():
    near = [Point("curve", GIVEN, 0, "random", pruned=p) for p in (0.1234567, 0.1234568)]
    rates = [Point("noise", LabelSet("uniform", r, 0), 0, "all") for r in (0.1234567, 0.1234568)]
    assert len({p.subset for p in near}) == len({p.subset for p in rates}) == 2


def test_kept_rows_are_ascending_and_as_many_as_the_share_leaves(kept):
    for p, rows in kept.items():
        assert len(rows) == N - round(p.pruned * N)
        assert (np.diff(rows) > 0).all() and 0 <= rows[0] and rows[-1] < N


def by_seed(kept: dict[Point, np.ndarray], score: str, sampling: str, **also: Any) -> list[set[int]]:
    wanted = {"study": "curve", "score": score, "sampling": sampling, "pruned": 0.3, **also}
    return [set(r.tolist()) for p, r in kept.items() if all(getattr(p, k) == v for k, v in wanted.items())]


@pytest.mark.parametrize("score", ["el2n", "aum", "pvi"])
@pytest.mark.parametrize("end", ["easy", "hard"])
def test_a_cut_without_ties_is_the_same_under_every_seed(kept, score, end):
    found = by_seed(kept, score, "cut", pruned_end=end, variant=CATALOGUE[score].variants[0])
    assert len(found) == 3 and found[0] == found[1] == found[2]
    scores = made_scores(config())[GIVEN][score, CATALOGUE[score].variants[0]]
    hard = scores if CATALOGUE[score].hard == "high" else -scores
    edge = np.quantile(hard, 0.3 if end == "easy" else 0.7)
    assert found[0] == set(np.flatnonzero(hard > edge if end == "easy" else hard < edge).tolist())


def test_a_cut_differs_between_seeds_only_among_ties(kept):
    counts = made_scores(config())[GIVEN]["forgetting", "count"]
    found = by_seed(kept, "forgetting", "cut", pruned_end="easy")
    assert found[0] != found[1]
    edges = {counts[i] for a in found for b in found for i in a ^ b}
    assert len(edges) == 1
    edge = edges.pop()
    assert all(counts[list(f)].min() == edge for f in found)
    assert all(f >= set(np.flatnonzero(counts > edge).tolist()) for f in found)


@pytest.mark.parametrize(("score", "sampling"), [
    ("forgetting", "softmax"), ("forgetting", "linear"), ("vog", "softmax"), ("vog", "linear"),
    ("random", ""), ("stratified", ""),
])  # fmt: skip
def test_draws_differ_between_seeds(kept, score, sampling):
    also = {"pruned_end": "easy"} if sampling else {}
    found = by_seed(kept, score, sampling, **also)
    assert len(found) == 3 and found[0] != found[1] != found[2] != found[0]


def test_noisy_points_are_drawn_by_the_scores_of_their_own_labels(kept):
    wanted = {"study": "noise", "score": "aum", "pruned": 0.2, "pruned_end": "hard"}
    found = [r.tolist() for p, r in kept.items() if all(getattr(p, k) == v for k, v in wanted.items())]
    assert len(found) == 2 * 2 * 3 == len({tuple(r) for r in found})


def test_the_floor_keeps_rows_of_every_class():
    given = config(study={"floor": 3, "prune": [0.5], "scores": ["el2n"], "probabilistic": []})
    scores = {
        GIVEN: {("el2n", v): np.where(LABELS == 2, 9.0, 0.0) + np.arange(N) / N for v in ("early", "late")}
    }
    for p in points(given):
        if p.score == "el2n" and p.pruned_end == "hard":
            found = kept_rows(problem(given), p, scores)
            assert np.bincount(LABELS[found.index], minlength=K)[2] == 3 == found.floored
            assert len(found) == N // 2


def test_difficulties_are_the_first_variants_turned_so_that_larger_is_harder():
    scores = made_scores(config())[GIVEN]
    found = difficulties(scores, "frozen")
    assert set(found) == {
        "vog-embedding", "el2n", "forgetting", "pvi", "tracin-head", "aum", "confidence", "variability",
        "grand-head",
    }  # fmt: skip
    assert np.array_equal(found["aum"], -scores["aum", "mean"])
    assert np.array_equal(found["vog-embedding"], scores["vog", "class"])
    assert set(difficulties({("pvi", "mean"): np.ones(3)}, "full")) == {"pvi"}
