"""A second device that is there by name alone, "away:0", with the CPU's arithmetic behind it.

An operation whose tensors lie on the CPU and there fails, as with those of two GPUs; unlike there, the CPU's
indices are refused, too. torch keeps such a device for the process, so this is run as a program: it computes
with a model on the CPU and with the same model over both devices, and ends with code 1 where values differ.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from nncift_core.config import LanguageModelConfig, LessConfig
from nncift_core.forward_features import ForwardFeatures
from nncift_core.influence.contract import Rows
from nncift_core.influence.delift import Delift
from nncift_core.influence.less import Less
from nncift_core.influence.selectit import SelectIT, Source, rating_prompts
from nncift_core.language_models import LanguageModel, load_language_model
from nncift_core.placement import _part, device_map, spread

DEVICES = ("cpu", "away:0")
# What takes tensors of several devices on a GPU, too.
_ACROSS = {"aten::copy_", "aten::_to_copy", "aten::to"}


class Away(torch.Tensor):
    """A tensor on the second device; `here`: its numbers, on the CPU."""

    here: torch.Tensor

    @staticmethod
    def __new__(cls, here: torch.Tensor) -> Away:
        made: Any = torch.Tensor._make_wrapper_subclass(
            cls, here.shape, strides=here.stride(), dtype=here.dtype, device=DEVICES[1]
        )
        made.here = here
        return made

    def data_ptr(self) -> int:
        return self.here.data_ptr()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(func, args, kwargs or {})


class Checked(TorchDispatchMode):
    """Makes tensors where they are asked for, and checks that those of an operation lie together."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(func, args, kwargs or {})


def computed(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    flat, _ = tree_flatten((args, kwargs))
    given = [x for x in flat if isinstance(x, torch.Tensor)]
    name = func._schema.name
    # Lone numbers may come from the CPU.
    devices = {x.device for x in given if x.dim() or isinstance(x, Away)}
    if len(devices) > 1 and name not in _ACROSS:
        raise RuntimeError(f"{name}: tensors on {', '.join(sorted(map(str, devices)))}")
    asked = [x for x in flat if isinstance(x, torch.device)]
    away = asked[0].type != "cpu" if asked else any(isinstance(x, Away) for x in given)
    owners = {id(x.here): x for x in given if isinstance(x, Away)}

    def bare(x: Any) -> Any:
        return x.here if isinstance(x, Away) else torch.device("cpu") if isinstance(x, torch.device) else x

    found = func(*tree_map(bare, args), **tree_map(bare, kwargs))
    if name == "aten::copy_":
        return args[0]
    if not away:
        return found
    return tree_map(
        lambda x: (owners[id(x)] if id(x) in owners else Away(x)) if isinstance(x, torch.Tensor) else x, found
    )


def over_both(model: LanguageModel) -> LanguageModel:
    """`model` with some of its weights moved to the second device."""
    places = device_map(model.model, DEVICES)
    moved: dict[int, torch.nn.Parameter] = {}
    for name, module in model.model.named_modules():
        for key, weight in module._parameters.items():
            if weight is None:
                continue
            if id(weight) not in moved:
                where = places[str(_part(f"{name}.{key}" if name else key, places))]
                moved[id(weight)] = torch.nn.Parameter(weight.detach().to(where), requires_grad=False)
            module._parameters[key] = moved[id(weight)]
    spread(model.model, places, DEVICES[0])
    found = {str(p.device) for p in model.model.parameters()}
    assert found == set(DEVICES), found
    return replace(model, device=DEVICES[0])


ROWS = Rows(
    np.arange(3),
    ("Name a colour.", "What is two and two?", "Say something about the sea."),
    ("Blue.", "Four, as everybody knows.", "It is wide."),
)
COLUMNS = Rows(np.arange(10, 12), ("Name a fruit.", "Which day is it?"), ("An apple.", "A Monday."))


def delift(model: LanguageModel, folder: Path) -> Any:
    function = Delift(lambda: model, model.key)
    pairs = function.pairs(ROWS.take(np.array([0, 2])), COLUMNS)
    return np.concatenate([function.tile(ROWS, COLUMNS).ravel(), pairs])


def selectit(model: LanguageModel, folder: Path) -> Any:
    source = Source("builtin", model.key, lambda: model)
    return SelectIT([source], rating_prompts(None)).values(ROWS)


def features(model: LanguageModel, folder: Path) -> Any:
    made = ForwardFeatures(model, "Instruction: {prompt}\nResponse: ")
    return made.compute(ROWS.prompts, ROWS.responses)


def less(model: LanguageModel, folder: Path) -> Any:
    settings = LessConfig(
        epochs=2, rank=2, alpha=4, batch_size=2, learning_rate=1e-3, targets="all-linear", projection="none"
    )
    function = Less(lambda: model, model.key, settings)
    state = folder / str(len({p.device for p in model.model.parameters()}))
    state.mkdir()
    function.fit_state(ROWS, state)
    function.load_state(state)
    return np.concatenate([function.features(ROWS, "row"), function.features(COLUMNS, "column")])


WORK: dict[str, Callable[[LanguageModel, Path], Any]] = {
    "delift": delift,
    "selectit": selectit,
    "features": features,
    "less": less,
}
TOLERANCE = {"delift": 0.0, "selectit": 0.0, "features": 1e-5, "less": 1e-3}


def main(source: str, folder: Path) -> int:
    """All of `WORK` with the model `source`; returns the exit code. folder: for files in between."""
    torch.set_num_threads(1)
    config = LanguageModelConfig(model=source, dtype="float32")
    # Before the first backward pass, at which torch counts devices.
    _setup_privateuseone_for_python_backend("away")
    # Else torch.tensor(..., device=...) would copy to a device behind the mode's back.
    torch._C._set_only_lift_cpu_tensors(True)
    apart = list[str]()
    for name, work in WORK.items():
        expected = work(load_language_model(config, "cpu"), folder)
        with Checked():
            found = work(over_both(load_language_model(config, "cpu")), folder)
        scale, off = np.abs(expected).max(), np.abs(found - expected).max()
        print(f"{name}: {off:.2g} apart, of {scale:.2g}", flush=True)
        # Attention with gradients is computed in other steps on a device that torch does not know.
        if not off <= TOLERANCE[name] * scale or not scale > 0:
            apart.append(name)
    print("apart:", *apart)
    return bool(apart)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
