"""Every query of a prune run's page; none holds text of the user's, so that each can go into a shell."""

from __future__ import annotations

from nncift_core.scores.catalogue import CATALOGUE

SUSPECTS_SHOWN = 30
CLASSES_SHOWN, GROUPS_SHOWN = 5, 12
BINS, CELLS = 24, 30
BASELINES = "('all', 'random', 'stratified')"

# Shown name, default variant, and the sign that makes higher harder.
_SHOWN = {
    shown: (entry.variants[0], 1 if entry.hard == "high" else -1)
    for name, entry in CATALOGUE.items()
    for shown in (name, entry.frozen or name)
}
_ORDER = "[" + ", ".join(f"'{name}'" for name in _SHOWN) + "]"


def _mean(value: str, seed: str = "s.seed") -> str:
    return f"avg({value} ORDER BY {seed})"


def _spread(value: str, seed: str = "s.seed") -> str:
    return f"stddev_samp({value} ORDER BY {seed})"


def _line(view: str) -> str:
    """The rows of a view by score, with `line`: the score's name, and the variant where there are several."""
    several = "min(variant) OVER (PARTITION BY score) <> max(variant) OVER (PARTITION BY score)"
    return f"""(SELECT * EXCLUDE (several), CASE WHEN score = 'all' THEN 'all rows'
 WHEN score IN ('random', 'stratified') THEN score || ' rows'
 WHEN several THEN score || ', ' || variant ELSE score END AS line
 FROM (SELECT *, {several} AS several FROM {view}))"""


_SUBSETS = _line("pruning_summary")
_SUBSET = """line || CASE WHEN sampling IN ('softmax', 'linear') THEN ' ' || sampling ELSE '' END
 || CASE WHEN pruned_end <> '' THEN ', ' || pruned_end || ' end' ELSE '' END AS subset"""
_IN_ORDER = "line, sampling, pruned_end"

DATASETS = """SELECT role, dataset, count(*) AS rows, count(DISTINCT label) AS classes,
 count(DISTINCT task) AS groups FROM examples GROUP BY role, dataset
 ORDER BY list_position(['train', 'validation', 'test', 'new'], role), dataset"""

CLAIMS = """SELECT count(*) FILTER (holds <> 'not studied') AS checked,
 count(*) FILTER (holds = 'yes') AS hold, count(*) FILTER (holds = 'no') AS fail FROM findings"""


def attempt(run_id: str) -> str:
    """The latest attempt of a run: when it started, with what config and versions."""
    return f"""SELECT attempt, strftime(CAST(started_at AS TIMESTAMP), '%Y-%m-%d %H:%M') || ' UTC' AS started,
 config, versions FROM runs WHERE run_id = '{run_id}' ORDER BY attempt DESC LIMIT 1"""


# Pruning curves


def _of_study(study: str, noise: str, rate: float | None) -> str:
    """What picks the subsets of a study, under one noise or as labelled."""
    noisy = f" AND noise = '{noise}' AND noise_rate = {rate!r}" if noise else ""
    return f"study = '{study}'{noisy}"


def curve(study: str, noise: str = "", rate: float | None = None) -> str:
    """The numbers of every subset of a study, most accurate first at every share dropped."""
    left = ", mislabelled" if noise else ""
    return f"""SELECT pruned, {_SUBSET}, n_seeds, n_train, accuracy, spread, change, change_spread, gain,
 gain_lower, gain_upper, verdict{left} FROM {_SUBSETS} WHERE {_of_study(study, noise, rate)}
 ORDER BY pruned, accuracy DESC, {_IN_ORDER}"""


def _best(study: str, noise: str = "", rate: float | None = None) -> str:
    """The most accurate scored subset of each share; in the study of imbalance, the best of the tail."""
    by = "tail_accuracy DESC NULLS LAST, accuracy DESC" if study == "imbalance" else "accuracy DESC"
    return f"""(SELECT * FROM {_SUBSETS} WHERE {_of_study(study, noise, rate)} AND score NOT IN {BASELINES}
 QUALIFY row_number() OVER (PARTITION BY pruned ORDER BY {by}, {_IN_ORDER}) = 1)"""


def lines(study: str, noise: str = "", rate: float | None = None) -> str:
    """What is drawn of a study: the same numbers, with what tells lines and panels apart."""
    return f"""SELECT line, sampling, pruned_end, pruned, accuracy, spread, tail_accuracy, worst_class_change,
 worst_group_change FROM {_SUBSETS} WHERE {_of_study(study, noise, rate)}
 ORDER BY list_position({_ORDER}, score), {_IN_ORDER}, pruned"""


def best(study: str, noise: str = "", rate: float | None = None) -> str:
    """The best scored subset of each share beside what was not scored."""
    left = ", mislabelled" if noise else ""
    of = _of_study(study, noise, rate)
    return f"""SELECT pruned, {_SUBSET}, accuracy, change, change_spread, gain, gain_lower, gain_upper,
 verdict{left} FROM (SELECT * FROM {_best(study, noise, rate)} UNION ALL BY NAME
 SELECT * FROM {_SUBSETS} WHERE {of} AND score IN {BASELINES}) ORDER BY pruned, accuracy DESC, {_IN_ORDER}"""


