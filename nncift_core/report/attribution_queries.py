"""Every query of an audit's page; none holds text of the user's."""

from __future__ import annotations

ORDER = "CASE origin WHEN 'exact' THEN 0 WHEN 'estimated' THEN 1 ELSE 2 END, method"

HEAD = """SELECT count(DISTINCT method) AS methods, count(DISTINCT metric) AS measures FROM attribution"""

LDS = f"""SELECT method, origin, value, lower, upper, n FROM attribution
 WHERE metric = 'lds' AND target_task = 'all' ORDER BY {ORDER}"""

LDS_BY_TASK = f"""SELECT method, target_task, value, lower, upper, n FROM attribution
 WHERE metric = 'lds' AND target_task <> 'all' ORDER BY target_task, {ORDER}"""

REMOVED = f"""SELECT method, metric, share, value, lower, upper, n FROM attribution
 WHERE metric IN ('qld', 'top-k') ORDER BY metric, share, {ORDER}"""

WRONG = (
    f"""SELECT method, value, lower, upper, n FROM attribution WHERE metric = 'wrong auc' ORDER BY {ORDER}"""
)


def _of(metric: str, name: str) -> str:
    return f"max(value) FILTER (metric = 'duplicate {metric}') AS {name}"


DUPLICATES = f"""SELECT method, {_of("auc", "auc")},
 max(lower) FILTER (metric = 'duplicate auc') AS lower, max(upper) FILTER (metric = 'duplicate auc') AS upper,
 {_of("recall@1", "first")}, {_of("recall@10", "in_ten")}, {_of("rank", "rank")}, max(n) AS n
 FROM attribution WHERE metric LIKE 'duplicate %' GROUP BY method, origin ORDER BY {ORDER}"""

MODELS = """SELECT kind, count(*) AS models, count(DISTINCT key) AS trainings, avg(rows) AS rows,
 avg(loss) AS loss, stddev_samp(loss) AS spread FROM attribution_models GROUP BY kind
 ORDER BY list_position(['base', 'subset', 'control', 'top-k', 'qld'], kind)"""

NOTES = "SELECT DISTINCT method, note FROM attribution WHERE note IS NOT NULL ORDER BY ALL"
