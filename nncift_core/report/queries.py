"""Every query of the report. None holds text of the user's, so that each can be copied into a shell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nncift_core.store.query import Session, rows
from nncift_core.store.workspace import Workspace

BINS = 60


@dataclass(frozen=True)
class Data:
    """The rows that a query gave; run: "all" where it was asked of every run, else empty."""

    sql: str
    rows: list[dict[str, Any]]
    run: str = ""

    @property
    def first(self) -> dict[str, Any]:
        """The first row; an empty dict when there is none."""
        return self.rows[0] if self.rows else {}

    def where(self, column: str, value: str) -> Data:
        """The rows that have `value` in `column`, both being names of ours."""
        sql = f"SELECT * FROM ({self.sql}) WHERE {column} = '{value}'"
        return Data(sql, [r for r in self.rows if r[column] == value], self.run)


class Reader:
    """Asks a workspace's views on behalf of one run, by one connection: a page shows one state of them."""

    def __init__(self, ws: Workspace, run_id: str) -> None:
        self.ws, self.run_id = ws, run_id
        self._asked: dict[str, Data] = {}
        self._session = Session(ws, run_id)

    def ask(self, sql: str) -> Data:
        """Rows of `sql` under this run; asked once, however many sections want them."""
        flat = " ".join(sql.split())
        if flat not in self._asked:
            self._asked[flat] = Data(flat, self._session.rows(flat))
        return self._asked[flat]

    def ask_all(self, sql: str) -> Data:
        """Rows of `sql` over every run of the workspace."""
        flat = " ".join(sql.split())
        return Data(flat, rows(self.ws, flat, "all"), "all")

    @property
    def pointwise(self) -> bool:
        """Whether the run's function values each row by itself."""
        return self.ask(FACTS).where("fact", "kind").first.get("text") == "pointwise"

    @property
    def unit(self) -> str:
        """What an exact value belongs to, in the plural."""
        return "rows" if self.pointwise else "pairs"


def count(sql: str) -> str:
    """How many rows `sql` gives."""
    return f"SELECT count(*) AS n FROM ({' '.join(sql.split())})"


_THIS_RUN = "(SELECT run_id FROM selection LIMIT 1)"
_RIVALS = "['random', 'random-tokens', 'longest', 'base']"
# By column and in order: what a page calls them.
METRIC_NAMES = {
    "loss": "loss", "rouge1": "ROUGE-1", "rougeL": "ROUGE-L", "similarity": "similarity",
    "exact": "exact match", "choice": "multiple choice", "judge": "judge",
}  # fmt: skip
_METRICS = str(list(METRIC_NAMES))
_NAMED = " ".join(f"WHEN '{m}' THEN '{name}'" for m, name in METRIC_NAMES.items())
_METRIC = f"CASE metric {_NAMED} ELSE metric END"
_IN_CONTEXT = "CASE mode WHEN 'icl' THEN ', in context' ELSE '' END"
# Of the modes that a run has beside the base model; "finetune" before "icl".
_FIRST_MODE = "(SELECT min(mode) FROM {} WHERE mode <> 'base')"
_SUBSET = """CASE {} WHEN 'selected' THEN 'selected rows' WHEN 'random' THEN 'random, as many rows'
 WHEN 'random-tokens' THEN 'random, as many tokens' WHEN 'longest' THEN 'longest responses'
 WHEN 'base' THEN 'nothing (base model)' ELSE {} END"""

FACTS = "SELECT fact, value, text FROM facts ORDER BY fact"

HEAD = """SELECT (SELECT count(*) FROM examples WHERE role = 'pool') AS pool_rows,
 (SELECT count(*) FROM examples WHERE role = 'target') AS target_rows,
 (SELECT count(*) FROM selection) AS chosen,
 (SELECT min(function) FROM scores) AS function"""

ATTEMPT = f"""SELECT attempt, strftime(CAST(started_at AS TIMESTAMP), '%Y-%m-%d %H:%M') || ' UTC' AS started,
 config, versions FROM runs WHERE run_id = {_THIS_RUN} ORDER BY attempt DESC LIMIT 1"""

