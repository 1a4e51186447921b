"""Every query of a sweep's page and of its table in the terminal; none holds text of the user's."""

from __future__ import annotations

UNSEEN = "(quadrant = 'unseen' OR quadrant IS NULL)"


def _mean(metric: str, name: str, spread: bool = False) -> str:
    """Mean of a metric over seeds and, where asked for, its standard deviation."""
    of = f"(value) FILTER (metric = '{metric}')"
    return f"avg{of} AS {name}" + (f", stddev_samp{of} AS {name}_spread" if spread else "")


HEAD = """SELECT min(study) AS study, min(function) AS function, count(DISTINCT seed) AS seeds,
 count(DISTINCT predictor) AS predictors FROM sweep"""

DESIGNS = """SELECT design, count(*) AS numbers FROM sweep WHERE setting = 'tournament' GROUP BY design
 ORDER BY design"""

FAILED = """SELECT setting, design, predictor, note, count(*) AS fits FROM sweep WHERE metric = 'failed'
 GROUP BY ALL ORDER BY ALL"""


def tournament(design: str) -> str:
    """Every estimator under one label design, on the pairs it was not given, best Spearman first."""
    return f"""SELECT predictor, {_mean("labels", "labels")}, {_mean("r2", "r2")},
 {_mean("spearman", "spearman", spread=True)}, {_mean("spearman_per_target", "per_target")},
 {_mean("recall_by_score", "top_rows")}, {_mean("share_of_gain", "gained", spread=True)},
 {_mean("jaccard", "jaccard")}, {_mean("fit_seconds", "fit_seconds")},
 {_mean("predict_seconds", "predict_seconds")}, count(DISTINCT seed) AS seeds FROM sweep
 WHERE setting = 'tournament' AND design = '{design}' AND {UNSEEN} AND metric <> 'failed'
 GROUP BY predictor ORDER BY spearman DESC NULLS LAST, predictor"""


BY_QUADRANT = f"""SELECT predictor, quadrant, {_mean("mse", "mse")}, {_mean("r2", "r2")},
 {_mean("spearman", "spearman", spread=True)}, {_mean("recall", "recall")} FROM sweep
 WHERE setting = 'tournament' AND design = 'block' AND quadrant IN ('Q1', 'Q2', 'Q3', 'Q4') GROUP BY ALL
 ORDER BY predictor, quadrant"""

# Each seed against the same seed with every group, so that the draw of the labels cancels out.
GROUPS = """SELECT s.setting, s.predictor, s.design,
 avg(s.value) FILTER (s.metric = 'spearman') AS spearman,
 avg(f.value - s.value) FILTER (s.metric = 'spearman') AS lost,
 stddev_samp(f.value - s.value) FILTER (s.metric = 'spearman') AS lost_spread,
 avg(f.value - s.value) FILTER (s.metric = 'r2') AS lost_r2,
 avg(f.value - s.value) FILTER (s.metric = 'share_of_gain') AS lost_gain
 FROM sweep s JOIN sweep f ON f.setting = 'tournament' AND f.predictor = s.predictor AND f.design = s.design
 AND f.u = s.u AND f.seed = s.seed AND f.metric = s.metric AND f.quadrant IS NOT DISTINCT FROM s.quadrant
 WHERE s.setting LIKE 'without %' AND (s.quadrant = 'unseen' OR s.quadrant IS NULL) AND s.metric <> 'failed'
 GROUP BY ALL ORDER BY lost DESC NULLS LAST, s.setting"""


def against_u(metric: str) -> str:
    """One metric by quadrant, predictor and u."""
    return f"""SELECT quadrant, predictor, u, avg(value) AS mean, stddev_samp(value) AS spread,
 count(value) AS seeds FROM sweep WHERE setting = 'labels' AND metric = '{metric}'
 AND quadrant IS NOT NULL GROUP BY ALL ORDER BY quadrant, predictor, u"""


SIZES = f"""SELECT s.predictor, CAST(substr(s.setting, 8) AS BIGINT) AS hidden, avg(p.value) AS parameters,
 s.quadrant, {_mean("mse", "mse", spread=True)}, {_mean("spearman", "spearman", spread=True)}
 FROM sweep s JOIN (SELECT predictor, setting, seed, value FROM sweep WHERE metric = 'parameters') p
 ON p.predictor = s.predictor AND p.setting = s.setting AND p.seed = s.seed
 WHERE s.setting LIKE 'hidden %' AND s.quadrant IS NOT NULL GROUP BY ALL
 ORDER BY s.quadrant, s.predictor, hidden""".replace("(value)", "(s.value)").replace("(metric", "(s.metric")

SELECTED = f"""SELECT predictor, u, v, {_mean("share_of_gain", "gained", spread=True)},
 {_mean("jaccard", "jaccard")}, count(DISTINCT seed) AS seeds FROM sweep
 WHERE setting = 'labels' AND v IS NOT NULL GROUP BY ALL ORDER BY predictor, u, v"""

# Of the figures, one line per estimator and u: what the terminal shows.
SUMMARY = f"""SELECT predictor, u, {_mean("mse", "mse")}, {_mean("r2", "r2")},
 {_mean("spearman", "spearman", spread=True)}, {_mean("spearman_per_target", "per_target")},
 {_mean("recall", "recall")} FROM sweep WHERE setting = 'labels' AND quadrant = 'unseen' GROUP BY ALL
 ORDER BY u, spearman DESC NULLS LAST, predictor"""
