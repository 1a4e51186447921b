"""The queries behind "Can you trust this?": verdict, audit pairs, candidates, studies, refinement."""

from __future__ import annotations

CELLS = 30
ENOUGH_FOR_TENTHS = 20

_OF_ESTIMATOR = "target_task = 'all' AND role = 'estimator'"

# One row, or none where the run was made before there were verdicts, or where nothing was estimated.
VERDICT = f"""WITH told AS (SELECT predictor, n_pairs, verdict FROM estimator_quality
 WHERE quadrant = 'all' AND {_OF_ESTIMATOR}),
 known AS (SELECT max(text) FILTER (fact = 'estimator') AS estimator,
 max(text) FILTER (fact = 'estimator_used') AS used, max(text) FILTER (fact = 'estimator_verdict') AS level,
 max(text) FILTER (fact = 'estimator_reason') AS reason,
 max(value) FILTER (fact = 'audit_measuring_pairs') AS pairs FROM facts)
 SELECT coalesce(predictor, estimator) AS estimator, coalesce(used, predictor, estimator) AS used,
 coalesce(n_pairs, pairs) AS pairs, coalesce(split_part(verdict, ': ', 1), level) AS level,
 coalesce(substr(verdict, strpos(verdict, ': ') + 2), reason) AS reason
 FROM known LEFT JOIN told ON true WHERE coalesce(verdict, level) IS NOT NULL"""

DRIFT = "SELECT text AS told FROM facts WHERE fact = 'estimator_drift' AND text <> ''"

# A part that holds every audit pair says what the verdict on all of them says.
PARTS = f"""SELECT quadrant, predictor, verdict FROM (SELECT *,
 max(n_pairs) FILTER (quadrant = 'all') OVER () AS pooled FROM estimator_quality WHERE {_OF_ESTIMATOR})
 WHERE quadrant NOT IN ('Q1', 'labels', 'all') AND (pooled IS NULL OR n_pairs < pooled)
 ORDER BY quadrant DESC"""

QUALITY_ALL = """SELECT predictor, role, n_pairs, r2, spearman, lower, upper, spearman_centred,
 spearman_per_target, recall_at_k FROM estimator_quality WHERE target_task = 'all' AND quadrant = 'all'
 ORDER BY role DESC, spearman DESC NULLS LAST, predictor"""

_QUALITY = """SELECT quadrant, predictor, n_pairs, r2, spearman, lower, upper, spearman_per_target,
 recall_at_k, verdict FROM estimator_quality WHERE target_task = 'all' AND quadrant <> 'all' {}
 ORDER BY quadrant, role DESC, predictor"""
QUALITY, QUALITY_OWN = _QUALITY.format(""), _QUALITY.format("AND role = 'estimator'")

QUALITY_BY_TASK = """SELECT target_task, CASE quadrant WHEN 'all' THEN 'all pairs' ELSE quadrant END AS part,
 n_pairs, r2, spearman, lower, upper, verdict
 FROM estimator_quality WHERE target_task <> 'all' AND role = 'estimator' AND quadrant NOT IN ('Q1', 'labels')
 ORDER BY target_task, quadrant <> 'all', quadrant"""

_OWN = """own AS (SELECT * FROM audit
 WHERE predictor = coalesce((SELECT max(text) FROM facts WHERE fact = 'estimator'), predictor))"""


def _cell(name: str) -> str:
    span = f"nullif(max({name}) OVER () - min({name}) OVER (), 0)"
    return f"coalesce(least({CELLS - 1}, floor(({name} - min({name}) OVER ()) / {span} * {CELLS})), 0)"


SCATTER = f"""WITH {_OWN}, cells AS (SELECT exact, predicted, {_cell("predicted")} AS x, {_cell("exact")} AS y
 FROM own) SELECT avg(predicted) AS predicted, avg(exact) AS exact, count(*) AS pairs
 FROM cells GROUP BY x, y ORDER BY x, y"""

# The audit pairs hold the fitted estimator's predictions: those of a baseline in its place are not there.
COVERAGE = f"""WITH {_OWN}, known AS (SELECT max(value) FILTER (fact = 'interval_half_width') AS half_width,
 max(text) FILTER (fact = 'estimator_used') AS used FROM facts)
 SELECT count(*) AS pairs, stddev_samp(exact) AS spread,
 count(*) FILTER (abs(exact - predicted) <= half_width) / count(*) AS inside
 FROM own, known WHERE predictor = used HAVING count(half_width) > 0"""

TENTHS = f"""WITH {_OWN}, parts AS (SELECT exact, predicted, count(*) OVER () AS n,
 ntile(10) OVER (ORDER BY predicted, train_id, target_id) AS tenth FROM own
 QUALIFY n >= {ENOUGH_FOR_TENTHS} AND max(predicted) OVER () > min(predicted) OVER ())
 SELECT tenth, count(*) AS pairs, avg(predicted) AS mean_predicted, avg(exact) AS mean_exact
 FROM parts GROUP BY tenth ORDER BY tenth"""

COMPONENTS = """SELECT DISTINCT component FROM estimator_candidates WHERE component IS NOT NULL
 ORDER BY component"""


def candidates(components: int) -> str:
    """One row per candidate, with a column for each of that many components, in the order of `COMPONENTS`."""
    columns = "".join(
        f" max(value) FILTER (component IS NOT NULL AND place = {n}) AS component_{n},"
        for n in range(1, components + 1)
    )
    return f"""SELECT rank, predictor, CASE WHEN learned THEN 'learned' ELSE 'cheap' END AS kind,
 max(criterion) AS criterion,{columns} max(seconds) AS seconds, max(failed) AS failed
 FROM (SELECT *, dense_rank() OVER (ORDER BY component NULLS LAST) AS place FROM estimator_candidates)
 GROUP BY rank, predictor, learned ORDER BY rank NULLS LAST, predictor"""


FEATURE_GAINS = """SELECT CASE setting WHEN 'none' THEN 'nothing' ELSE setting END AS left_out, spearman, r2,
 gain FROM estimator_gains WHERE study = 'features'
 ORDER BY setting <> 'none', gain DESC NULLS LAST, setting"""

CURVE = """SELECT labels, CASE WHEN extrapolated THEN 'extrapolated' ELSE 'measured' END AS origin, spearman,
 r2 FROM estimator_gains WHERE study = 'labels' ORDER BY labels, extrapolated"""

DOUBLED = f"""SELECT max(labels) FILTER (origin = 'measured') AS labels,
 max_by(spearman, labels) FILTER (origin = 'measured') AS spearman,
 max(labels) FILTER (origin = 'extrapolated') AS more,
 max_by(spearman, labels) FILTER (origin = 'extrapolated') AS expected FROM ({CURVE})"""

REFINEMENT = "SELECT round, exact_pairs, entered, left_subset, jaccard FROM refinement ORDER BY round"
