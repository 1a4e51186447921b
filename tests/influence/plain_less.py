"""LESS one example at a time, by autograd over one loss, no projection: the reference of the tests."""

from __future__ import annotations

from typing import Any

import torch


def plain_gradient(adapted: Any, prompt: list[int], response: list[int]) -> tuple[torch.Tensor, float]:
    """Gradient [D] of the mean response-token loss, coordinates by sorted parameter name; and the loss."""
    parameters = [p for _, p in sorted(adapted.parameters.items())]
    for p in parameters:
        p.requires_grad_(True)
    ids = torch.tensor([prompt + response])
    logits = adapted.model.model(input_ids=ids).logits[0].double()
    at = torch.arange(len(prompt), len(prompt) + len(response))
    loss = -torch.log_softmax(logits[at - 1], -1)[torch.arange(len(at)), ids[0, at]].mean()
    found = torch.autograd.grad(loss, parameters)
    for p in parameters:
        p.requires_grad_(False)
    return torch.cat([g.reshape(-1) for g in found]).double(), float(loss.detach())


def plain_direction(g: torch.Tensor, m: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """The Adam direction of the pool side, eps inside the root, no bias correction."""
    return (0.9 * m + 0.1 * g) / (0.999 * v + 0.001 * g**2 + 1e-8).sqrt()
