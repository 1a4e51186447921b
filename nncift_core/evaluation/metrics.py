"""The metrics of an evaluation: what each is called, and which way it points."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """A number per held-out row; a model's value is its mean over the rows that have one."""

    name: str
    higher_is_better: bool
    unit: str
    description: str


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("loss", False, "nats a token", "mean of -log p over a response's tokens, its end included"),
        Metric("rouge1", True, "F-measure, 0 to 1", "words shared by the greedy answer and the reference"),
        Metric(
            "rougeL", True, "F-measure, 0 to 1", "longest common subsequence of words of answer and reference"
        ),
        Metric("similarity", True, "cosine, -1 to 1", "embeddings of the greedy answer and the reference"),
        Metric("exact", True, "share, 0 to 1", "the greedy answer is the reference, after normalisation"),
        Metric("choice", True, "share, 0 to 1", "of the prompt's options the right one is the most likely"),
        Metric("judge", True, "grade, 1 to 5", "a language model's grade of the greedy answer by a rubric"),
    )
}

# By its name in `evaluation.metrics`: the metrics that it gives.
GIVES: dict[str, tuple[str, ...]] = {
    "loss": ("loss",),
    "rouge": ("rouge1", "rougeL"),
    "similarity": ("similarity",),
    "exact": ("exact",),
    "choice": ("choice",),
    "judge": ("judge",),
}
