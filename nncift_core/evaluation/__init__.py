"""Is the subset worth it: what to compare it with, held-out scores, and what their differences say.

Importing this package loads no model library; torch, transformers and rouge_score come where they are used.
"""

from __future__ import annotations

from nncift_core.evaluation.generation import Answers, check_room, greedy_answers
from nncift_core.evaluation.intervals import Comparison, compare, mean_interval, t_quantile
from nncift_core.evaluation.rouge import RougeScores, rouge_scores
from nncift_core.evaluation.rows import METRICS, HeldOut, Metric, RowScores, response_losses, score_rows
from nncift_core.evaluation.subsets import longest_rows, random_rows, random_tokens

__all__ = [
    "METRICS",
    "Answers",
    "Comparison",
    "HeldOut",
    "Metric",
    "RougeScores",
    "RowScores",
    "check_room",
    "compare",
    "greedy_answers",
    "longest_rows",
    "mean_interval",
    "random_rows",
    "random_tokens",
    "response_losses",
    "rouge_scores",
    "score_rows",
    "t_quantile",
]