DATASETS = """SELECT role, dataset, count(*) AS rows, count(DISTINCT coalesce(source, dataset)) AS sources,
 count(DISTINCT coalesce(task, dataset)) AS tasks FROM examples GROUP BY role, dataset
 ORDER BY list_position(['pool', 'existing', 'planted', 'target', 'test'], role), dataset"""

MEASURED = f"""SELECT DISTINCT metric FROM evaluation WHERE task = 'all'
 ORDER BY list_position({_METRICS}, metric)"""


def evaluation(metrics: Sequence[str]) -> str:
    """Mean of every subset and mode by each of `metrics`, names of `METRIC_NAMES`, one at least."""
    means = ", ".join(f"avg(value) FILTER (metric = '{m}') AS {m}" for m in metrics)
    best = ", ".join(m if m == "loss" else f"{m} DESC" for m in metrics)
    return f"""SELECT {_SUBSET.format("subset", "subset")} || {_IN_CONTEXT} AS trained_on,
 count(DISTINCT seed) AS seeds, avg(n_train) AS rows, avg(n_tokens) AS tokens, {means}
 FROM evaluation WHERE task = 'all' GROUP BY subset, mode ORDER BY {best}, trained_on"""


COMPARISON = f"""SELECT {_SUBSET.format("against", "against")} || {_IN_CONTEXT} AS rival,
 {_METRIC} AS measure, value, against_value, gain, lower, upper, n_seeds, n_rows, verdict
 FROM comparison WHERE task = 'all'
 ORDER BY mode, list_position({_METRICS}, metric), list_position({_RIVALS}, against)"""

COMPARISON_BY_TASK = f"""SELECT task, {_SUBSET.format("against", "against")} AS rival, {_METRIC} AS measure,
 gain, lower, upper, n_rows, verdict FROM comparison
 WHERE task <> 'all' AND metric = (SELECT min_by(metric, list_position({_METRICS}, metric)) FROM comparison)
 AND mode = {_FIRST_MODE.format("comparison")}
 ORDER BY task, list_position({_RIVALS}, against)"""

BY_SEED = f"""SELECT {_SUBSET.format("subset", "subset")} AS trained_on, seed, {_METRIC} AS measure, value,
 lower, upper FROM evaluation WHERE task = 'all' AND value IS NOT NULL
 AND mode IN ('base', {_FIRST_MODE.format("evaluation")})
 AND metric = (SELECT min_by(metric, list_position({_METRICS}, metric)) FROM evaluation)
 ORDER BY list_position(['selected'] || {_RIVALS}, subset), seed"""

_ANSWERS = f"""WITH scored AS (SELECT target_id,
 round(avg(value) FILTER (subset = 'selected') - avg(value) FILTER (subset = 'RIVAL'), 9) AS ahead,
 arg_min(generated, seed) FILTER (subset = 'selected') AS selected,
 arg_min(generated, coalesce(seed, 0)) FILTER (subset = 'RIVAL') AS rival,
 any_value(generated) FILTER (subset = 'base') AS base
 FROM evaluation_rows WHERE metric = 'rouge1'
 AND mode IN ('base', {_FIRST_MODE.format("evaluation_rows")}) GROUP BY target_id),
 placed AS (SELECT *, row_number() OVER (ORDER BY ahead DESC, target_id) AS place, count(*) OVER () AS n
 FROM scored)
 SELECT CASE place WHEN 1 THEN 'furthest ahead' WHEN n THEN 'furthest behind' ELSE 'in the middle' END
 AS which, ahead, prompt, response AS reference, selected, rival, base
 FROM placed JOIN examples ON example_id = target_id WHERE place IN (1, (n + 1) // 2, n) ORDER BY place"""


def answers(rival: str) -> str:
    """Three held-out rows by ROUGE-1 of the selected subset's model less a rival's, with all answers."""
    return _ANSWERS.replace("RIVAL", rival)


RIVAL = f"""SELECT min_by(subset, list_position({_RIVALS}, subset)) AS rival FROM evaluation_rows
 WHERE metric = 'rouge1' AND list_contains({_RIVALS}, subset)"""


