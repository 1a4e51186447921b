"""SelectIT by its definition: one prompt at a time, all logits, float64.

Nothing is shared with the product but the loaded model and its tokenizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch


def token_probability(
    model: Any, prompts: Sequence[Sequence[int]], forms: Sequence[Sequence[int]]
) -> np.ndarray:
    """p_k after each of the id sequences, summed over `forms`, [len(prompts), 5]; model: of transformers."""
    out = []
    for ids in prompts:
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([list(ids)], device=model.device)).logits[0, -1]
        p = torch.softmax(logits.double(), dim=-1).cpu().numpy()
        out.append([sum(p[form[k]] for form in forms) for k in range(5)])
    return np.array(out)


def sentence_score(p: np.ndarray, alpha: float) -> float:
    """S_sent of one row from p [K, 5]."""
    levels = []
    for row in p:
        relative = [x / sum(row) for x in row]
        total = sum(np.exp(x) for x in relative)
        grades = [np.exp(x) / total for x in relative]
        best = max(grades)
        score = grades.index(best) + 1
        levels.append(score * sum(best - g for g in grades) / 4)
    mean = sum(levels) / len(levels)
    deviation = (sum((x - mean) ** 2 for x in levels) / len(levels)) ** 0.5
    return float(mean / (1 + alpha * deviation))
