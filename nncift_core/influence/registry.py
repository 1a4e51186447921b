"""The influence functions by name. To add one:

1. write `nncift_core/influence/<name>.py`: a class that fills `contract.InfluenceFunction` and the
   two class methods of `Registered` below; read its settings from `config.influence.<name>`;
2. add one line to `FUNCTIONS`, and the name to `InfluenceConfig.function`.

Labels, sharding, caching, estimation, audit and selection then work with it.
"""

from __future__ import annotations

from typing import Protocol

from nncift_core.config import Config
from nncift_core.influence.contract import InfluenceFunction
from nncift_core.influence.delift import Delift
from nncift_core.influence.delift_se import DeliftSE


class Registered(Protocol):
    """What the registry asks of a function's class beside the contract.

    needs: as in the contract, so that planning knows before a function is made.
    """

    needs: frozenset[str]

    def from_config(self, config: Config, device: str) -> InfluenceFunction:
        """The function as configured; models are loaded only when values are asked for."""
        ...

    def key_of(self, config: Config) -> str:
        """The function key, found without loading a model."""
        ...


FUNCTIONS: dict[str, Registered] = {
    "delift": Delift,
    "delift-se": DeliftSE,
}


def create(config: Config, device: str) -> InfluenceFunction:
    """The configured influence function for `device`; loads no weights yet.

    Raises UserError when its model cannot be found.
    """
    return FUNCTIONS[config.influence.function].from_config(config, device)


def function_key(config: Config) -> str:
    """Key of the configured function (design decision 3): cheap, loads no weights, imports no torch."""
    return FUNCTIONS[config.influence.function].key_of(config)
