"""Which estimator wins, on which evidence, and what is recorded."""

from __future__ import annotations

import json

import numpy as np
import pytest
from estimator.made_estimators import BASELINES, Broken, Constant, Cosine, Linear, block, made, scattered

from nncift_core.estimator import evidence
from nncift_core.estimator.choice import choose, split_audit
from nncift_core.estimator.contract import EMBEDDING, Features

ROWS, COLUMNS = np.arange(40), np.arange(16)
ROW, COLUMN = block(ROWS, COLUMNS)


def chosen(kind="learnable", candidates=None, seed=0, labels=None, audit=True, **changes):
    features, matrix = made(seed, kind)
    i, j = (ROW, COLUMN) if labels is None else labels
    a, b = scattered(matrix.shape, 100, seed, but=(i, j))
    given = {"rule": "top-k", "share": 0.1, "seed": 0, **changes}
    return choose(
        features,
        i,
        j,
        matrix[i, j],
        candidates={"linear": Linear, **BASELINES} if candidates is None else candidates,
        audit=(a, b, matrix[a, b]) if audit else None,
        **given,
    )


def criteria(choice):
    return {c.name: c.criterion for c in choice.candidates}


@pytest.mark.parametrize("rule", ["top-k", "fl", "flmi", "flcg"])
@pytest.mark.parametrize("audit", [True, False])
def test_what_learns_wins(rule, audit):
    estimator, choice = chosen(rule=rule, audit=audit)
    assert choice.winner == "linear" and isinstance(estimator, Linear)
    assert choice.runner_up == max(BASELINES, key=criteria(choice).get)
    found = {c.name: c.components for c in choice.candidates}
    assert found["linear"]["gain"] > 0.4 and found["constant"]["gain"] == pytest.approx(0, abs=1e-9)
    assert ("audit_spearman" in found["linear"]) == audit
    assert choice.judged_on.startswith("640 labels of 40 rows and 16 columns, 4 folds of rows")
    assert choice.reason.endswith(choice.judged_on) and "linear (criterion 0." in choice.reason


def test_the_winner_is_fitted_on_all_labels():
    features, matrix = made(0)
    estimator, _ = chosen()
    alone = Linear().fit(features, ROW, COLUMN, matrix[ROW, COLUMN], seed=0)
    assert np.array_equal(
        estimator.predict_pairs(features, ROW, COLUMN), alone.predict_pairs(features, ROW, COLUMN)
    )


def test_scattered_labels():
    labels = scattered((200, 40), 900, 5)
    _, choice = chosen(labels=labels)
    assert choice.winner == "linear"
    _, coverage = chosen(labels=labels, rule="fl")
    assert coverage.winner == "linear" and coverage.candidates[0].components["gain"] is None


def test_a_cheap_baseline_wins_where_nothing_is_learned():
    estimator, choice = chosen("column", audit=False)
    assert choice.winner == "means" and not estimator.learned
    assert "a cheap baseline, wins: the best learned candidate linear" in choice.reason


def test_a_learned_winner_must_be_better_than_the_best_baseline():
    class Twin(Cosine):
        learned = True

    _, choice = chosen(candidates={"twin": Twin, "cosine": Cosine})
    assert choice.winner == "cosine" and criteria(choice)["twin"] == criteria(choice)["cosine"]


def test_near_ties_go_to_the_first_in_the_list():
    class Nearly(Linear):
        """Better or worse by a hair, far less than the folds differ."""

        def predict_pairs(self, features, i, j):
            out = super().predict_pairs(features, i, j)
            return out + 0.05 * np.random.default_rng(len(i)).normal(size=len(i)).astype(np.float32)

    both = {"linear": Linear, "nearly": Nearly}
    _, first = chosen(candidates={**both, **BASELINES})
    _, second = chosen(candidates={**dict(reversed(both.items())), **BASELINES})
    assert criteria(first) == criteria(second)
    assert (first.winner, second.winner) == ("linear", "nearly")
    told = [c.reason for c in (first, second) if "within one standard error" in c.reason]
    assert len(told) == 1


def test_a_failed_candidate_is_recorded_and_not_fatal():
    class Endless(Linear):
        def predict_pairs(self, features, i, j):
            return np.where(i == i[0], np.inf, super().predict_pairs(features, i, j))

    steps = []
    candidates = {"broken": Broken, "endless": Endless, "linear": Linear, "constant": Constant}
    _, choice = chosen(candidates=candidates, progress=steps.append)
    assert choice.winner == "linear" and steps == [1, 1, 1, 1]
    broken, endless = choice.candidates[:2]
    assert broken.failed == "linalg.cholesky: not positive-definite" and broken.criterion is None
    assert "predictions are not finite" in endless.failed and endless.components == {}
    with pytest.raises(ValueError, match="every candidate failed: broken: linalg.cholesky: not positive"):
        chosen(candidates={"broken": Broken})


def test_a_winner_that_fails_on_everything_gives_way(monkeypatch):
    class NotBig(Linear):
        def fit(self, features, i, j, values, *, seed):
            if len(i) > 400:
                raise ValueError("too many labels")
            return super().fit(features, i, j, values, seed=seed)

    monkeypatch.setattr(evidence, "LABEL_LIMIT", 400)
    _, choice = chosen(candidates={"not big": NotBig, "cosine": Cosine, "constant": Constant})
    assert choice.winner != "not big" and choice.candidates[0].failed == "too many labels"


