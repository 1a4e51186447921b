"""Response loss of held-out rows under a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from nncift_core.errors import RunError
from nncift_core.evaluation.held_out import HeldOut
from nncift_core.language_models import LanguageModel
from nncift_core.sequences import encode_prompts, fit, plan_batches

Float64 = npt.NDArray[np.float64]
Progress = Callable[[int], None]


def response_losses(
    model: LanguageModel,
    rows: HeldOut,
    template: str,
    batch_tokens: int,
    progress: Progress | None = None,
    prompts: Sequence[list[int]] | None = None,
) -> tuple[Float64, int]:
    """Loss of every row [n], -1/T sum_t log p(y_t | prompt, y_<t) over its T response tokens with eos, in
    nats a token; and how many rows were cut to the context.

    prompts: ids of what stands before each response, instead of the filled `template`. Raises UserError
    when a filled prompt has no tokens, RunError for a loss that is not finite.
    """
    before = encode_prompts(model, rows.prompts, template) if prompts is None else prompts
    responses = model.tokenize(rows.responses)
    fitted = [
        fit(model, prompt, [*response, model.eos_id], "finetune.template")
        for prompt, response in zip(before, responses, strict=True)
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
