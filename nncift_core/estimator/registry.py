"""Which estimators there are, by their names in the config file: a new one is one class and one line here."""

from __future__ import annotations

from importlib import import_module
from typing import Any, cast

from nncift_core.estimator.baselines import Calibrated, ConstantMean, Random, ShrunkMeans, one_value_per_row
from nncift_core.estimator.contract import BM25, COSINE, EMBEDDING, LENGTH, PROXY, Estimator, Features

_ROOM = "nncift_core.estimator"
# Imported when asked for: some of them need torch.
_LEARNED = {
    "mlp": "mlp:Mlp",
    "mlp-paper": "mlp:MlpPaper",
    "two-tower": "two_tower:TwoTower",
    "factor": "factor:Factor",
    "kernel": "kernel:Kernel",
    "ridge": "ridge:Ridge",
    "knn": "neighbours:Neighbours",
}
_CHEAP: dict[str, type[Estimator]] = {"constant": ConstantMean, "means": ShrunkMeans, "random": Random}
_PAIR_FEATURE = {"cosine": COSINE, "bm25": BM25, "length": LENGTH, "proxy": PROXY}
# Reports and files call an estimator by its `name`, the config file calls some baselines shorter.
_BY_PREDICTOR = {c.name: name for name, c in _CHEAP.items()} | {f: name for name, f in _PAIR_FEATURE.items()}
_WITH_HIDDEN = ("mlp", "mlp-paper")
_ON_PAIRS_ALONE = ("kernel", "ridge")

NAMES = (*_LEARNED, *_CHEAP, *_PAIR_FEATURE)


def name_of(predictor: str) -> str:
    """The config file's name of an estimator that reports call `predictor`.

    Raises KeyError for a name that is neither in the config file nor in reports.
    """
    short = _BY_PREDICTOR.get(predictor, predictor)
    if short not in NAMES:
        raise KeyError(f"no estimator is called {predictor!r}; there are {', '.join(NAMES)}")
    return short


def class_of(name: str) -> type[Estimator]:
    """The class of an estimator, by its name in the config file or in reports; raises as `name_of`."""
    short = name_of(name)
    if short in _PAIR_FEATURE:
        return Calibrated
    if short in _CHEAP:
        return _CHEAP[short]
    module, attribute = _LEARNED[short].split(":")
    return cast(type[Estimator], getattr(import_module(f"{_ROOM}.{module}"), attribute))


def name_shown(name: str) -> str:
    """What reports call the estimator that the config file calls `name`."""
    return {short: shown for shown, short in _BY_PREDICTOR.items()}.get(name, name)


def make(name: str, *, hidden: int = 100) -> Estimator:
    """The unfitted estimator of that name; hidden: width of the networks. Raises as `name_of`."""
    short = name_of(name)
    if short in _PAIR_FEATURE:
        return Calibrated(_PAIR_FEATURE[short])
    settings: dict[str, Any] = {"hidden": hidden} if short in _WITH_HIDDEN else {}
    return class_of(short)(**settings)


def possible(name: str, features: Features) -> str | None:
    """None when the estimator can be fitted on `features`, else why not. Raises as `name_of`."""
    short = name_of(name)
    if short in _PAIR_FEATURE:
        needed = _PAIR_FEATURE[short]
        return None if needed in features.pairs else f"needs the pair feature {needed!r}"
    if short == "means" and one_value_per_row(features):
        return "each row has a single value"
    if short == "mlp-paper" and EMBEDDING not in features.rows:
        return f"needs the group {EMBEDDING!r}"
    if short in _ON_PAIRS_ALONE:
        return None if features.rows or features.pairs else "needs a feature group or a pair feature"
    if short in _LEARNED and not features.rows:
        return "needs a feature group of rows"
    return None
