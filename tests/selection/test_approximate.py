"""Stochastic and partitioned greedy: same picks for a seed, whatever the memory; bounds; limiting cases."""

from __future__ import annotations

import math

import numpy as np
import pytest
from selection.kernel_cases import embeddings, sixteenths, tiles

from nncift_core.selection.approximate import (
    partitioned_greedy,
    replay,
    stochastic_greedy,
)
from nncift_core.selection.kernels import materialise
from nncift_core.selection.lazy_greedy import run_lazy_greedy

ROWS = embeddings(240)
WHOLE = materialise(ROWS)
COVER, MODULAR = np.zeros(240, np.float32), np.zeros(240)


def value(order: np.ndarray) -> float:
    return float(WHOLE[order].max(axis=0).astype(np.float64).sum())


def stochastic(budget: int, epsilon: float = 0.1, seed: int = 0, memory: int = 1 << 20) -> np.ndarray:
    order, gains, _ = stochastic_greedy(
        ROWS, COVER, MODULAR, budget, epsilon=epsilon, seed=seed, memory=memory
    )
    assert len(set(order.tolist())) == budget
    assert gains.sum() == pytest.approx(value(order), abs=1e-3)
    return order


@pytest.mark.parametrize("budget", [2, 30, 240])
def test_stochastic_picks_depend_on_the_seed_and_not_on_the_memory(budget: int) -> None:
    picks = [stochastic(budget, memory=memory).tolist() for memory in (1, 20_000, 100_000, 1 << 24)]
    assert picks[0] == picks[1] == picks[2] == picks[3]
    # Two picks see samples of everything, which no seed changes.
    assert (stochastic(budget, seed=1).tolist() == picks[0]) == (budget == 2)


def test_stochastic_with_samples_of_everything_is_greedy() -> None:
    rows = tiles(sixteenths(40, 9))
    cover, modular = np.zeros(9, np.float32), np.arange(40) % 4 / 16
    expected = run_lazy_greedy(materialise(rows), cover, modular, 40, signed=False)
    for memory in (1, 1 << 20):
        picks = stochastic_greedy(rows, cover, modular, 40, epsilon=math.exp(-40), seed=3, memory=memory)
        assert picks[0].tolist() == expected[0].tolist()
        assert picks[1].tolist() == expected[1].tolist()
        assert picks[2] == expected[2]


def test_mean_of_stochastic_greedy_keeps_its_promise() -> None:
    greedy = value(run_lazy_greedy(WHOLE, COVER, 0.0, 12, signed=False)[0])
    mean = np.mean([value(stochastic(12, seed=seed)) for seed in range(20)])
    # The optimum is at least greedy's value, so this is weaker than the theorem, yet far from chance.
    assert mean >= (1 - 1 / math.e - 0.1) * greedy
    random = np.mean([value(np.random.default_rng(s).choice(240, 12, replace=False)) for s in range(20)])
    assert mean > random


def test_partitioned_with_one_part_is_greedy() -> None:
    order, gains, _ = partitioned_greedy(
        ROWS, COVER, MODULAR, 20, parts=1, per_part=20, seed=0, memory=1 << 24
    )
    expected = run_lazy_greedy(WHOLE, COVER, 0.0, 20, signed=False)
    assert order.tolist() == expected[0].tolist()
    assert gains == pytest.approx(expected[1], abs=1e-3)


@pytest.mark.parametrize("per_part", [5, 20])
def test_partitioned_keeps_its_bound_and_does_not_depend_on_memory(per_part: int) -> None:
    picks = [
        partitioned_greedy(ROWS, COVER, MODULAR, 20, parts=6, per_part=per_part, seed=seed, memory=memory)
        for seed, memory in ((0, 1 << 24), (0, 10_000), (1, 1 << 24))
    ]
    assert picks[0][0].tolist() == picks[1][0].tolist() != picks[2][0].tolist()
    greedy = value(run_lazy_greedy(WHOLE, COVER, 0.0, 20, signed=False)[0])
    bound = (1 - math.exp(-per_part / 20)) * (1 - 1 / math.e) / 6
    for order, gains, _ in picks:
        assert len(set(order.tolist())) == 20
        assert gains.sum() == pytest.approx(value(order), abs=1e-3)
        assert bound * greedy <= value(order) <= greedy * 1.01


@pytest.mark.parametrize("memory", [1, 5_000, 1 << 20])
def test_replay_gives_each_picks_true_gain(memory: int) -> None:
    order = np.array([7, 100, 3, 239, 8])
    modular = np.arange(240) / 7
    gains = replay(ROWS, order, COVER, modular, memory)
    values = [value(order[: k + 1]) + modular[order[: k + 1]].sum() for k in range(5)]
    assert gains == pytest.approx(np.diff([0.0, *values]), abs=1e-3)