def _groups(column: str) -> str:
    return f"""SELECT coalesce({column}, dataset) AS {column}, count(*) AS in_pool,
 count(s.train_id) AS chosen, count(s.train_id) / count(*) AS share_chosen,
 count(*) / sum(count(*)) OVER () AS share_of_pool,
 count(s.train_id) / sum(count(s.train_id)) OVER () AS share_of_subset, min(s.rank) AS best_rank
 FROM examples e LEFT JOIN selection s ON s.train_id = e.example_id WHERE role = 'pool' GROUP BY 1"""


BY_SOURCE, BY_TASK = _groups("source"), _groups("task")
TASKS_NAMED = "SELECT count(task) AS named FROM examples WHERE role = 'pool'"
TOP_GROUPS = "{} ORDER BY chosen DESC, in_pool DESC, 1 LIMIT 20"

GAINS = f"""SELECT min(rank) AS first_rank, max(rank) AS last_rank, max(gain) AS highest_gain,
 min(gain) AS lowest_gain FROM (SELECT *, ntile({BINS}) OVER (ORDER BY rank) AS part FROM selection)
 GROUP BY part ORDER BY first_rank"""

PICKS = """SELECT rank, score, gain, coalesce(source, dataset) AS source, prompt, response
 FROM selection JOIN examples ON example_id = train_id ORDER BY rank LIMIT 10"""

# Scattered labels make no quadrants.
_QUADRANT = "coalesce(quadrant, 'scattered')"
_ORIGINS = "['exact', 'estimated', 'baseline']"
INFLUENCE = f"""SELECT {_QUADRANT} AS quadrant, origin, count(*) AS pairs,
 count(*) / sum(count(*)) OVER () AS share, min(influence) AS lowest, max(influence) AS highest,
 count(*) FILTER (influence > 0) / count(*) AS positive FROM influence GROUP BY 1, origin
 ORDER BY 1, list_position({_ORIGINS}, origin)"""

EXACT = """SELECT count(*) FILTER (origin = 'exact') AS exact, count(*) AS pairs,
 count(*) FILTER (origin = 'exact') / count(*) AS share FROM influence"""

EXACT_SCORES = """SELECT min(function) AS function, count(*) FILTER (origin = 'exact') AS exact,
 count(*) AS rows, count(*) FILTER (origin = 'exact') / count(*) AS share FROM scores"""

_BIN = (
    f"coalesce(least({BINS - 1}, floor((CAST({{0}} AS DOUBLE) - low) / nullif(high - low, 0) * {BINS})), 0)"
)
_EDGES = (
    f"low + bin * (high - low) / {BINS} AS from_value, low + (bin + 1) * (high - low) / {BINS} AS to_value"
)

# Kept while rows were scored; 64 bins where there were more.
OVERVIEW = """WITH ends AS (SELECT min(from_value) AS low, max(to_value) AS high FROM influence_histogram),
 binned AS (SELECT origin, pairs, low, high, least(63, floor(((from_value + to_value) / 2 - low)
 / nullif(high - low, 0) * 64)) AS bin FROM influence_histogram, ends)
 SELECT low + bin * (high - low) / 64 AS from_value, low + (bin + 1) * (high - low) / 64 AS to_value,
 coalesce(sum(pairs) FILTER (origin = 'exact'), 0)::BIGINT AS exact,
 coalesce(sum(pairs) FILTER (origin <> 'exact'), 0)::BIGINT AS others
 FROM binned GROUP BY bin, low, high ORDER BY bin"""

OVERVIEW_EXACT = """SELECT coalesce(sum(pairs) FILTER (origin = 'exact'), 0)::BIGINT AS exact,
 sum(pairs)::BIGINT AS pairs, coalesce(sum(pairs) FILTER (origin = 'exact'), 0) / sum(pairs) AS share
 FROM influence_histogram"""

OTHERS = "SELECT DISTINCT origin FROM {} WHERE origin <> 'exact' ORDER BY origin"


