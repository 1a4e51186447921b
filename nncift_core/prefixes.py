"""Keys and values of prefixes that are computed once, and how a model is told of them."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

Layers = tuple[tuple[torch.Tensor, torch.Tensor], ...]


@dataclass(frozen=True)
class Prefix:
    """Keys and values of one prefix, on the model's device: every sequence of a batch follows it.

    length: its tokens; layers: per layer, keys and values [1, heads, length, head size], or [n, ...] where
    each of the n sequences has one of its own, all of one length.
    """

    length: int
    layers: Layers


@dataclass(frozen=True)
class Prefixes:
    """Keys and values of g prefixes, on the model's device: every sequence of a batch follows each of them.

    lengths: tokens of each; layers: per layer, keys and values [g, heads, longest, head size].
    """

    lengths: tuple[int, ...]
    layers: Layers

    def __len__(self) -> int:
        return len(self.lengths)

    def rows(self, which: slice) -> Prefixes:
        """Some of the prefixes, nothing copied."""
        return Prefixes(self.lengths[which], tuple((k[which], v[which]) for k, v in self.layers))

    def one(self, k: int) -> Prefix:
        """The prefix k alone, a copy."""
        length = self.lengths[k]
        return Prefix(
            length,
            tuple(
                (keys[k : k + 1, :, :length].clone(), values[k : k + 1, :, :length].clone())
                for keys, values in self.layers
            ),
        )


def past(model: Any, ids: torch.Tensor, prefix: Prefix | Prefixes | None, keep: bool) -> dict[str, Any]:
    """What a forward pass of a transformers `model` over ids [n, q] is told of what comes before them.

    n: g x c, c sequences after each of g prefixes, prefix by prefix; keep: return keys and values.
    """
    if prefix is None:
        return {"use_cache": keep}
    n, q = ids.shape
    cache = DynamicCache()
    cache.layers = [_PrefixLayer(keys, values) for keys, values in prefix.layers]
    told: dict[str, Any] = {"use_cache": True, "past_key_values": cache}
    each = prefix.lengths if isinstance(prefix, Prefixes) else (prefix.length,)
    lengths = torch.tensor(each, device=ids.device).repeat_interleave(n // len(each))[:, None]
    longest = prefix.layers[0][0].shape[-2]
    if "position_ids" in inspect.signature(model.forward).parameters:
        told["position_ids"] = lengths + torch.arange(q, device=ids.device)
    if min(each) < longest:
        # Keys of padded prefixes lie before the new tokens, so they are seen unless they are hidden.
        key = torch.arange(longest + q, device=ids.device)
        told["attention_mask"] = ((key < lengths) | (key >= longest)).long()
    return told


class _PrefixLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """A layer's keys and values of g prefixes, handed out with the new ones after them, which are not kept.

    New ones: [g x c, heads, q, head size], c sequences after each prefix.
    """

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.lazy_initialization(keys, values)
        self.keys: torch.Tensor = keys
        self.values: torch.Tensor = values

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return _joined(self.keys, key_states), _joined(self.values, value_states)


def _joined(before: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    g, c = len(before), len(new) // len(before)
    if c == 1:
        return torch.cat([before, new], -2)
    repeated = before[:, None].expand(g, c, *before.shape[1:])
    return torch.cat([repeated, new.view(g, c, *new.shape[1:])], -2).flatten(0, 1)
