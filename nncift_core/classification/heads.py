"""The classification heads: the paper's three linear layers, and a plain one.

"paper" (arXiv 2311.16298): d -> h -> h -> K with ReLU and dropout after the first two. "linear": d -> K.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch

from nncift_core.classification.contract import Float32

Head = Literal["paper", "linear"]
Layers = tuple[tuple[Float32, Float32], ...]


def make_head(
    kind: Head, n_in: int, n_classes: int, hidden: int, dropout: float, seed: int
) -> torch.nn.Sequential:
    """A fresh head of `n_in` inputs; its weights follow from `seed` alone, by torch's own initialisation."""
    generator = torch.Generator().manual_seed(seed)
    if kind == "linear":
        return torch.nn.Sequential(_linear(n_in, n_classes, generator))
    return torch.nn.Sequential(
        _linear(n_in, hidden, generator),
        torch.nn.ReLU(),
        torch.nn.Dropout(dropout),
        _linear(hidden, hidden, generator),
        torch.nn.ReLU(),
        torch.nn.Dropout(dropout),
        _linear(hidden, n_classes, generator),
    )


def _linear(n_in: int, n_out: int, generator: torch.Generator) -> torch.nn.Linear:
    """A layer as torch initialises it, from a generator of its own: heads that are made in several threads
    at once would draw from one global state between them."""
    layer = _bare(n_in, n_out)
    torch.nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5), generator=generator)
    bound = 1 / math.sqrt(n_in)
    torch.nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
    return layer


def _bare(n_in: int, n_out: int) -> torch.nn.Linear:
    """A layer whose weights are still to be set: nothing is drawn for it."""
    return torch.nn.Linear(n_in, n_out, device="meta").to_empty(device="cpu")


def linears(head: torch.nn.Module) -> list[torch.nn.Linear]:
    """The linear layers of a head, in order."""
    return [m for m in head.modules() if isinstance(m, torch.nn.Linear)]


def layers_of(head: torch.nn.Module) -> Layers:
    """Copies of (weight [out, in], bias [out]) of every linear layer, in order."""
    return tuple(
        (m.weight.detach().float().cpu().numpy().copy(), m.bias.detach().float().cpu().numpy().copy())
        for m in linears(head)
    )


def head_from(layers: Sequence[tuple[Float32, Float32]], dropout: float = 0.0) -> torch.nn.Sequential:
    """The head with these layers, in eval mode."""
    modules: list[torch.nn.Module] = []
    for k, (weight, bias) in enumerate(layers):
        linear = _bare(weight.shape[1], weight.shape[0])
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(np.ascontiguousarray(weight)))
            linear.bias.copy_(torch.from_numpy(np.ascontiguousarray(bias)))
        modules.append(linear)
        if k < len(layers) - 1:
            modules += [torch.nn.ReLU(), torch.nn.Dropout(dropout)]
    return torch.nn.Sequential(*modules).eval()