def verdicts(study: str) -> str:
    """How many scored subsets of a study beat random rows, and how many lose to them."""
    return f"""SELECT count(*) AS subsets, count(*) FILTER (verdict = 'better') AS better,
 count(*) FILTER (verdict = 'worse') AS worse FROM pruning_summary
 WHERE study = '{study}' AND score NOT IN {BASELINES}"""


# Who is harmed


def harm(study: str, groups: bool) -> str:
    """What every subset of a study costs the tail, the worst class and the worst group."""
    return f"""SELECT pruned, {_SUBSET}, accuracy, macro_accuracy, {_costs(groups)} FROM {_SUBSETS}
 WHERE study = '{study}' AND score <> 'all' ORDER BY pruned, accuracy DESC, {_IN_ORDER}"""


def harm_of_best(study: str, groups: bool) -> str:
    """The same of the best scored subset of each share, beside random and stratified rows."""
    return f"""SELECT pruned, {_SUBSET}, {_costs(groups)} FROM (SELECT * FROM {_best(study)}
 UNION ALL BY NAME SELECT * FROM {_SUBSETS} WHERE study = '{study}' AND score IN ('random', 'stratified'))
 ORDER BY pruned, accuracy DESC, {_IN_ORDER}"""


def _costs(groups: bool) -> str:
    group = " worst_group, worst_group_change," if groups else ""
    return f"tail_accuracy, tail_change, worst_class, worst_class_change,{group} relative_error, efficiency"


def has_groups(study: str) -> str:
    """How many groups a study was broken down by."""
    return f"""SELECT count(DISTINCT name) AS groups FROM pruning
 WHERE study = '{study}' AND scope = 'group'"""


def harmed(study: str, scope: str, shown: int) -> str:
    """The classes or groups that lose most in the best subset of each share, paired by seed with all rows."""
    same = " AND ".join(
        f"s.{c} IS NOT DISTINCT FROM b.{c}" for c in ("score", "variant", "sampling", "pruned_end", "pruned")
    )
    return f"""WITH parts AS (SELECT * FROM pruning WHERE study = '{study}' AND scope = '{scope}'
 AND metric = 'accuracy'), lost AS (SELECT b.pruned, b.line, b.sampling, b.pruned_end, s.name,
 max(s.n_rows) AS n_rows, {_mean("f.value")} AS before, {_mean("s.value")} AS after,
 {_mean("s.value - f.value")} AS change, {_spread("s.value - f.value")} AS change_spread
 FROM {_best(study)} b JOIN parts s ON {same}
 JOIN parts f ON f.score = 'all' AND f.name = s.name AND f.seed = s.seed GROUP BY ALL)
 SELECT pruned, {_SUBSET}, name, n_rows, before, after, change, change_spread FROM lost
 QUALIFY row_number() OVER (PARTITION BY pruned ORDER BY change, name) <= {shown}
 ORDER BY pruned, change, name"""


# Label noise and suspects

NOISES = """SELECT noise, noise_rate FROM noise_detection GROUP BY ALL UNION
 SELECT noise, noise_rate FROM pruning_summary WHERE study = 'noise' GROUP BY ALL ORDER BY ALL"""


def noise(kind: str, rate: float) -> str:
    """One planted noise: its kind, its rate and how many labels it made wrong."""
    return f"""SELECT noise, noise_rate, sum(planted) / count(planted) AS planted,
 count(DISTINCT seed) AS seeds FROM noise_detection WHERE {_noisy(kind, rate)} GROUP BY ALL"""


def detection(kind: str, rate: float) -> str:
    """How well every score finds the planted labels, over seeds."""
    found = ", ".join(
        f"{_mean(m, 'seed')} AS {m}, {_spread(m, 'seed')} AS {m}_spread"
        for m in ("average_precision", "auc", "found")
    )
    return f"""SELECT line, {found}, count(DISTINCT seed) AS seeds FROM {_line("noise_detection")}
 WHERE {_noisy(kind, rate)} GROUP BY line ORDER BY average_precision DESC, line"""


def _noisy(kind: str, rate: float) -> str:
    return f"noise = '{kind}' AND noise_rate = {rate!r}"


SUSPECTS_COUNT = "SELECT count(*) AS n FROM suspects"
PAIRS = """SELECT count(*) AS n FROM suspects JOIN examples ON example_id = train_id WHERE response <> ''"""


def suspects(pairs: bool) -> str:
    """The likeliest wrong labels with their texts; pairs: with the second text of a pair."""
    second = ", response" if pairs else ""
    return f"""SELECT rank, coalesce(source_id, CAST(row_number AS VARCHAR)) AS row, given, predicted,
 probability, consensus, agreement, prompt{second} FROM suspects LEFT JOIN examples ON example_id = train_id
 ORDER BY rank LIMIT {SUSPECTS_SHOWN}"""


# The scores themselves

