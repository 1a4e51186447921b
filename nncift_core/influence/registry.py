"""From a configured name to an influence function; the list of names is `nncift_core/functions.py`.

To add a function:

1. write `nncift_core/influence/<name>.py`: a class that fills `contract.InfluenceFunction` (inherit
   `Pairwise` or `Pointwise`) and the class methods of `Registered` below;
2. add one line to `functions.CATALOGUE`; settings of its own are a model in `InfluenceConfig`.

Labels, sharding, caching, estimation, audit and selection then work with it.
"""

from __future__ import annotations

from importlib import import_module
from typing import Protocol, cast

from nncift_core.config import Config
from nncift_core.functions import CATALOGUE
from nncift_core.influence.contract import CostModel, InfluenceFunction


class Registered(Protocol):
    """What the registry asks of a function's class beside the contract.

    needs, cost: as in the contract, so that planning knows before a function is made.
    """

    needs: frozenset[str]
    cost: CostModel

    def from_config(self, config: Config, device: str, *more: str) -> InfluenceFunction:
        """The function as configured; models are loaded only when values are asked for.

        more: further devices that a teacher is spread over; given to functions with a teacher only.
        """
        ...

    def key_of(self, config: Config) -> str:
        """The function key, found without loading a model."""
        ...


class Stateful(Registered, Protocol):
    """A class whose `needs` names "state".

    state_is_costly: whether a state is kept while the pool changes by at most `estimator.refit_growth`;
    one that costs next to nothing follows the pool.
    """

    state_is_costly: bool

    def state_rows(self, config: Config, n: int) -> int:
        """On how many of `n` distinct pool rows the state is fitted, 1..n."""
        ...


class Featured(Registered, Protocol):
    """A class whose `needs` names "features"."""

    def feature_width(self, config: Config) -> int:
        """Numbers that the features of one row are, at most, for forecasts of disk space; 0: not known."""
        ...


def implementation(config: Config) -> Registered:
    """The class of the configured function; imports its module, and with it no torch."""
    module, _, name = CATALOGUE[config.influence.function].implementation.partition(":")
    return cast(Registered, getattr(import_module(module), name))


def create(config: Config, device: str, *more: str) -> InfluenceFunction:
    """The configured influence function for `device`; loads no weights yet.

    more: further devices that its teacher, if it has one, is spread over. Raises UserError when its model
    cannot be found.
    """
    spread = more if CATALOGUE[config.influence.function].teacher else ()
    return implementation(config).from_config(config, device, *spread)


def function_key(config: Config) -> str:
    """Key of the configured function (design decision 3): cheap, loads no weights, imports no torch."""
    return implementation(config).key_of(config)
