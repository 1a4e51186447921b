"""One copy of a language model over several devices: which of them make a slot, which module lies where.

Transformer blocks stay whole and in order, so that a forward pass goes from each device to the next once.
What stands before the blocks (embeddings) is on the first device, what comes after (norm, output layer)
on the last, unless its weights are tied to some on the first. accelerate's hooks carry what a module takes
to its device, and what the model gives back to the device that its input came from.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from nncift_core.errors import UserError

if TYPE_CHECKING:
    import torch

# torch and accelerate are imported where a model is placed: planning groups devices without them.

FIELD = "language_model.devices"
# Bytes of a weight in NF4 with double quantisation: half a byte, and 8 bits of scale for 64 weights.
_FOUR_BIT = 0.52


def slot_groups(devices: Sequence[str], size: int) -> tuple[list[tuple[str, ...]], tuple[str, ...]]:
    """Consecutive groups of `size` devices, and the devices that are left over: fewer than `size`.

    Raises UserError where there is no group, and for one of unlike devices (a CPU beside GPUs).
    """
    groups = [tuple(devices[k : k + size]) for k in range(0, len(devices) - size + 1, size)]
    if not groups:
        raise UserError(
            f"a copy of the teacher takes {size} devices, and there is only {', '.join(devices)}",
            field=FIELD,
            mend=f"Use at most {len(devices)}, or list more in execution.devices.",
        )
    for group in groups:
        if len({name.partition(":")[0] for name in group}) > 1:
            raise UserError(
                f"a copy of the teacher cannot lie on {' and '.join(group)}",
                field=FIELD,
                mend="List GPUs alone in execution.devices.",
            )
    return groups, tuple(devices[len(groups) * size :])


def shares(sizes: Sequence[float], devices: int, before: float = 0, after: float = 0) -> list[int]:
    """How many blocks each device takes, in order, at least one: so that the fullest is least full.

    sizes: of the blocks, at least as many as devices; before, after: what the first and the last device hold
    beside them. Among equally good ways it takes an even one.
    """
    n, total = len(sizes), [0.0, *accumulate(sizes)]
    # best[i]: (fullest device, sum of squares, where the last device begins) with blocks 0 .. i - 1 placed.
    table: list[dict[int, tuple[float, float, int]]] = [{0: (0.0, 0.0, 0)}]
    for k in range(devices):
        extra = (before if k == 0 else 0) + (after if k == devices - 1 else 0)
        best: dict[int, tuple[float, float, int]] = {}
        for i in range(k + 1, n - (devices - 1 - k) + 1):
            ways = (
                (max(most, load := total[i] - total[j] + extra), squares + load * load, j)
                for j, (most, squares, _) in table[-1].items()
                if j < i
            )
            best[i] = min(ways)
        table.append(best)
    counts, end = [], n
    for best in reversed(table[1:]):
        counts.append(end - best[end][2])
        end = best[end][2]
    return counts[::-1]


def device_map(model: Any, devices: Sequence[str], *, four_bit: bool = False) -> dict[str, str]:
    """Device of every module of a transformers `model` by its name, as `from_pretrained` takes it.

    model: may lie on "meta"; four_bit: whether the linear layers of its blocks will have 4-bit weights.
    Raises UserError for a model without a list of blocks, with fewer blocks than devices, or with weights
    that blocks on different devices would share.
    """
    name, blocks = _blocks(model, len(devices))
    first, last = _ends(model, blocks)
    sizes = _Sizes(model, four_bit)
    before, after = sum(map(sizes.of, first)), sum(map(sizes.of, last))
    names = [f"{name}.{k}" for k in range(len(blocks))]
    counts = shares([sizes.of(block) for block in names], len(devices), before, after)
    owners = [device for device, count in zip(devices, counts, strict=True) for _ in range(count)]
    places = dict.fromkeys(first, devices[0]) | dict(zip(names, owners, strict=True))
    places |= dict.fromkeys(last, devices[-1])
    for group in _ties(model):
        found = {part for tensor in group if (part := _part(tensor, places))}
        if len({places[part] for part in found}) > 1:
            raise UserError(
                f"{' and '.join(sorted(found))} share weights, so the model cannot be spread over devices",
                field=FIELD,
                mend="Leave it out for this model.",
            )
    return places


def spread(model: Any, places: dict[str, str], first: str) -> None:
    """Put accelerate's hooks on `model`, whose weights lie as `places` says; first: where its input arrives.

    The hooks are there even where all places are one device, so that all goes the way it does over several.
    """
    from accelerate import dispatch_model  # type: ignore[import-untyped]
    from accelerate.hooks import remove_hook_from_submodules  # type: ignore[import-untyped]

    # transformers has put hooks on already where devices differ, with any of them as the first.
    remove_hook_from_submodules(model)
    with _without_warnings():
        dispatch_model(
            model,
            places,
            main_device=first,
            skip_keys=getattr(model, "_skip_keys_device_placement", None),
            force_hooks=True,
        )


@contextmanager
def _without_warnings() -> Iterator[None]:
    """accelerate takes a map with the CPU in it for one that moves weights out of the way, and warns."""
    logger = logging.getLogger("accelerate.big_modeling")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _blocks(model: Any, devices: int) -> tuple[str, torch.nn.ModuleList]:
    """The list of transformer blocks and its name: the list that holds most numbers."""
    import torch

    lists = [(name, m) for name, m in model.named_modules() if isinstance(m, torch.nn.ModuleList) and len(m)]
    found = max(lists, key=lambda pair: sum(p.numel() for p in pair[1].parameters()), default=None)
    if found is None or len(found[1]) < devices:
        told = "no list of blocks" if found is None else f"{len(found[1])} blocks"
        raise UserError(
            f"the model has {told}, too few for {devices} devices",
            field=FIELD,
            mend="Use fewer devices." if found is not None else "Leave it out for this model.",
        )
    return found


def _ends(model: Any, blocks: torch.nn.ModuleList) -> tuple[list[str], list[str]]:
    """What lies on the first device and on the last beside the blocks: names of modules, and of tensors that
    belong to a module around the blocks."""
    head = model.get_output_embeddings()
    first, last = list[str](), list[str]()
    passed = False
    for name, part in _around(model, blocks, ""):
        if part is blocks:
            passed = True
            continue
        inside = [] if not hasattr(part, "modules") else list(part.modules())
        weighs = bool(inside) and any(True for _ in part.parameters())
        at_end = any(m is head for m in inside) or (passed and weighs)
        (last if at_end else first).append(name)
    places = dict.fromkeys(first, "first") | dict.fromkeys(last, "last")
    for group in _ties(model):
        parts = {part for tensor in group if (part := _part(tensor, places))}
        if not parts.isdisjoint(first):
            first += [name for name in last if name in parts]
            last = [name for name in last if name not in parts]
    return first, last


def _around(module: Any, blocks: torch.nn.ModuleList, prefix: str) -> Iterator[tuple[str, Any]]:
    """The blocks' list, and the largest modules (and tensors) beside it, by name, in the model's order."""
    for name, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
        yield prefix + name, tensor
    for name, child in module.named_children():
        if child is not blocks and any(m is blocks for m in child.modules()):
            yield from _around(child, blocks, f"{prefix}{name}.")
        else:
            yield prefix + name, child


def _ties(model: Any) -> list[list[str]]:
    """Names of weights that are one and the same, or will be once the model is loaded."""
    groups: dict[int, list[str]] = {}
    own = dict(model.named_parameters(remove_duplicate=False))
    for name, parameter in own.items():
        groups.setdefault(id(parameter), []).append(name)
    found = [names for names in groups.values() if len(names) > 1]
    told: dict[str, str] = getattr(model, "all_tied_weights_keys", None) or {}
    return found + [[source, target] for target, source in told.items() if source in own and target in own]


def _part(tensor: str, places: dict[str, str]) -> str | None:
    """Which of `places` holds a tensor, by its name; None: none of them."""
    names = tensor.split(".")
    return next((p for k in range(len(names), 0, -1) if (p := ".".join(names[:k])) in places), None)


class _Sizes:
    """Bytes of a model's parts; what is tied counts with the first part that is asked for."""

    def __init__(self, model: Any, four_bit: bool) -> None:
        self._tensors: dict[str, torch.Tensor] = dict(model.named_parameters(remove_duplicate=False)) | dict(
            model.named_buffers()
        )
        self._small = _linear_weights(model) if four_bit else set()
        self._again: dict[str, str] = {}
        for group in _ties(model):
            one = min(self._again.get(name, name) for name in group)
            self._again |= dict.fromkeys(group, one)
        self._counted: set[str] = set()

    def of(self, part: str) -> float:
        """Bytes of the module or tensor of this name."""
        total = 0.0
        for name, tensor in self._tensors.items():
            first = self._again.get(name, name)
            if (name == part or name.startswith(f"{part}.")) and first not in self._counted:
                self._counted.add(first)
                total += tensor.numel() * (_FOUR_BIT if name in self._small else tensor.element_size())
        return total


def _linear_weights(model: Any) -> set[str]:
    """Weights that are loaded in 4 bits: those of linear layers but the output layer's."""
    import torch

    head = model.get_output_embeddings()
    linear = (n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and m is not head)
    return {f"{name}.weight" for name in linear}