_VALUES = ", ".join(f"('{name}', '{variant}', {sign})" for name, (variant, sign) in _SHOWN.items())
_OWN = f"""defaults AS (SELECT * FROM (VALUES {_VALUES}) AS d (function, variant, sign)),
 own AS (SELECT s.function, s.train_id, s.score, d.sign FROM scores s
 JOIN defaults d ON d.function = s.function AND d.variant = s.variant
 WHERE s.origin = 'exact' AND isfinite(s.score))"""
# Sums of whole numbers, and ordered means below: threads must not change a digit of the page.
_CLASSES = """placed AS (SELECT train_id,
 rank() OVER (PARTITION BY function ORDER BY sign * score) - 1 AS place,
 count(*) OVER (PARTITION BY function) - 1 AS last FROM own), classes AS (SELECT label,
 count(DISTINCT train_id) AS rows, coalesce(sum(place) / nullif(sum(last), 0), 0) AS difficulty
 FROM placed JOIN examples ON example_id = train_id GROUP BY label),
 ranked AS (SELECT *, row_number() OVER (ORDER BY difficulty DESC, label) AS from_hard,
 row_number() OVER (ORDER BY difficulty, label DESC) AS from_easy FROM classes)"""

HAS_SCORES = f"""WITH {_OWN} SELECT count(DISTINCT function) AS scores,
 count(DISTINCT train_id) AS rows FROM own"""

CLASSES = f"""WITH {_OWN}, {_CLASSES}
 SELECT CASE WHEN from_hard <= 5 THEN 'hardest' ELSE 'easiest' END AS which, label, rows, difficulty
 FROM ranked WHERE from_hard <= 5 OR from_easy <= 5 ORDER BY from_hard"""

# The outer half per cent would squeeze all else into a few bins: it is counted in the end bins.
HISTOGRAMS = f"""WITH {_OWN}, {_CLASSES}, ends AS (SELECT function, quantile_cont(score, 0.005) AS low,
 quantile_cont(score, 0.995) AS high FROM own GROUP BY function),
 spans AS (SELECT function, low, CASE WHEN high > low THEN (high - low) / {BINS} ELSE 1.0 END AS width
 FROM ends), binned AS (SELECT function, train_id, low, width,
 greatest(0, least({BINS - 1}, floor((score - low) / width))) AS bin FROM own JOIN spans USING (function))
 SELECT function, low + bin * width AS from_value, low + (bin + 1) * width AS to_value, count(*) AS rows,
 count(*) FILTER (from_hard = 1) AS hardest, count(*) FILTER (from_hard = 2) AS hardest_2,
 count(*) FILTER (from_easy = 2 AND from_hard > 2) AS easiest_2,
 count(*) FILTER (from_easy = 1 AND from_hard > 2) AS easiest
 FROM binned JOIN examples ON example_id = train_id JOIN ranked USING (label)
 GROUP BY function, low, width, bin ORDER BY list_position({_ORDER}, function), bin"""


def _cell(name: str) -> str:
    span = f"nullif(max({name}) OVER () - min({name}) OVER (), 0)"
    return f"coalesce(least({CELLS - 1}, floor(({name} - min({name}) OVER ()) / {span} * {CELLS})), 0)"


# A positive margin on average is the nearest that the scores come to "predicted right".
DATA_MAP = f"""WITH {_OWN}, points AS (SELECT train_id,
 max(score) FILTER (function = 'variability') AS variability,
 max(score) FILTER (function = 'confidence') AS confidence, max(score) FILTER (function = 'aum') AS margin
 FROM own GROUP BY train_id HAVING variability IS NOT NULL AND confidence IS NOT NULL),
 cells AS (SELECT *, {_cell("variability")} AS x, {_cell("confidence")} AS y FROM points)
 SELECT median(variability) AS variability, median(confidence) AS confidence, count(*) AS rows,
 count(*) FILTER (margin > 0) / nullif(count(margin), 0) AS ahead FROM cells GROUP BY x, y ORDER BY x, y"""

OVERLAP_SHARES = "SELECT DISTINCT share FROM tail_overlap ORDER BY share"


def overlap(share: float) -> str:
    """How much of one score's tail is in another one's, at one size of the tails."""
    return f"""SELECT tail, share, score_a, score_b, overlap FROM tail_overlap WHERE share = {share!r}
 ORDER BY tail, list_position({_ORDER}, score_a), score_a, list_position({_ORDER}, score_b), score_b"""


# Learned scores and the paper's claims

_LEARNED = f"""SELECT function, predictor, n_pairs, r2, pearson, spearman, lower, upper, recall_at_k,
 nullif(split_part(verdict, ': ', 1), '') AS verdict, substr(verdict, strpos(verdict, ': ') + 2) AS why
 FROM (SELECT * REPLACE (nullif(verdict, '') AS verdict) FROM estimator_quality) WHERE role = 'audit' {{}}
 ORDER BY list_position({_ORDER}, function), function, verdict IS NULL, spearman DESC NULLS LAST, predictor"""
LEARNED, LEARNED_JUDGED = _LEARNED.format(""), _LEARNED.format("AND verdict IS NOT NULL")

FINDINGS = """SELECT finding, claim, holds, effect, spread, text FROM findings
 ORDER BY list_position(['yes', 'no', 'unclear', 'not studied'], holds), finding"""
