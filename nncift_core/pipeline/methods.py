"""Ways to value a pool that are compared with each other: function, exact or estimated, by which teacher.

Each is a job of its own over the same stored data, with the config that `nncift run` would have had for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from nncift_core.config import Config, settled
from nncift_core.config_influence import InfluenceConfig
from nncift_core.functions import CATALOGUE

# Rivals that value rows by a function of ours and take the highest scores.
SCORED: dict[str, str] = {"bm25": "bm25", "similarity": "delift-se", "length": "length"}


@dataclass(frozen=True)
class Method:
    """function: of `functions.CATALOGUE`; values: all of them exact, or estimated from labels; teacher: ""
    for the job's language model, else a name of `compare.teachers`; rival: its name where it stands in the
    table as a cheap rival, which selects by "top-k"."""

    function: str
    values: Literal["exact", "estimated"] = "exact"
    teacher: str = ""
    rival: str = ""

    @property
    def name(self) -> str:
        """As tables call it, and `subsets.subset`."""
        if self.rival:
            return self.rival
        by = f" by {self.teacher}" if self.teacher else ""
        return f"{self.function}{by}, {self.values}"


def methods_of(config: Config) -> list[Method]:
    """The methods that `[compare]` asks for, rivals that value rows first; none twice.

    Another teacher makes rows of its own only for functions that ask one.
    """
    c = config.compare
    found = [Method(SCORED[r], rival=r) for r in c.rivals if r in SCORED]
    for function in c.functions or [config.influence.function]:
        teachers = ["", *c.teachers] if CATALOGUE[function].teacher else [""]
        found += [Method(function, values, teacher) for teacher in teachers for values in c.values]
    return list(dict.fromkeys(found))


def method_config(config: Config, method: Method) -> Config:
    """The config of a valuation by `method`, as `nncift run` would have it, without what follows selection.

    The rule is the one that belongs to the function; one that the config names is kept for its own function.
    """
    own = method.function == config.influence.function and not method.rival
    influence: dict[str, Any] = {"function": method.function}
    if method.values == "exact":
        influence |= {"label_fraction": 1.0, "labels": "auto", "block_ratio": None}
    elif config.influence.labels == "auto" and not CATALOGUE[method.function].teacher:
        # Asked for by name, labels are drawn even where exact values cost next to nothing.
        influence |= {"labels": "block"}
    influence |= {"refine_pairs": 0}
    selection: dict[str, Any] = {"rule": "top-k", "mode": "auto"} if method.rival else {}
    if not own and not method.rival:
        selection = {"rule": "auto", "mode": "auto"}
    updates: dict[str, Any] = {
        "influence": InfluenceConfig.model_validate(config.influence.model_dump() | influence),
        "selection": config.selection.model_copy(update=selection),
        "finetune": None,
    }
    if method.teacher:
        updates["language_model"] = config.compare.teachers[method.teacher]
    return settled(config.model_copy(update=updates))
