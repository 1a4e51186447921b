"""Places in an encoder where gradient scores are taken, and per-example gradient norms of one layer.

Examples do not mix in a forward pass, so the gradient of a sum over rows to the outputs of a layer's modules
gives every row's gradient of that layer's weights: for y = W a + b
    d / dW = sum_t delta_t a_t^T,    d / db = sum_t delta_t,
and for y = w * xhat + b (LayerNorm) d / dw = sum_t delta_t * xhat_t. Of the weight only the norm is wanted:
    ||sum_t delta_t a_t^T||^2 = sum_{t,t'} (delta_t . delta_t') (a_t . a_t'),
which is cheaper than the sum itself while T (in + out) < in * out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from nncift_core.errors import UserError
from nncift_core.scores.head_gradients import squared

# Bytes of weight gradients that are held at once.
_WEIGHT_BYTES = 64 << 20


def embedding_layer(model: Any) -> torch.nn.Module:
    """The module whose output [n, T, dim] is E: `model.embeddings`, else the token embedding alone.

    Raises UserError where there is neither.
    """
    found = getattr(model, "embeddings", None)
    if not isinstance(found, torch.nn.Module):
        find = getattr(model, "get_input_embeddings", None)
        found = find() if find is not None else None
    if not isinstance(found, torch.nn.Module):
        raise unknown_architecture(
            f"{type(model).__name__} has no embedding layer that VoG could be taken at"
        )
    return found


def last_layer(model: Any) -> torch.nn.Module:
    """The last hidden layer: of `model.encoder.layer`, else of the list that is as long as the config's
    number of layers, else of the last list of modules.

    Raises UserError where there is none.
    """
    layers = getattr(getattr(model, "encoder", None), "layer", None)
    if isinstance(layers, torch.nn.ModuleList) and len(layers):
        return layers[-1]
    lists = [m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m)]
    stated = getattr(model.config, "num_hidden_layers", None)
    fitting = [m for m in lists if len(m) == stated] or lists
    if not fitting:
        raise unknown_architecture(
            f"{type(model).__name__} has no list of layers whose last one TracIn could be taken at"
        )
    return fitting[-1][-1]


class LayerNorms:
    """Squared gradient norms, row by row, over all parameters of one layer: linear modules and LayerNorm.

    Raises UserError for a layer with parameters in other modules, whose part would be lost.
    """

    def __init__(self, layer: torch.nn.Module) -> None:
        self._layer = layer
        self._modules: dict[str, torch.nn.Module] = {
            name: m
            for name, m in layer.named_modules()
            if isinstance(m, torch.nn.Linear | torch.nn.LayerNorm) and list(m.parameters(recurse=False))
        }
        known = {id(p) for m in self._modules.values() for p in m.parameters(recurse=False)}
        others = [name for name, p in layer.named_parameters() if id(p) not in known]
        if others or not known:
            what = f"its parameter {others[0]} is in a module of another kind" if others else "it has none"
            raise unknown_architecture(
                "per-example gradients of the encoder's last layer are known for linear modules and "
                f"LayerNorm only: {what}"
            )

    @contextmanager
    def captured(self) -> Iterator[Captured]:
        """Within, a forward pass leaves inputs and outputs of the layer's modules behind."""
        captured = Captured(self._modules)
        hooks = [self._layer.register_forward_pre_hook(_wants_gradient, with_kwargs=True)]
        hooks += [m.register_forward_hook(captured.keep(name)) for name, m in self._modules.items()]
        try:
            yield captured
        finally:
            for hook in hooks:
                hook.remove()


class Captured:
    """Inputs and outputs, module by module, of one forward pass."""

    def __init__(self, modules: dict[str, torch.nn.Module]) -> None:
        self._modules = modules
        self._found: list[tuple[str, torch.Tensor, torch.Tensor]] = []

    def keep(self, name: str) -> Callable[[Any, tuple[torch.Tensor, ...], torch.Tensor], None]:
        """The forward hook of one module."""

        def hook(_module: Any, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            self._found.append((name, args[0].detach(), output))

        return hook

    def squared_norms(self, of: torch.Tensor, towards: torch.Tensor, again: bool) -> torch.Tensor:
        """Squared norms [n], in float64, of the gradient that arrives at `of` [n, ...] as `towards`.

        The backward pass ends at the layer. again: whether another one is to follow. Raises UserError for
        a module that was passed by, or does not see rows x tokens.
        """
        passed_by = sorted(self._modules.keys() - {name for name, _, _ in self._found})
        if passed_by:
            raise unknown_architecture(
                f"the module {passed_by[0]} of the encoder's last layer is not called as a module"
            )
        deltas = torch.autograd.grad(
            of,
            [output for _, _, output in self._found],
            towards,
            retain_graph=again,
            allow_unused=True,
            materialize_grads=True,
        )
        norm = torch.zeros(len(of), dtype=torch.float64, device=of.device)
        uses: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {}
        for (name, x, _), delta in zip(self._found, deltas, strict=True):
            if x.dim() != 3 or len(x) != len(of):
                raise unknown_architecture(
                    f"the module {name} of the encoder's last layer sees {list(x.shape)} instead of rows x "
                    "tokens x inputs, so that the gradients of rows cannot be told apart"
                )
            uses.setdefault(name, []).append((x, delta))
        for name, parts in uses.items():
            # A module that is used twice has the sum of both: as more tokens.
            x, delta = (
                torch.cat(each, dim=1) if len(parts) > 1 else each[0] for each in zip(*parts, strict=True)
            )
            module = self._modules[name]
            norm += (
                _linear(x, delta) if isinstance(module, torch.nn.Linear) else _layer_norm(module, x, delta)
            )
            if getattr(module, "bias", None) is not None:
                norm += squared(delta.sum(dim=1))
        return norm


def _linear(x: torch.Tensor, delta: torch.Tensor) -> torch.Tensor:
    """||sum_t delta_t x_t^T||^2 of x [n, T, in], delta [n, T, out], by the cheaper way; [n]."""
    n, tokens, width = x.shape
    out = delta.shape[2]
    if tokens * (width + out) < width * out:
        products = torch.bmm(x, x.transpose(1, 2)) * torch.bmm(delta, delta.transpose(1, 2))
        # A sum of a square's terms may round below zero.
        return products.flatten(1).sum(dim=1, dtype=torch.float64).clamp_min(0)
    rows = max(1, _WEIGHT_BYTES // (4 * width * out))
    parts = [
        squared(torch.bmm(delta[at : at + rows].transpose(1, 2), x[at : at + rows]))
        for at in range(0, n, rows)
    ]
    return torch.cat(parts)


def _layer_norm(module: Any, x: torch.Tensor, delta: torch.Tensor) -> torch.Tensor:
    """||sum_t delta_t * xhat_t||^2, [n]."""
    normalised = torch.nn.functional.layer_norm(x, module.normalized_shape, eps=module.eps)
    return squared((delta * normalised).sum(dim=1))


def _wants_gradient(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Before the layer: where nothing below wants a gradient, the layer's input starts the graph."""
    hidden = args[0] if args else next(iter(kwargs.values()))
    if not hidden.requires_grad:
        hidden.requires_grad_(True)


def unknown_architecture(what: str) -> UserError:
    """The encoder is built in a way that its gradient scores are not known for."""
    return UserError(
        what,
        field="training.mode",
        mend='Set training.mode = "frozen", leave gradient scores (vog, tracin, grand) out of scores.names, '
        "or take a BERT-like encoder.",
    )
