"""The recommendation and its refusals."""

from __future__ import annotations

import numpy as np
from pruning.made_points import point, seeded

from nncift_core.pruning.recommend import recommend, title_of
from nncift_core.pruning.summary import summarise

SPREAD = np.array([-0.01, 0.0, 0.01])


def tried(score, accuracy, pruned, **changes):
    return seeded(score, list(accuracy + SPREAD), pruned=pruned, **changes)


FULL = tried("all", 0.90, 0.0)
RANDOM = [*tried("random", 0.80, 0.3), *tried("random", 0.70, 0.5)]


def test_the_largest_harmless_share_of_a_score_that_beats_random():
    points = [*FULL, *RANDOM, *tried("el2n", 0.90, 0.3), *tried("aum", 0.89, 0.3), *tried("el2n", 0.80, 0.5)]
    got = recommend(summarise(points), 1000)
    assert (got.verdict, got.score, got.pruned_end, got.pruned) == ("prune", "el2n", "easy", 0.3)
    assert got.text.startswith("prune 30 % by EL2N (mean), easy end (keep 700 of 1,000 rows): ")
    assert "expected change 0.0 +- 1.6 points; over random +10.0 (+" in got.text
    assert "worst class c00 0.0 points; tail 0.0" in got.text


def test_keep_all_when_what_beats_random_still_costs_accuracy():
    got = recommend(summarise([*FULL, *RANDOM, *tried("el2n", 0.85, 0.3)]), 1000)
    assert (got.verdict, got.score, got.pruned) == ("keep all", "", 0.0)
    assert "1 beat random rows, but all cost accuracy" in got.text and "expected change -5.0" in got.text


def test_refusal_names_the_best_try_and_randoms_own_figure():
    points = [*FULL, *RANDOM, *tried("el2n", 0.80, 0.3), *tried("aum", 0.79, 0.3)]
    got = recommend(summarise(points), 1000)
    assert (got.verdict, got.pruned) == ("no score beats random", 0.0)
    assert "the best try is 30 % by EL2N" in got.text
    assert got.text.endswith("Random rows at that share: -10.0 points against all data")


def test_one_seed_is_never_recommended():
    points = [point("all"), point("random", accuracy=0.1, pruned=0.3), point("el2n", pruned=0.3)]
    got = recommend(summarise(points), 1000)
    assert got.verdict == "keep all" and "one training per subset" in got.text


def test_nothing_to_compare_with_is_said():
    ours = tried("el2n", 0.9, 0.3)
    assert "no random subsets" in recommend(summarise([*FULL, *ours]), 1000).text
    assert "nothing was trained on all" in recommend(summarise([*ours, *RANDOM]), 1000).text
    assert "no subset by a score" in recommend(summarise([*FULL, *RANDOM]), 1000).text


def test_stratified_rows_are_no_score():
    got = recommend(summarise([*FULL, *RANDOM, *tried("stratified", 0.95, 0.3)]), 1000)
    assert got.verdict == "keep all"


def test_a_gain_that_is_clear_by_itself_is_not_enough_among_many_noisy_tries():
    ends = [(s, e) for s in ("aum", "pvi", "vog", "forgetting", "tracin") for e in ("easy", "hard")]
    noisy = [p for s, e in ends for p in seeded(s, [0.77, 0.80, 0.83], pruned=0.3, pruned_end=e)]
    calm = [p for s, e in ends for p in seeded(s, [0.80, 0.80, 0.80], pruned=0.3, pruned_end=e)]
    ours = tried("el2n", 0.83, 0.3)
    rows = summarise([*tried("all", 0.83, 0.0), *RANDOM, *ours, *noisy])
    assert [r["verdict"] for r in rows if r["score"] == "el2n"] == ["better"]
    assert recommend(rows, 1000).verdict == "no score beats random"
    rows = summarise([*tried("all", 0.83, 0.0), *RANDOM, *ours, *calm])
    assert recommend(rows, 1000).verdict == "prune"


def test_chance_alone_is_rarely_recommended():
    rng = np.random.default_rng(0)
    prunes = 0
    for _ in range(25):
        points = [p for s, pruned in (("all", 0.0), ("random", 0.3)) for p in _noisy(rng, s, pruned, "")]
        for score in ("el2n", "aum", "pvi", "vog", "forgetting", "tracin"):
            for end in ("easy", "hard"):
                points += _noisy(rng, score, 0.3, end)
        prunes += recommend(summarise(points), 1000).verdict != "no score beats random"
    assert prunes / 25 <= 0.1


def _noisy(rng, score, pruned, end):
    return [
        point(
            score,
            s,
            pruned=pruned,
            pruned_end=end,
            per_class={f"c{k}": [int(rng.binomial(50, 0.8)), 50] for k in range(20)},
        )
        for s in range(3)
    ]


def test_gradient_scores_of_a_frozen_encoder_say_where_they_were_taken():
    assert title_of("vog-embedding") == "VoG (embedding)" and title_of("grand-head") == "GraNd (head)"
    assert title_of("el2n") == "EL2N"


def test_rows_of_other_studies_recommend_nothing():
    noisy = [p | {"study": "noise", "noise": "uniform", "noise_rate": 0.1} for p in tried("el2n", 0.95, 0.3)]
    noisy += [p | {"study": "noise", "noise": "uniform", "noise_rate": 0.1} for p in (*FULL, *RANDOM)]
    alone = recommend(summarise(noisy), 1000)
    assert alone.verdict == "keep all" and 'the study "curve" was not made' in alone.text
    worse = [*FULL, *RANDOM, *tried("aum", 0.70, 0.3)]
    assert recommend(summarise([*worse, *noisy]), 1000) == recommend(summarise(worse), 1000)
