"""A forward pass looked at from its output layer: what the layer takes, and the slope of the loss there.

For an output layer with input h_t, logits z_t and p_t = softmax(z_t): L_t = -log p_t[y_t] and
e_t = dL_t / dh_t, by automatic differentiation of that layer alone, so whatever a model does there (bias,
tied weights, soft-capping, scaling) is in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from nncift_core.forward import Batch
    from nncift_core.language_models import LanguageModel

# torch is imported where a model is used: who asks for keys and layouts needs none.

# Float32 copies of logits that are held at once, in numbers.
_COPIES = 1 << 24


@dataclass(frozen=True)
class Seen:
    """A forward pass at its output layer.

    hidden [n, q, h]: what it takes; inputs [K, h]: those at the asked positions, a leaf of the graph that
    ends in logits [K, V].
    """

    hidden: torch.Tensor
    inputs: torch.Tensor
    logits: torch.Tensor


def look(model: LanguageModel, batch: Batch) -> Seen | None:
    """One forward pass, with a graph from the output layer on; None where that layer cannot be looked at.

    Of the rest of the model there is no graph. What the model does with its logits (scaling, soft-capping)
    is part of its own forward pass, and so of the graph.
    """
    import torch

    from nncift_core.forward import on, one_at_a_time
    from nncift_core.rotary import forget_lengths

    shape, count = batch.ids.shape[:2], len(batch.labels)
    found: list[tuple[torch.Tensor, torch.Tensor]] = []

    def begin(_module: Any, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        hidden = args[0] if args else None
        if found or hidden is None or hidden.dim() != 3 or hidden.shape[:2] != shape:
            return None
        # Until the pass ends: `no_grad` around it puts the mode back.
        torch.set_grad_enabled(True)
        inputs = hidden[on(hidden.device, batch.where)].detach().requires_grad_(True)
        found.append((hidden, inputs))
        return (inputs[None], *args[1:])

    head = model.model.get_output_embeddings()
    if head is None:
        return None
    hook = head.register_forward_pre_hook(begin)
    try:
        with torch.no_grad():
            if one_at_a_time(model):
                forget_lengths(model.model)
            logits = model.model(input_ids=batch.ids, use_cache=False).logits
    finally:
        hook.remove()
    if not found or logits.shape[:2] != (1, count):
        return None
    return Seen(*found[0], logits[0])


def slopes(seen: Seen, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """L_t [K] and e_t = dL_t / dh_t [K, h] in float32.

    dL_t / dlogits = p_t - onehot(y_t) is made in pieces, so that float32 copies of the logits stay small, and
    kept in the logits' own dtype.
    """
    import torch

    logits = seen.logits.detach()
    slope, losses = torch.empty_like(logits), torch.empty(len(logits), device=logits.device)
    step = max(1, _COPIES // logits.shape[1])
    for k in range(0, len(logits), step):
        log_p = torch.log_softmax(logits[k : k + step].float(), dim=1)
        here = (torch.arange(len(log_p), device=log_p.device), batch.labels[k : k + step])
        losses[k : k + step] = -log_p[here]
        p = log_p.exp_()
        p[here] -= 1
        slope[k : k + step] = p
    (errors,) = torch.autograd.grad(seen.logits, seen.inputs, slope)
    return losses, errors.float()
