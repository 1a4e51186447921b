"""The last layer's feed-forward part, computed only at the positions whose output is read.

Behind the last layer's attention no position looks at another one, so a position whose next token nobody asks
for needs no feed-forward part there: of a prefix none does, of a row only the response does. That is a share
1 / layers of the feed-forward work, which counts on small models and is next to nothing on large ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch

_NAMES = ("mlp", "feed_forward", "ffn")
# Values agree to rounding or, where a model does something else, not at all.
_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-6}
_LOW_PRECISION_TOLERANCE = 0.1

_found: WeakKeyDictionary[Any, torch.nn.Module | None] = WeakKeyDictionary()


def trimmable(
    model: torch.nn.Module, logits: Callable[[torch.nn.Module | None], torch.Tensor]
) -> torch.nn.Module | None:
    """The feed-forward module of the last layer, where trimming it leaves the model's logits as they are.

    logits(module): some logits of the model, computed with that module trimmed (None: nothing trimmed), where
    not all positions are read. Looked at once per model; None where there is no such module.
    """
    if model not in _found:
        # Set first: `logits` comes back here.
        _found[model] = None
        module = _feed_forward(model)
        if module is not None and _agrees(logits(None), logits(module)):
            _found[model] = module
    return _found[model]


@contextmanager
def trimmed(
    module: torch.nn.Module | None,
    shape: tuple[int, int],
    where: tuple[torch.Tensor, torch.Tensor],
) -> Iterator[None]:
    """Let `module` compute [n, q] = `shape` positions at `where` [K] only; elsewhere it gives zeros.

    Where it is called in another way than with one tensor [n, q, d], it computes everything.
    """
    count = len(where[0])
    if module is None or count >= shape[0] * shape[1]:
        yield
        return
    inside: list[bool] = []

    def gather(_module: Any, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if len(args) != 1 or args[0].dim() != 3 or args[0].shape[:2] != shape:
            return None
        inside.append(True)
        return (args[0][where][None],)

    def scatter(_module: Any, _args: Any, output: torch.Tensor) -> torch.Tensor | None:
        if not inside:
            return None
        inside.clear()
        whole = output.new_zeros(*shape, output.shape[-1])
        whole[where] = output[0]
        return whole

    hooks = [module.register_forward_pre_hook(gather), module.register_forward_hook(scatter)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _feed_forward(model: torch.nn.Module) -> torch.nn.Module | None:
    config: Any = getattr(model, "config", None)
    if config is None:
        return None
    layers = getattr(config.get_text_config(), "num_hidden_layers", None)
    lists = [m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == layers]
    if len(lists) != 1:
        return None
    parts = [getattr(lists[0][-1], name, None) for name in _NAMES]
    return next((part for part in parts if isinstance(part, torch.nn.Module)), None)


def _agrees(whole: torch.Tensor, trim: torch.Tensor) -> bool:
    if whole.shape != trim.shape:
        return False
    tolerance = _TOLERANCE.get(whole.dtype, _LOW_PRECISION_TOLERANCE)
    return bool(((whole - trim).abs().max() <= tolerance * whole.abs().max()).item())
