"""LoRA adapters on a language model: their parameters by name, and what makes two sets of them alike.

A gradient's coordinates: the parameters in the order of their names (sorted as text), each flattened row
by row. Names are those of an adapter file of peft, such as
`base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight`.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from nncift_core.errors import UserError
from nncift_core.hashing import int63
from nncift_core.hub import quiet
from nncift_core.language_models import LanguageModel

_FIELD = "influence.less.targets"
_ADAPTER = "default"


@dataclass(frozen=True)
class Shape:
    """What an adapter is built by: rank r, alpha (updates are scaled by alpha / r), and target modules."""

    rank: int
    alpha: float
    targets: Literal["all-linear"] | tuple[str, ...]


@dataclass(frozen=True)
class Adapted:
    """A language model with adapters, which are in float32 whatever its weights are in.

    model: forward passes go through the adapters; shape: see `Shape`; parameters: by name, in the order of
    a gradient's coordinates; layers: each adapted linear layer by the name before `.lora_A.weight`.
    """

    model: LanguageModel
    shape: Shape
    parameters: Mapping[str, torch.nn.Parameter]
    layers: Mapping[str, Any]

    @property
    def dimension(self) -> int:
        """D, the number of coordinates."""
        return sum(p.numel() for p in self.parameters.values())

    def spans(self) -> dict[str, slice]:
        """Which coordinates of a gradient belong to each parameter."""
        found, start = {}, 0
        for name, p in self.parameters.items():
            found[name] = slice(start, start + p.numel())
            start += p.numel()
        return found

    def flat(self, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Tensors by parameter name as one float32 vector [D] on the model's device."""
        parts = [tensors[name].reshape(-1).float() for name in self.parameters]
        return torch.cat(parts).to(self.model.device)

    def set_weights(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Overwrite the adapters' weights; names and shapes must be theirs (`Checkpoint.check`)."""
        with torch.no_grad():
            for name, p in self.parameters.items():
                p.copy_(tensors[name])

    def start_anew(self, seed: int) -> None:
        """Fresh weights: A uniform in +-1 / sqrt(inputs), as peft draws it, and B zero, so that nothing
        changes at first. The draw depends on `seed` and the parameter's name only."""
        fresh = {}
        for name, p in self.parameters.items():
            fresh[name] = torch.zeros(p.shape)
            if name.endswith("lora_A.weight"):
                draw = torch.Generator().manual_seed(int63(f"adapter\x1f{seed}\x1f{name}"))
                bound = p.shape[1] ** -0.5
                fresh[name].uniform_(-bound, bound, generator=draw)
        self.set_weights(fresh)


def attach(model: LanguageModel, shape: Shape) -> Adapted:
    """Put adapters on `model` (its modules are wrapped in place), nothing trainable, in eval mode.

    Raises UserError naming influence.less.targets for names that stand for no linear layer, and for the
    output layer and embeddings, which see no rows x tokens.
    """
    from peft import LoraConfig, TaskType, get_peft_model

    head = model.model.get_output_embeddings()
    if shape.targets != "all-linear":
        _check_targets(model.model, shape.targets)
    targets = shape.targets if isinstance(shape.targets, str) else list(shape.targets)
    config = LoraConfig(
        r=shape.rank,
        lora_alpha=shape.alpha,  # type: ignore[arg-type]
        lora_dropout=0.0,
        target_modules=targets,
        bias="none",
        task_type=TaskType.CAUSAL_LM,
    )
    known = _linear_names(model.model, head)
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            adapted: Any = get_peft_model(model.model, config)
        except ValueError as e:
            raise _wrong_targets(
                known, "one of the names stands for something else than a linear layer"
            ) from e
    layers = {
        name: module
        for name, module in sorted(adapted.named_modules())
        if _ADAPTER in (getattr(module, "lora_A", None) or ())
    }
    _check_layers(adapted, layers, head, known)
    parameters = {
        name.replace(f".{_ADAPTER}.weight", ".weight"): p
        for name, p in adapted.named_parameters()
        if f".lora_A.{_ADAPTER}." in name or f".lora_B.{_ADAPTER}." in name
    }
    for p in adapted.parameters():
        p.requires_grad_(False)
    for p in parameters.values():
        p.data = p.data.float()
    return Adapted(
        replace(model, model=adapted.eval()), shape, {k: parameters[k] for k in sorted(parameters)}, layers
    )


def lora_pair(layer: Any) -> tuple[Any, Any]:
    """The two linear maps of an adapted layer, A and B."""
    return layer.lora_A[_ADAPTER], layer.lora_B[_ADAPTER]


def set_dropout(layer: Any, module: torch.nn.Module) -> None:
    """What an adapted layer's input goes through on its way to A."""
    layer.lora_dropout[_ADAPTER] = module


def _check_targets(model: Any, targets: tuple[str, ...]) -> None:
    """Refuse a name that stands for no module: the library only looks whether any name does."""
    names = [name for name, _ in model.named_modules()]
    absent = [t for t in targets if not t or not any(n == t or n.endswith(f".{t}") for n in names)]
    if absent or not targets:
        known = _linear_names(model, model.get_output_embeddings())
        raise _wrong_targets(
            known, f'the language model has no module "{absent[0]}"' if absent else "is empty"
        )


def _check_layers(adapted: Any, layers: Mapping[str, Any], head: Any, known: list[str]) -> None:
    """Refuse adapters whose per-row gradients cannot be told apart."""
    trained = [n for n, p in adapted.named_parameters() if p.requires_grad]
    prefixes = tuple(f"{name}." for name in layers)
    others = [n for n in trained if not n.startswith(prefixes)]
    if others:
        raise _wrong_targets(known, f'"{others[0]}" is an adapter of another kind than a linear layer\'s')
    at_head = [n for n, layer in layers.items() if layer.get_base_layer() is head]
    if at_head:
        raise _wrong_targets(known, f'"{at_head[0].split(".")[-1]}" is the output layer')


def _linear_names(model: Any, head: Any) -> list[str]:
    from transformers.pytorch_utils import Conv1D

    kinds = (torch.nn.Linear, Conv1D)
    return sorted(
        {n.split(".")[-1] for n, m in model.named_modules() if isinstance(m, kinds) and m is not head}
    )


def _wrong_targets(known: list[str], what: str) -> UserError:
    return UserError(
        what, field=_FIELD, mend=f'Use "all-linear", or some of its linear layers: {", ".join(known)}.'
    )
