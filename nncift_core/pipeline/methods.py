"""Ways to value a pool that are compared with each other: function, exact or estimated, by which teacher.

Each is a job of its own over the same stored data, with the config that `nncift run` would have had for it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from nncift_core.config import Config, parse_config
from nncift_core.config_influence import InfluenceConfig
from nncift_core.errors import HubUnreachable, UserError
from nncift_core.functions import CATALOGUE
from nncift_core.pipeline.inputs import check_teacher
from nncift_core.pipeline.problem import keys_of

logger = logging.getLogger(__name__)

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

    The rule is the one that belongs to the function; one that the config names is kept for its own function,
    and rows already trained on (`selection.existing`) where that rule is "flcg". Raises UserError naming the
    method for settings that do not go together.
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
    if selection:
        selection |= {"existing": None}
    updates: dict[str, Any] = {
        "influence": InfluenceConfig.model_validate(config.influence.model_dump() | influence),
        "selection": config.selection.model_copy(update=selection),
        "finetune": None,
    }
    if method.teacher:
        updates["language_model"] = config.compare.teachers[method.teacher]
    changed = config.model_copy(update=updates)
    try:
        # A copy is not validated, and what does not go together should show before anything is computed.
        return parse_config(changed.model_dump(mode="json"), base_dir=config.base_dir or None)
    except UserError as e:
        raise UserError(f"the method {method.name!r}: {e.what}", field=e.field, mend=e.mend) from e


def check_methods(config: Config, methods: Sequence[Method], *, fetch: bool) -> None:
    """Raise UserError for a method that could not be computed.

    fetch: whether hub models may be downloaded for it; a hub that cannot be reached only warns without it.
    """
    if config.influence.label_fraction >= 1 and any(m.values == "estimated" for m in methods):
        raise UserError(
            "label_fraction = 1 labels every pair, so that nothing is left to estimate",
            field="influence.label_fraction",
            mend='Set the label budget of the estimates, 0.05 say, or leave "estimated" out of the values.',
        )
    for method in methods:
        own = method_config(config, method)
        try:
            keys_of(own)
            check_teacher(own, fetch=fetch)
        except HubUnreachable as e:
            if fetch:
                raise
            logger.warning("%s", e)
