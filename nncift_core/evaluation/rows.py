"""What a model scores on held-out rows, row by row, under every metric that needs the model itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nncift_core.evaluation.choice import choice_accuracy
from nncift_core.evaluation.exact import exact_matches
from nncift_core.evaluation.generation import Answers, answers_to
from nncift_core.evaluation.held_out import HeldOut
from nncift_core.evaluation.loss import response_losses
from nncift_core.evaluation.metrics import GIVES
from nncift_core.evaluation.rouge import rouge_scores
from nncift_core.evaluation.similarity import Embeds, similarities
from nncift_core.finetune.rows import prompt_ids
from nncift_core.language_models import LanguageModel

Float64 = npt.NDArray[np.float64]
Progress = Callable[[int], None]

# A judge reads the stored answers, without the model.
BY_MODEL = tuple(name for name in GIVES if name != "judge")
_OF_ANSWERS = ("rouge", "similarity", "exact")


@dataclass(frozen=True)
class RowScores:
    """values: a name of `METRICS` -> [n], NaN where a row has none; generated: n greedy answers, None where
    none were asked for.

    counts, of the metrics asked for. "loss": truncated_rows (cut to the model's context). Answers:
    truncated_prompts (cut to leave room for an answer), unfinished_answers (ended by max_new_tokens).
    "rouge": empty_references (without a word that ROUGE knows; they score 0), rouge_clipped (rows of which
    only the first 512 words count). "similarity": similarity_cut (texts longer than the encoder reads).
    "choice": choice_rows_left_out (not multiple choice).
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
    answers: bool = False,
    encoder: Embeds | None = None,
    prefix: str = "",
    prompts: Sequence[list[int]] | None = None,
    progress: Progress | None = None,
) -> RowScores:
    """Score `rows` by `metrics`, names of `BY_MODEL`; "rouge" gives rouge1 and rougeL. One generation serves
    all that read answers.

    template: text before a response, with {prompt}; max_new_tokens: length of answers; batch_tokens:
    tokens of a batch, padding included (memory only); answers: generate some even if no metric reads them;
    encoder, prefix: for "similarity", as for `similarities`; prompts: ids of what stands before each response
    or answer, instead of the filled template; progress: called with rows done since the last call, len(rows)
    for each metric in all, and with 0 as a sign of life. Raises ValueError for another metric or no encoder,
    and like the metrics.
    """
    unknown = set(metrics) - set(BY_MODEL)
    if unknown:
        raise ValueError(f"unknown metric {sorted(unknown)[0]!r}")
    ids = prompt_ids(model, rows.prompts, template) if prompts is None else list(prompts)
    values: dict[str, Float64] = {}
    counts: dict[str, int] = {}
    if "loss" in metrics:
        values["loss"], counts["truncated_rows"] = response_losses(
            model, rows, template, batch_tokens, progress, ids
        )
    readers = [name for name in _OF_ANSWERS if name in metrics]
    generated = None
    if readers or answers:
        # The first metric that reads the answers has the generation's progress for its own. All else that
        # takes its time gives signs of life: a worker that is silent for long is ended.
        alive = _alive(progress)
        found = answers_to(
            model, ids, max_new_tokens=max_new_tokens, batch_tokens=batch_tokens,
            progress=progress if readers else alive,
        )  # fmt: skip
        generated = found.texts
        counts |= {"truncated_prompts": found.truncated_prompts, "unfinished_answers": found.unfinished}
        for k, name in enumerate(readers):
            _score_answers(name, rows, found, encoder, prefix, values, counts, alive)
            if k and progress is not None:
                progress(len(rows))
    if "choice" in metrics:
        values["choice"], counts["choice_rows_left_out"] = choice_accuracy(
            model, rows, template, batch_tokens, progress, ids
        )
    return RowScores(values, generated, counts)


def _alive(progress: Progress | None) -> Progress | None:
    """`progress` without its count, for work whose rows are told elsewhere."""
    return None if progress is None else lambda _: progress(0)


def _score_answers(
    name: str,
    rows: HeldOut,
    found: Answers,
    encoder: Embeds | None,
    prefix: str,
    values: dict[str, Float64],
    counts: dict[str, int],
    alive: Progress | None,
) -> None:
    """Add what the metric `name` says of the answers `found`."""
    if name == "rouge":
        rouge = rouge_scores(rows.responses, found.texts, alive)
        values |= {"rouge1": rouge.rouge1, "rougeL": rouge.rougeL}
        counts |= {"empty_references": rouge.empty_references, "rouge_clipped": rouge.clipped}
    elif name == "exact":
        values["exact"] = exact_matches(rows.responses, found.texts)
    else:
        if encoder is None:
            raise ValueError("similarity needs an encoder")
        values["similarity"], counts["similarity_cut"] = similarities(
            encoder, rows.responses, found.texts, prefix, alive
        )