def test_above_the_limit_a_sub_block_is_judged(monkeypatch):
    sizes = []

    class Counted(Linear):
        def fit(self, features, i, j, values, *, seed):
            sizes.append((len(np.unique(i)), len(np.unique(j)), len(i)))
            return super().fit(features, i, j, values, seed=seed)

    monkeypatch.setattr(evidence, "LABEL_LIMIT", 200)
    monkeypatch.setattr(evidence, "COLUMNS_KEPT", 8)
    _, choice = chosen(candidates={"counted": Counted, "constant": Constant})
    # 25 rows x 8 columns; a quarter of the rows held out in each fold, all for the audit and the winner.
    assert sizes == [(18, 8, 144), (19, 8, 152), (19, 8, 152), (19, 8, 152), (25, 8, 200), (40, 16, 640)]
    assert "a sub-block of 200 labels of 25 rows and 8 columns (of 640 labels)" in choice.reason
    sizes.clear()
    _, choice = chosen(labels=scattered((200, 40), 900, 5), candidates={"counted": Counted})
    assert sizes[-1][2] == 900 and 190 <= sizes[-2][2] <= 200


def test_folds_follow_content_not_position():
    features, matrix = made(0)
    _, before = chosen(audit=False, candidates={"cosine": Cosine, **BASELINES})
    order = np.random.default_rng(9).permutation(200)
    where = np.argsort(order)
    _, after = choose(
        features.take(rows=order),
        where[ROW],
        COLUMN,
        matrix[ROW, COLUMN],
        candidates={"cosine": Cosine, **BASELINES},
        rule="top-k",
        share=0.1,
        audit=None,
        seed=0,
    )
    for name, value in criteria(before).items():
        assert criteria(after)[name] == pytest.approx(value)
    _, other = chosen(audit=False, seed=1)
    assert criteria(other)["cosine"] != criteria(before)["cosine"]


def test_equal_arguments_give_an_equal_choice():
    first, second = chosen()[1], chosen()[1]
    assert (first.reason, criteria(first)) == (second.reason, criteria(second))


def test_pointwise():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 5)).astype(np.float32)
    values = x @ rng.normal(size=5) + 0.3 * rng.normal(size=80)

    class OfRow(Linear):
        def _inputs(self, features, i, j):
            return features.rows[EMBEDDING][i].astype(np.float64)

    features = Features(np.arange(80), np.array([7]), {EMBEDDING: x})
    i = np.arange(50)
    audit = (np.arange(50, 80), np.zeros(30, np.int64), values[50:])
    _, choice = choose(
        features,
        i,
        np.zeros(50, np.int64),
        values[:50],
        candidates={"linear": OfRow, "constant": Constant},
        rule="top-k",
        share=0.2,
        audit=audit,
        seed=0,
    )
    assert choice.winner == "linear" and choice.candidates[0].components["recall"] >= 0.5


def test_few_labelled_rows():
    _, two = chosen(labels=block(np.arange(2), COLUMNS), audit=False)
    assert "2 folds of rows" in two.judged_on and two.winner in criteria(two)
    _, one = chosen(labels=block(np.arange(1), COLUMNS), audit=False)
    assert one.winner == "constant" and "too little to choose by" in one.reason
    assert "folds" not in one.judged_on
    _, audited = chosen(labels=block(np.arange(1), COLUMNS))
    assert "too little" not in audited.reason and criteria(audited)["cosine"] is not None
    _, eight = chosen(labels=block(np.arange(8), COLUMNS))
    assert "2 folds of rows" in eight.judged_on


def test_the_record_is_json():
    _, choice = chosen(candidates={"broken": Broken, "linear": Linear, **BASELINES})
    rows = json.loads(json.dumps(choice.as_rows()))
    assert [r["candidate"] for r in rows] == ["broken", "linear", "constant", "means", "cosine"]
    places = {r["candidate"]: r["place"] for r in rows if r["place"]}
    assert places == {"linear": "winner", choice.runner_up: "runner-up"}
    assert rows[0]["failed"] and rows[1]["failed"] is None
    assert rows[1]["spearman_centred"] == choice.candidates[1].components["spearman_centred"]


def test_wrong_input_is_named():
    with pytest.raises(ValueError, match="rule must be one of top-k, fl, flmi, flcg, got 'best'"):
        chosen(rule="best")
    for changes in ({"share": 0}, {"folds": 1}, {"candidates": {}}):
        with pytest.raises(ValueError, match="need share in"):
            chosen(**changes)


def test_split_of_the_audit():
    rng = np.random.default_rng(0)
    rows, columns = rng.integers(0, 2**60, 3000), rng.integers(0, 2**60, 3000)
    chooses = split_audit(rows, columns, 0)
    assert 0.3 < chooses.mean() < 0.37
    # A pair stays on its side when others come; another seed deals anew.
    assert np.array_equal(split_audit(rows[:100], columns[:100], 0), chooses[:100])
    assert not np.array_equal(split_audit(rows, columns, 1), chooses)
    assert not split_audit(rows[:59], columns[:59], 0).any() and split_audit(rows[:60], columns[:60], 0).any()
