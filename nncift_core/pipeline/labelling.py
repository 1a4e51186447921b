"""Which label design a config asks for, and what exact values cost: the budget that all designs share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from nncift_core.config import Config
from nncift_core.estimator.label_sizes import Costs, LabelCounts, Rule, label_counts
from nncift_core.estimator.labels import cost_sample
from nncift_core.influence.contract import CostModel, CountsTokens, Rows, Side
from nncift_core.influence.registry import create, implementation

Int64 = npt.NDArray[np.int64]
Texts = Callable[[Int64, Side], Rows]


def learning_pointless(config: Config) -> bool:
    """Whether exact values cost next to nothing and nobody asks for an estimator: then all are computed."""
    return implementation(config).cost == CostModel() and not config.asks_to_learn


def flat_costs(config: Config) -> Costs:
    """What exact values cost without a look at texts: rows of linear work, or all pairs alike."""
    cost = implementation(config).cost
    if config.pointwise:
        return Costs(row=1, pair=0, unit="rows")
    if cost.per_pair == 0 and cost != CostModel():
        return Costs(row=1, column=1, pair=0, unit="rows")
    return Costs()


def label_rule(config: Config) -> Rule:
    """The rule by which labels are drawn: "auto" only where the matrix's shape decides (linear work).

    Scattered pairs suit functions that cost something per pair; a pointwise function has one column, so
    that every design is a block.
    """
    cost = implementation(config).cost
    if config.pointwise or label_fraction(config) >= 1:
        return "block"
    if config.labels() != "auto" or cost == CostModel():
        return "block" if config.labels() == "auto" else config.labels()
    return "scattered" if cost.per_pair > 0 else "auto"


def label_fraction(config: Config) -> float:
    """u, which is 1 where learning is pointless."""
    return 1.0 if learning_pointless(config) else config.influence.label_fraction


def planned_labels(config: Config, rows: int, columns: int, costs: Costs | None = None) -> LabelCounts:
    """Size of the label design of a matrix [rows, columns]; costs: `flat_costs` when None."""
    ratio = None if config.pointwise else config.influence.block_ratio
    costs = costs or flat_costs(config)
    return label_counts(label_rule(config), rows, columns, label_fraction(config), costs, ratio)


def label_costs(config: Config, rows: Int64, columns: Int64, texts: Texts) -> Costs:
    """What exact values of these rows and columns (content ids) cost, in tokens if the function counts them.

    A row's share of a prompt is paid once, what follows it with every pair: means over a sample of at most
    200 rows and columns by hash rank, whose `texts` are asked for. What is paid once per column whatever
    the labels (DELIFT's passes without an example, which the audit wants too) is in no design's price.
    Raises ValueError for a function that counts no tokens in a pair.
    """
    flat = flat_costs(config)
    if flat.pair == 0 or implementation(config).cost == CostModel():
        return flat
    function = create(config, "cpu")
    if not isinstance(function, CountsTokens):
        return flat
    sample = [cost_sample(ids, config.seed) for ids in (rows, columns)]
    shared, own = function.token_costs(texts(sample[0], "row"), texts(sample[1], "column"))
    if not own.mean() > 0:
        raise ValueError(f"{function.name} counts {own.mean()} tokens in a pair")
    return Costs(row=float(shared.mean()), pair=float(own.mean()), unit="tokens")
