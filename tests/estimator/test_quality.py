"""The quality table and its verdicts."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from nncift_core.estimator import QualityRow, assess

RNG = np.random.default_rng(0)
N = 80
TRUTH = RNG.normal(size=N)
NOISE = RNG.normal(size=N)
COLUMNS = np.arange(N) % 8
Q4 = np.full(N, "Q4")


def table(predictions, **changes):
    given = {"estimator": "mlp", "columns": COLUMNS, "quadrants": Q4, "function": "delift", "seed": 0}
    return assess(TRUTH, predictions, **{**given, **changes})


def verdict(predictions, **changes):
    rows = [r for r in table(predictions, **changes) if r.role == "estimator"]
    assert len(rows) == 1
    return rows[0].verdict


def test_fields_are_those_of_the_catalogue():
    assert [f.name for f in dataclasses.fields(QualityRow)] == (
        "function quadrant target_task role predictor n_pairs mse r2 pearson spearman "
        "spearman_per_target recall_at_k lower upper verdict spearman_centred"
    ).split()


def test_numbers_by_hand():
    truth, predicted = np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 3.0, 2.0, 4.0])
    estimator, constant = assess(
        truth,
        {"mlp": predicted, "constant": np.full(4, 2.0)},
        estimator="mlp",
        columns=np.zeros(4, dtype=np.int64),
        quadrants=np.full(4, "Q2"),
        function="delift",
        seed=0,
    )
    assert (estimator.n_pairs, estimator.mse, estimator.r2) == (4, 0.5, pytest.approx(0.6))
    assert estimator.pearson == pytest.approx(0.8) and estimator.spearman == pytest.approx(0.8)
    assert (estimator.spearman_per_target, estimator.recall_at_k) == (None, 1.0)
    assert (estimator.function, estimator.quadrant, estimator.target_task) == ("delift", "Q2", "all")
    assert estimator.verdict == "too few pairs (4)"
    assert (constant.role, constant.verdict, constant.mse) == ("baseline", "", 1.5)
    assert constant.r2 == pytest.approx(-0.2) and constant.recall_at_k == pytest.approx(0.25)
    undefined = (constant.pearson, constant.spearman, constant.lower, constant.upper)
    assert undefined == (None, None, None, None)


def test_two_pairs_have_an_error_and_nothing_else():
    row = table({"mlp": TRUTH + 1}, quadrants=np.r_[np.full(2, "Q2"), Q4[2:]])[0]
    assert (row.quadrant, row.n_pairs, row.mse) == ("Q2", 2, pytest.approx(1.0))
    assert (row.r2, row.pearson, row.spearman, row.spearman_per_target) == (None,) * 4
    assert (row.recall_at_k, row.lower, row.upper) == (None,) * 3


def test_rows_per_quadrant_and_task():
    quadrants = np.repeat(["Q1", "Q4"], N // 2)
    tasks = np.where(COLUMNS < 4, "code", "maths")
    rows = table({"mlp": TRUTH + NOISE, "constant": np.zeros(N)}, quadrants=quadrants, target_tasks=tasks)
    assert [(r.quadrant, r.target_task, r.role, r.n_pairs) for r in rows] == [
        (q, t, role, n)
        for q in ("Q1", "Q4")
        for t, n in (("all", 40), ("code", 20), ("maths", 20))
        for role in ("estimator", "baseline")
    ]
    code = next(r for r in rows if (r.quadrant, r.target_task, r.role) == ("Q4", "code", "estimator"))
    inside = (quadrants == "Q4") & (tasks == "code")
    assert code.mse == pytest.approx(np.square(NOISE[inside]).mean())
    one_task = table({"mlp": TRUTH}, target_tasks=np.full(N, "code"))
    assert [r.target_task for r in one_task] == ["all"]


def test_verdict_beats_every_baseline():
    predictions = {"mlp": TRUTH + 0.3 * NOISE, "constant": np.zeros(N), "cosine": TRUTH + 0.8 * NOISE}
    assert verdict(predictions) == "beats every baseline"
    row = table(predictions)[0]
    assert 0 < row.lower < row.spearman < row.upper <= 1
    assert verdict({"mlp": TRUTH}) == "no baseline to compare with"


def test_verdict_names_the_best_baseline_not_beaten():
    better = {"mlp": TRUTH + 0.5 * NOISE, "means": TRUTH + 0.3 * NOISE, "cosine": TRUTH + 0.1 * NOISE}
    assert verdict(better | {"constant": np.zeros(N)}) == "no better than cosine"
    # Higher R2 but lower rank agreement is not better, nor is the same prediction.
    assert verdict({"mlp": TRUTH + 0.3 * NOISE, "cosine": 50 * TRUTH}) == "no better than cosine"
    assert verdict({"mlp": TRUTH + 0.3 * NOISE, "twin": TRUTH + 0.3 * NOISE}) == "no better than twin"


def test_verdict_does_not_flatter():
    # The warning of methods.md: a constant reaches a small error and explains nothing.
    assert verdict({"mlp": np.full(N, TRUTH.mean()), "constant": np.zeros(N)}) == "below a constant (R2 <= 0)"
    # It ranks perfectly but its scale is far off.
    assert verdict({"mlp": 9 * TRUTH, "constant": np.zeros(N)}) == "below a constant (R2 <= 0)"
    # A weak signal whose interval reaches below 0 does not beat a constant.
    weak = 0.15 * TRUTH + NOISE
    slope, intercept = np.polyfit(weak, TRUTH, 1)
    rows = table({"mlp": slope * weak + intercept, "constant": np.zeros(N)})
    assert rows[0].r2 > 0 and rows[0].spearman > 0 and rows[0].lower < 0
    assert rows[0].verdict == "no better than constant"


def test_verdict_of_labels_few_pairs_and_flat_truth():
    perfect = {"mlp": TRUTH, "constant": np.zeros(N)}
    assert verdict(perfect, quadrants=np.full(N, "Q1")) == "fit on labels"
    short = {k: v[:29] for k, v in perfect.items()}
    rows = assess(
        TRUTH[:29], short, estimator="mlp", columns=COLUMNS[:29], quadrants=Q4[:29], function="f", seed=0
    )
    assert rows[0].verdict == "too few pairs (29)"
    flat = assess(np.ones(N), perfect, estimator="mlp", columns=COLUMNS, quadrants=Q4, function="f", seed=0)
    assert flat[0].verdict == "exact values do not vary"


def test_labels_of_a_scattered_design_are_labels():
    quadrants = np.repeat(["labels", "unseen"], N // 2)
    rows = table({"kernel": TRUTH + NOISE / 3}, estimator="kernel", quadrants=quadrants)
    assert [(r.quadrant, r.verdict) for r in rows] == [
        ("labels", "fit on labels"),
        ("unseen", "no baseline to compare with"),
    ]


def test_the_gates_sentence_stands_by_all_unseen_pairs():
    quadrants = np.array(["Q1", "Q3", "Q2", "Q4"])[np.arange(N) % 4]
    tasks = np.where(COLUMNS < 4, "code", "maths")
    given = {"mlp": TRUTH + NOISE, "constant": np.zeros(N)}
    rows = table(given, quadrants=quadrants, target_tasks=tasks, overall="weak: so-so")
    assert [r.quadrant for r in rows[-6:]] == ["all"] * 6
    assert rows[:-6] == table(given, quadrants=quadrants, target_tasks=tasks)
    verdicts = {(r.target_task, r.role): r.verdict for r in rows[-6:]}
    assert verdicts["all", "estimator"] == "weak: so-so" and verdicts["all", "baseline"] == ""
    assert verdicts["code", "estimator"] not in ("", "weak: so-so")
    unseen = quadrants != "Q1"
    assert rows[-6].n_pairs == 60 and rows[-6].mse == pytest.approx(np.square(NOISE[unseen]).mean())
    only_labels = table(given, quadrants=np.full(N, "labels"), overall="weak: so-so")
    assert [r.quadrant for r in only_labels] == ["labels", "labels"]


def test_a_baseline_may_be_the_estimator():
    rows = table({"means": TRUTH + NOISE, "constant": np.zeros(N)}, estimator="means")
    assert [(r.predictor, r.role) for r in rows] == [("means", "estimator"), ("constant", "baseline")]
    assert rows[0].verdict == "beats every baseline"


def test_column_effects_are_told_apart():
    effect = 10.0 * COLUMNS
    where = {"columns": COLUMNS, "quadrants": Q4, "function": "f", "seed": 0}
    means, rows = assess(effect + TRUTH, {"means": effect, "rows": TRUTH}, estimator="means", **where)
    assert means.spearman > 0.9 and means.spearman_centred is None
    assert rows.spearman < 0.5 and rows.spearman_centred == pytest.approx(1.0)


def test_no_pairs_no_rows():
    none = np.empty(0)
    where = {"columns": none.astype(np.int64), "quadrants": none.astype(str)}
    assert assess(none, {"mlp": none}, estimator="mlp", function="f", seed=0, **where) == []


def test_wrong_input_is_named():
    with pytest.raises(ValueError, match=r"no predictions of the estimator 'mlp', only of \['gp'\]"):
        table({"gp": TRUTH})
    with pytest.raises(ValueError, match=r"cosine is \[79\], the exact values are \[80\]"):
        table({"mlp": TRUTH, "cosine": TRUTH[1:]})
    with pytest.raises(ValueError, match="1 of 80 numbers of mlp are not finite"):
        table({"mlp": np.where(np.arange(N) == 3, np.nan, TRUTH)})
    with pytest.raises(ValueError, match="no quadrant may be named 'all'"):
        table({"mlp": TRUTH}, quadrants=np.full(N, "all"))
    with pytest.raises(ValueError, match=r"top must be in \(0, 1\], got 0"):
        table({"mlp": TRUTH}, top=0)
