"""Grades of stored answers by a judge, and what they cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nncift_core.evaluation import Judgement, judge_answers, judge_key
from nncift_core.pipeline.problem import Problem
from nncift_core.pipeline.trials import Trial, answers_key, held_out_texts, judged_key
from nncift_core.store.files import publish
from nncift_core.store.judgements import JudgementStore

_KEPT = (
    "key", "state", "reason", "retries", "input_tokens", "output_tokens", "unmetered", "own_temperature"
)  # fmt: skip


def judge_trial(problem: Problem, trial: Trial, progress: Callable[[int], None] | None = None) -> int:
    """Have the stored answers of a trial graded, and publish the grades; returns the number of answers.

    progress: as for `judge_answers`. Raises UserError where rubric or key cannot be used; an endpoint that
    fails costs grades, which are NaN and counted, and no error.
    """
    config, ws = problem.config, problem.ws
    judge, key = config.evaluation.judge, judged_key(problem, trial)
    assert judge is not None and key is not None
    source = ws.evaluation_file(answers_key(problem, trial))
    table = pq.read_table(source, columns=["content_id", "generated"])
    contents, answers = table["content_id"].to_numpy(), table["generated"].to_pylist()
    rows = held_out_texts(problem, contents)
    store = JudgementStore(ws, judge_key(judge, config.base_dir))
    asked = list(zip(rows.prompts, rows.responses, answers, strict=True))
    found = judge_answers(judge, config.base_dir, asked, store, progress)
    states = Counter(j.state for j in found)
    publish(
        ws.root,
        ws.evaluation_file(key),
        lambda part: pq.write_table(_table(contents, found), part, compression="zstd"),
        kind="evaluation-scores",
        key=key,
        rows=len(found),
        producer="evaluate",
        parents=(ws.relative(source),),
        meta={"judge_failed": states["failed"], "judge_malformed": states["malformed"]},
    )
    return len(found)


def _table(contents: Any, found: Sequence[Judgement]) -> pa.Table:
    columns = {f"judgement_{name}": pa.array([getattr(j, name) for j in found]) for name in _KEPT}
    return pa.table(
        {"content_id": pa.array(contents), "judge": np.array([j.value for j in found]), **columns}
    )


def _tells_more(row: dict[str, Any], known: dict[str, Any]) -> bool:
    """Of an answer that failed under one model and came under the next, the grade counts; of failures the
    last one, which has the tokens of all before it."""
    ranks = [(r["judgement_state"] != "failed", r["judgement_input_tokens"]) for r in (row, known)]
    return bool(ranks[0] > ranks[1])


def judge_facts(problem: Problem, paths: Iterable[str]) -> dict[str, Any]:
    """What the grades in the files `paths` took, each judgement counted once, whichever run asked for it;
    empty without a judge.

    judge_answers: distinct ones; judge_failed: those for which no grade came; judge_malformed: those whose
    grade could not be read; judge_failure: the most frequent reason of either; judge_retries;
    judge_input_tokens, judge_output_tokens: those of failed answers and of earlier runs included;
    judge_unmetered: replies without a count of tokens; judge_own_temperature: answers judged without the
    config's temperature, which the endpoint refuses to be told, where there are any; judge_cost: in the
    currency of the prices, where one is set.
    """
    judge = problem.config.evaluation.judge
    if "judge" not in problem.config.evaluation.metrics or judge is None:
        return {}
    once: dict[str, dict[str, Any]] = {}
    for path in sorted(set(paths)):
        # Files of earlier versions lack some.
        stored = pq.read_schema(problem.ws.root / path).names
        names = [name for name in (f"judgement_{name}" for name in _KEPT) if name in stored]
        for row in pq.read_table(problem.ws.root / path, columns=names).to_pylist() if names else ():
            known = once.get(row["judgement_key"])
            if known is None or _tells_more(row, known):
                once[row["judgement_key"]] = row
    found = list(once.values())
    states = Counter(r["judgement_state"] for r in found)
    reasons = Counter(r["judgement_reason"] for r in found if r["judgement_state"] != "graded")
    facts: dict[str, Any] = {
        "judge_answers": len(found),
        "judge_failed": states["failed"],
        "judge_malformed": states["malformed"],
    }
    if reasons:
        facts["judge_failure"] = reasons.most_common(1)[0][0]
    for name in ("retries", "input_tokens", "output_tokens", "unmetered"):
        facts[f"judge_{name}"] = sum(r[f"judgement_{name}"] for r in found)
    if own := sum(r.get("judgement_own_temperature", False) for r in found):
        facts["judge_own_temperature"] = own
    prices = judge.price_per_million_input, judge.price_per_million_output
    if prices != (None, None):
        tokens = facts["judge_input_tokens"], facts["judge_output_tokens"]
        facts["judge_cost"] = sum((p or 0.0) * n for p, n in zip(prices, tokens, strict=True)) / 1e6
    return facts
