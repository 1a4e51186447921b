"""Points of made pruning studies, with the accuracy that a test wants."""

from __future__ import annotations

from typing import Any

import numpy as np

CLASSES = 30
ROWS = 100


def point(
    score: str = "all",
    seed: int = 0,
    *,
    accuracy: float = 0.8,
    pruned: float = 0.0,
    study: str = "curve",
    per_class: dict[str, list[int]] | None = None,
    classes: int = CLASSES,
    **changes: Any,
) -> dict[str, Any]:
    """A point whose classes all have `accuracy`, of 100 evaluated rows each, or the classes given; the first
    rows of a class are those got right."""
    counts = per_class or {f"c{k:02}": [round(ROWS * accuracy), ROWS] for k in range(classes)}
    total = sum(n for _, n in counts.values())
    right = sum(c for c, _ in counts.values())
    sampled = score not in ("all", "random", "stratified")
    return {
        "study": study,
        "noise": "",
        "noise_rate": 0.0,
        "score": score,
        "variant": "mean" if sampled else "",
        "sampling": "cut" if sampled else "",
        "pruned_end": "easy" if sampled else "",
        "pruned": pruned,
        "seed": seed,
        "n_train": round(1000 * (1 - pruned)),
        "mislabelled": None,
        "accuracy": right / total,
        "macro_accuracy": float(np.mean([c / n for c, n in counts.values()])),
        "log_loss": 1.0,
        "per_class": counts,
        "per_group": {},
        "tail": counts[min(counts)],
        "right": np.concatenate([np.arange(n) < c for c, n in counts.values()]),
        **changes,
    }


def seeded(score: str, accuracies: list[float], **changes: Any) -> list[dict[str, Any]]:
    """A point per seed, with these accuracies."""
    return [point(score, s, accuracy=a, **changes) for s, a in enumerate(accuracies)]
