"""DELIFT the plain way: one pair at a time, a full forward pass over the whole sequence, all logits, float32.

The reference of the tests, and what the benchmark compares with; shares only templates with the product.
"""

from __future__ import annotations

import numpy as np
import torch

from nncift_core.config import DeliftConfig
from nncift_core.influence.contract import Rows
from nncift_core.language_models import LanguageModel


def text_ids(lm: LanguageModel, text: str) -> list[int]:
    """Ids of one text, its special tokens read as text."""
    encoded = lm.tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)
    ids: list[int] = encoded["input_ids"]
    return ids


def distance(lm: LanguageModel, prompt: list[int], response: list[int]) -> float:
    """d of one sequence: prompt cut at its front to the context, response as it is."""
    head = [*lm.bos_ids, *prompt]
    if lm.context_length is not None and len(head) + len(response) > lm.context_length:
        room = lm.context_length - len(response) - len(lm.bos_ids)
        head = [*lm.bos_ids, *prompt[len(prompt) - room :]]
    ids = torch.tensor([head + response], device=lm.device)
    with torch.inference_mode():
        logits = lm.model(input_ids=ids).logits[0].float()
    p = torch.log_softmax(logits[len(head) - 1 : -1], -1).exp()
    true = p[torch.arange(len(response)), torch.tensor(response)]
    return float((true - 1).norm() / len(response) ** 0.5)


def influence(
    lm: LanguageModel, rows: Rows, columns: Rows, config: DeliftConfig | None = None
) -> tuple[np.ndarray, int]:
    """Influence [len(rows), len(columns)], and how many tokens were read for it."""
    config = config or DeliftConfig()
    found = np.empty((len(rows), len(columns)), np.float32)
    tokens = 0
    for j, (x, y) in enumerate(zip(columns.prompts, columns.responses, strict=True)):
        response = [*text_ids(lm, y), lm.eos_id]
        alone = text_ids(lm, config.template_without.replace("{prompt}", x))
        without = distance(lm, alone, response)
        tokens += len(alone) + len(response)
        for i, (ex, ey) in enumerate(zip(rows.prompts, rows.responses, strict=True)):
            # By pieces, so that a placeholder's name inside of a field stays as it is.
            head, rest = config.template_with.split("{example_prompt}")
            middle, rest = rest.split("{example_response}")
            before, after = rest.split("{prompt}")
            shown = text_ids(lm, head + ex + middle + ey + before + x + after)
            found[i, j] = without - distance(lm, shown, response)
            tokens += len(shown) + len(response)
    return found, tokens
