"""What a model scores on held-out rows, row by row: response loss and ROUGE of greedy answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nncift_core.errors import RunError
from nncift_core.evaluation.generation import greedy_answers
from nncift_core.evaluation.rouge import rouge_scores
from nncift_core.language_models import LanguageModel
from nncift_core.sequences import fill, fit, plan_batches

Float64 = npt.NDArray[np.float64]
Progress = Callable[[int], None]


@dataclass(frozen=True)
class Metric:
    """A number per held-out row; a model's value is its mean over rows."""

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
    )
}


@dataclass(frozen=True)
class HeldOut:
    """Rows to evaluate on: n prompts, n reference responses. Raises ValueError for unequal numbers."""

    prompts: tuple[str, ...]
    responses: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.prompts) != len(self.responses):
            raise ValueError(f"{len(self.prompts)} prompts but {len(self.responses)} responses")

    def __len__(self) -> int:
        return len(self.prompts)


@dataclass(frozen=True)
class RowScores:
    """values: a name of `METRICS` -> [n]; generated: n greedy answers, None without "rouge".

    counts, of the metrics asked for. "loss": truncated_rows (cut to the model's context). "rouge":
    truncated_prompts (cut to leave room for an answer), unfinished_answers (ended by max_new_tokens),
    empty_references (without a word that ROUGE knows; they score 0), rouge_clipped (rows of which only
    the first 512 words count).
    """

    values: dict[str, Float64]
    generated: tuple[str, ...] | None
    counts: dict[str, int]


def score_rows(
    model: LanguageModel,
    rows: HeldOut,
    template: str,
    metrics: Sequence[str],
    *,
    max_new_tokens: int,
    batch_tokens: int,
    progress: Progress | None = None,
) -> RowScores:
    """Score `rows`: "loss" gives loss, "rouge" gives rouge1 and rougeL.

    template: text before a response, with {prompt}; max_new_tokens: length of answers; batch_tokens:
    tokens of a batch, padding included (memory only); progress: called with rows done since the last
    call, len(rows) for each metric in all. Raises ValueError for another metric, and like
    `response_losses` and `greedy_answers`.
    """
    unknown = set(metrics) - {"loss", "rouge"}
    if unknown:
        raise ValueError(f"unknown metric {sorted(unknown)[0]!r}")
    values: dict[str, Float64] = {}
    counts: dict[str, int] = {}
    generated = None
    if "loss" in metrics:
        values["loss"], counts["truncated_rows"] = response_losses(
            model, rows, template, batch_tokens, progress
        )
    if "rouge" in metrics:
        prompts = [fill(template, prompt=prompt) for prompt in rows.prompts]
        answers = greedy_answers(
            model, prompts, max_new_tokens=max_new_tokens, batch_tokens=batch_tokens, progress=progress
        )
        scores = rouge_scores(rows.responses, answers.texts)
        values |= {"rouge1": scores.rouge1, "rougeL": scores.rougeL}
        generated = answers.texts
        counts |= {
            "truncated_prompts": answers.truncated_prompts,
            "unfinished_answers": answers.unfinished,
            "empty_references": scores.empty_references,
            "rouge_clipped": scores.clipped,
        }
    return RowScores(values, generated, counts)


def response_losses(
    model: LanguageModel,
    rows: HeldOut,
    template: str,
    batch_tokens: int,
    progress: Progress | None = None,
) -> tuple[Float64, int]:
    """Loss of every row [n], -1/T sum_t log p(y_t | prompt, y_<t) over its T response tokens with eos, in
    nats a token; and how many rows were cut to the context.

    Raises UserError when a filled prompt has no tokens, RunError for a loss that is not finite.
    """
    prompts = model.tokenize([fill(template, prompt=prompt) for prompt in rows.prompts])
    responses = model.tokenize(rows.responses)
    fitted = [
        fit(model, prompt, [*response, model.eos_id], "finetune.template")
        for prompt, response in zip(prompts, responses, strict=True)
    ]
    lengths = np.array([len(prompt) + len(response) for prompt, response, _ in fitted], np.int64)
    losses = np.empty(len(rows), np.float64)
    for batch in plan_batches(lengths, batch_tokens):
        log_probs = model.response_log_probs([fitted[k][0] for k in batch], [fitted[k][1] for k in batch])
        losses[batch] = [-values.mean(dtype=np.float64) for values in log_probs]
        if not np.isfinite(losses[batch]).all():
            raise RunError(
                "a held-out row has a loss that is not a finite number: train with a lower learning_rate, "
                'or use dtype = "float32" or "bfloat16"'
            )
        if progress is not None:
            progress(len(batch))
    return losses, sum(cut for _, _, cut in fitted)
