"""Is the subset worth it: what to compare it with, held-out scores, and what their differences say.

Importing this package loads no model library; torch, transformers and rouge_score come where they are used.
"""

from __future__ import annotations

from nncift_core.evaluation.choice import check_choices, choice_accuracy, choice_of, options_of
from nncift_core.evaluation.exact import exact_matches
from nncift_core.evaluation.generation import Answers, answers_to, check_room, greedy_answers
from nncift_core.evaluation.held_out import HeldOut
from nncift_core.evaluation.icl import Shown, nearest, prompt_groups, with_examples
from nncift_core.evaluation.intervals import Comparison, compare, mean_interval, t_quantile
from nncift_core.evaluation.judge import Judgement, judge_answers, judge_key
from nncift_core.evaluation.loss import response_losses
from nncift_core.evaluation.metrics import GIVES, METRICS, Metric
from nncift_core.evaluation.rouge import RougeScores, rouge_scores
from nncift_core.evaluation.rows import RowScores, score_rows
from nncift_core.evaluation.similarity import similarities
from nncift_core.evaluation.subsets import longest_rows, random_rows, random_tokens

__all__ = [
    "GIVES",
    "METRICS",
    "Answers",
    "Comparison",
    "HeldOut",
    "Judgement",
    "Metric",
    "RougeScores",
    "RowScores",
    "Shown",
    "answers_to",
    "check_choices",
    "check_room",
    "choice_accuracy",
    "choice_of",
    "compare",
    "exact_matches",
    "greedy_answers",
    "judge_answers",
    "judge_key",
    "longest_rows",
    "mean_interval",
    "nearest",
    "options_of",
    "prompt_groups",
    "random_rows",
    "random_tokens",
    "response_losses",
    "rouge_scores",
    "score_rows",
    "similarities",
    "t_quantile",
    "with_examples",
]
