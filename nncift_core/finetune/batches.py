"""Rows of a batch as tensors: padded to one length, or packed one behind the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from nncift_core.errors import UserError
from nncift_core.finetune.rows import Encoded

IGNORED = -100
_GAP = 1e-2


def padded(encoded: Encoded, rows: Sequence[int], pad: int) -> dict[str, torch.Tensor]:
    """input_ids, attention_mask, labels [rows, longest]: padded right, responses alone have labels."""
    longest = max(len(encoded.sequences[row]) for row in rows)
    ids = torch.full((len(rows), longest), pad)
    mask = torch.zeros((len(rows), longest), dtype=torch.int64)
    labels = torch.full((len(rows), longest), IGNORED)
    for k, row in enumerate(rows):
        n, first = len(encoded.sequences[row]), encoded.n_prompt[row]
        ids[k, :n] = torch.tensor(encoded.sequences[row])
        mask[k, :n] = 1
        labels[k, first:n] = ids[k, first:n]
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def packed(encoded: Encoded, rows: Sequence[int]) -> dict[str, torch.Tensor]:
    """input_ids, position_ids, labels [1, tokens of all rows]: positions start anew with every row.

    Without a mask, transformers reads such positions as rows that do not see each other, whichever
    implementation of attention the model has; `check_packing` tries whether a model does.
    """
    ids, places, labels = list[int](), list[int](), list[int]()
    for row in rows:
        sequence, first = encoded.sequences[row], encoded.n_prompt[row]
        ids += sequence
        places += range(len(sequence))
        labels += [IGNORED] * first + sequence[first:]
    found = {"input_ids": ids, "position_ids": places, "labels": labels}
    return {name: torch.tensor([values]) for name, values in found.items()}


def check_packing(model: Any, device: str) -> None:
    """Raise UserError unless a row's logits are the same whether another one stands before it or not."""
    rows = ([1, 2, 3], [3, 1, 2, 2])
    encoded = Encoded(sequences=rows, n_prompt=(1, 1), truncated=0)
    both = packed(encoded, [0, 1])
    was_training = model.training
    model.eval()
    with torch.no_grad():
        alone = model(input_ids=torch.tensor([rows[1]], device=device), use_cache=False).logits[0].float()
        together = model(
            input_ids=both["input_ids"].to(device),
            position_ids=both["position_ids"].to(device),
            use_cache=False,
        ).logits[0, len(rows[0]) :].float()  # fmt: skip
    model.train(was_training)
    gap = float((alone - together).abs().max() / alone.abs().max().clamp(min=1e-6))
    # Rows that see each other differ by far more than low precision does.
    if gap > (_GAP if alone.dtype == torch.float32 and _precise(model) else 10 * _GAP):
        raise UserError(
            "in this model, rows packed into one sequence see each other",
            field="finetune.packing",
            mend="Use packing = false.",
        )


def _precise(model: Any) -> bool:
    return all(p.dtype == torch.float32 for p in model.parameters() if p.is_floating_point())
