"""Shards of trainings: which are missing, how they are grouped, and how a shard runs them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from nncift_core.devices import usable_cores
from nncift_core.pruning.problem import LabelSet, PruneProblem
from nncift_core.pruning.studies import label_sets, run_seeds
from nncift_core.pruning.trainings import (
    PointCell,
    ScoreCell,
    kept_point,
    kept_score,
    train_point,
    train_score,
)

# Heads on a frozen encoder: their products are small, so that more threads only wait for each other.
_MOST_THREADS = 8
_IN_A_SHARD = 8


@dataclass(frozen=True)
class CellShard:
    """Cells of one task, as dicts; key: identity of their work, with which a shard names it."""

    name: str
    key: str
    cells: tuple[dict[str, Any], ...]


def score_cells(problem: PruneProblem) -> list[ScoreCell]:
    """Every training that scores are made of."""
    config = problem.config
    return [
        ScoreCell(labels, seed, gradients=number < config.scores.gradient_runs)
        for labels in label_sets(config)
        for number, seed in enumerate(run_seeds(config))
    ]


def plan_scores(problem: PruneProblem) -> tuple[list[CellShard], int]:
    """Shards of the score cells that are not kept yet, and the number of cells in all."""
    cells = score_cells(problem)
    missing = [c for c in cells if not kept_score(problem, c).done]
    return _shards("scores", problem, [asdict(c) for c in missing], [_named(c) for c in missing]), len(cells)


def plan_points(problem: PruneProblem, cells: Sequence[PointCell]) -> tuple[list[CellShard], int]:
    """Shards of the points that are not kept yet, and the number of distinct ones in all."""
    distinct = list({c.key: c for c in cells}.values())
    missing = [c for c in distinct if not kept_point(problem, c.key).done]
    keys = [c.key for c in missing]
    return _shards("subsets", problem, [asdict(c) for c in missing], keys), len(distinct)


def _named(cell: ScoreCell) -> str:
    return f"{cell.labels.name}/{cell.seed}"


def _shards(
    what: str, problem: PruneProblem, cells: list[dict[str, Any]], keys: list[str]
) -> list[CellShard]:
    size = _IN_A_SHARD if problem.config.training.mode == "frozen" else 1
    found = []
    for at in range(0, len(cells), size):
        end = min(at + size, len(cells))
        name = f"{what} {at}" if end == at + 1 else f"{what} {at}-{end - 1}"
        found.append(CellShard(name, "+".join(keys[at:end])[:400], tuple(cells[at:end])))
    return found


def run_score_shard(
    problem: PruneProblem, shard: CellShard, device: str, progress: Callable[[int], None]
) -> int:
    """Train the score cells of a shard that are not kept yet; returns how many."""
    cells = [ScoreCell(**{**c, "labels": LabelSet(**c["labels"])}) for c in shard.cells]
    left = [c for c in cells if not kept_score(problem, c).done]
    return _each(problem, left, lambda c, tell: train_score(problem, c, device, tell), device, progress)


def run_point_shard(
    problem: PruneProblem, shard: CellShard, subsets: str, device: str, progress: Callable[[int], None]
) -> int:
    """Train the points of a shard that are not kept yet; returns how many."""
    cells = [PointCell(**{**c, "labels": LabelSet(**c["labels"])}) for c in shard.cells]
    left = [c for c in cells if not kept_point(problem, c.key).done]

    def train(cell: PointCell, tell: Callable[[int], None]) -> None:
        train_point(problem, cell, subsets, device, tell)

    return _each(problem, left, train, device, progress)


def _each(
    problem: PruneProblem,
    cells: Sequence[Any],
    train: Callable[[Any, Callable[[int], None]], None],
    device: str,
    progress: Callable[[int], None],
) -> int:
    """Train every cell; heads on the CPU beside each other, a thread and a core each."""
    turn = threading.Lock()

    def tell(done: int) -> None:
        with turn:
            progress(done)

    def one(cell: Any) -> None:
        # Steps say that the work is alive, a whole training counts.
        train(cell, lambda _: tell(0))
        tell(1)

    if not (problem.config.training.mode == "frozen" and device == "cpu"):
        for cell in cells:
            one(cell)
        return len(cells)
    import torch

    problem.check_embedded()
    for role in ("train", "test"):
        problem.features(role)
    before = torch.get_num_threads()
    workers = max(1, min(_MOST_THREADS, usable_cores(), len(cells)))
    try:
        torch.set_num_threads(1)
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            futures = [pool.submit(one, cell) for cell in cells]
            try:
                for future in futures:
                    future.result()
            except BaseException:
                for future in futures:
                    future.cancel()
                raise
    finally:
        torch.set_num_threads(before)
    return len(cells)