def histogram(parts: Sequence[tuple[str, str]]) -> str:
    """Pairs by influence, a column for each (quadrant, origin) of `parts`, as `INFLUENCE` names them."""
    counts = ", ".join(
        f"count(*) FILTER (part = '{q}' AND origin = '{o}') AS {q.lower()}_{o}" for q, o in parts
    )
    return f"""WITH ends AS (SELECT CAST(min(influence) AS DOUBLE) AS low,
 CAST(max(influence) AS DOUBLE) AS high FROM influence),
 binned AS (SELECT {_QUADRANT} AS part, origin, low, high, {_BIN.format("influence")} AS bin
 FROM influence, ends) SELECT {_EDGES}, {counts} FROM binned GROUP BY bin, low, high ORDER BY bin"""


_SCORED = """scored AS (SELECT train_id, max(score) AS score, min(origin) AS origin FROM scores
 GROUP BY train_id)"""
SCORES = f"""WITH {_SCORED}, ends AS (SELECT min(score) AS low, max(score) AS high FROM scored),
 binned AS (SELECT train_id IN (SELECT train_id FROM selection) AS taken, low, high,
 {_BIN.format("score")} AS bin FROM scored, ends)
 SELECT {_EDGES}, count(*) FILTER (taken) AS chosen, count(*) FILTER (NOT taken) AS not_chosen
 FROM binned GROUP BY bin, low, high ORDER BY bin"""


def extremes(order: str) -> str:
    """The five rows of highest (`DESC`) or lowest (`ASC`) score, with their texts."""
    return f"""WITH {_SCORED} SELECT b.score, origin,
 CASE WHEN s.train_id IS NULL THEN 'no' ELSE 'yes' END AS chosen,
 coalesce(source, dataset) AS source, prompt, response
 FROM (SELECT * FROM scored ORDER BY score {order}, train_id LIMIT 5) b
 JOIN examples ON example_id = b.train_id LEFT JOIN selection s ON s.train_id = b.train_id
 ORDER BY b.score {order}, b.train_id"""


# The stage that writes the report is left out: it is not over while the report is written.
_STAGES = """['ingest', 'embed', 'prepare-function', 'features', 'exact-influence', 'estimator-features',
 'train-influence-network', 'assess-estimator', 'fit-baseline', 'estimate-influence', 'select',
 'refine-exact', 'fine-tune', 'evaluate']"""
_NOW = "attempt = (SELECT max(attempt) FROM costs) AND stage <> 'report'"
COSTS = f"""SELECT stage, items, computed, reused, seconds, peak_rss_mb FROM costs WHERE {_NOW}
 ORDER BY list_position({_STAGES}, stage), stage, device"""
TOTAL = f"""SELECT sum(seconds) FILTER ({_NOW}) AS seconds, max(peak_rss_mb) FILTER ({_NOW}) AS peak_rss_mb,
 count(DISTINCT attempt) AS attempts, sum(seconds) AS all_seconds FROM costs WHERE stage <> 'report'"""

IDLE = "SELECT count(*) - count(*) FILTER (gain > 0) AS idle FROM selection"


def other_runs(run_id: str) -> str:
    """Runs that valued rows of the same pool, and how many picks they share with `run_id`."""
    mine = f"run_id = '{run_id}'"
    return f"""WITH valued AS (SELECT run_id, min(function) AS function,
 string_agg(DISTINCT task, ', ' ORDER BY task) AS targets, count(DISTINCT train_id) AS same_rows FROM scores
 WHERE train_id IN (SELECT train_id FROM scores WHERE {mine}) GROUP BY run_id),
 picked AS (SELECT run_id, count(*) AS chosen,
 count(*) FILTER (train_id IN (SELECT train_id FROM selection WHERE {mine})) AS shared
 FROM selection GROUP BY run_id)
 SELECT run_id, function, targets, same_rows, chosen, shared FROM valued JOIN picked USING (run_id)
 WHERE run_id <> '{run_id}' ORDER BY shared DESC, run_id"""


LINEAGE = """SELECT kind, count(*) AS files FROM lineage WHERE kind <> 'report' GROUP BY kind ORDER BY kind"""
