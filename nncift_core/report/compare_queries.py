"""Every query of a comparison's page; none holds text of the user's, so that each can go into a shell."""

from __future__ import annotations

from nncift_core.evaluation import METRICS
from nncift_core.pipeline.compare_costs import COST_GROUPS

_ORDER = "[" + ", ".join(f"'{name}'" for name in METRICS) + "]"

METRICS_SHOWN = f"""SELECT DISTINCT mode, metric, list_position({_ORDER}, metric) AS place
 FROM compare_summary WHERE task = 'all' ORDER BY mode, place"""

HEAD = """SELECT (SELECT count(*) FROM methods WHERE NOT rival) AS methods,
 (SELECT count(*) FROM methods WHERE rival) AS scored_rivals,
 (SELECT count(*) FROM methods WHERE failed IS NOT NULL) AS failed"""

KEPT = f"""SELECT method, mode, metric, gain, kept FROM compare_summary
 WHERE task = 'all' AND kept IS NOT NULL ORDER BY mode, list_position({_ORDER}, metric), method"""

BETTER = """SELECT count(*) FILTER (verdict = 'better') AS better,
 count(*) FILTER (verdict = 'worse') AS worse, count(*) AS all_of_them
 FROM (SELECT s.verdict FROM compare_summary s JOIN methods m USING (method)
 WHERE s.task = 'all' AND NOT m.rival AND s.verdict IS NOT NULL)"""

METHODS = """SELECT method, rule, budget, exact_pairs, pairs, predictor, verdict, positive_gain, tied_steps
 FROM methods ORDER BY rival, method"""

REASONS = "SELECT method, reason FROM methods WHERE reason IS NOT NULL ORDER BY method"

FAILED = "SELECT method, failed FROM methods WHERE failed IS NOT NULL ORDER BY method"

BREAK_EVEN = """SELECT method, seconds, (SELECT e.seconds FROM methods e
 WHERE e.function = m.function AND e.teacher IS NOT DISTINCT FROM m.teacher AND e.origin = 'exact'
 AND e.rival = m.rival) AS exact_seconds,
 CASE WHEN never_pays THEN 'never' WHEN break_even_rows IS NULL THEN 'not measured'
 ELSE format('{:,.0f}', break_even_rows) END AS from_pool_rows
 FROM methods m WHERE origin = 'estimated' ORDER BY method"""

TOKENS = """SELECT subset, count(DISTINCT seed) AS seeds, avg(n_train) AS rows, avg(n_tokens) AS tokens
 FROM evaluation WHERE task = 'all' AND mode <> 'base' GROUP BY subset ORDER BY rows, tokens, subset"""


def scores(mode: str, metric: str) -> str:
    """Every subset under one mode and metric, best first."""
    up = METRICS[metric].higher_is_better
    return f"""SELECT method, value, lower, upper, gain, gain_lower, gain_upper, verdict, kept, n_seeds,
 n_rows FROM compare_summary WHERE task = 'all' AND mode = '{mode}' AND metric = '{metric}'
 ORDER BY value {"DESC" if up else "ASC"}, method"""


def by_task(mode: str, metric: str) -> str:
    """Gains over random rows, task by task."""
    return f"""SELECT task, method, value, gain, gain_lower, gain_upper, verdict, n_rows
 FROM compare_summary WHERE task <> 'all' AND mode = '{mode}' AND metric = '{metric}'
 ORDER BY task, gain DESC NULLS LAST, method"""


def costs() -> str:
    """Seconds of every method by group of stages, if nothing had been stored."""
    parts = []
    for group, stages in COST_GROUPS.items():
        names = ", ".join(f"'{stage}'" for stage in stages)
        parts.append(f"sum(full_seconds) FILTER (stage IN ({names})) AS {group}")
    return f"""SELECT method, {", ".join(parts)}, sum(full_seconds) AS total FROM method_costs
 GROUP BY method ORDER BY total, method"""
