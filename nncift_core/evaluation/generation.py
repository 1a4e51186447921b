"""Greedy answers of a causal language model, in batches.

The most probable token at every step, whatever sampling, penalties or suppressed tokens the model's own
generation settings ask for; only the tokens they stop at are kept, beside the end-of-sequence token.
Prompts are padded on the left and masked, so an answer does not depend on its batch, except where two
tokens are so nearly tied that the rounding of another batch shape decides between them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from nncift_core.errors import UserError
from nncift_core.hub import quiet
from nncift_core.language_models import LanguageModel
from nncift_core.sequences import fit, plan_batches

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Answers:
    """texts: n answers, special tokens left out; truncated_prompts: prompts that lost their first tokens
    to make room; unfinished: answers that `max_new_tokens` ended."""

    texts: tuple[str, ...]
    truncated_prompts: int
    unfinished: int


def check_room(model: LanguageModel, max_new_tokens: int) -> None:
    """Raise UserError when answers of `max_new_tokens` leave no room for a prompt in the model's context."""
    limit = model.context_length
    most = None if limit is None else limit - len(model.bos_ids) - 1
    if most is not None and max_new_tokens > most:
        raise UserError(
            f"{max_new_tokens} tokens of answer leave no room for a prompt in a context of {limit}",
            field="evaluation.max_new_tokens",
            mend=f"Set it well below {most}.",
        )


def greedy_answers(
    model: LanguageModel,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    batch_tokens: int,
    progress: Progress | None = None,
) -> Answers:
    """Answers to n filled prompts, of at most `max_new_tokens` tokens each.

    A prompt too long for the context loses its first tokens. Longest prompts come first; a batch holds
    at most `batch_tokens` tokens, padding and room for the answers included (one prompt at least).
    progress: called with the prompts answered since the last call. Raises UserError when no room is left
    for a prompt, or a prompt has no tokens.
    """
    return answers_to(
        model,
        model.tokenize(prompts),
        max_new_tokens=max_new_tokens,
        batch_tokens=batch_tokens,
        progress=progress,
    )


def answers_to(
    model: LanguageModel,
    prompts: Sequence[list[int]],
    *,
    max_new_tokens: int,
    batch_tokens: int,
    progress: Progress | None = None,
) -> Answers:
    """As `greedy_answers`, to n prompts given as ids without BOS."""
    check_room(model, max_new_tokens)
    room = [model.eos_id] * max_new_tokens
    fitted = [fit(model, ids, room, "finetune.template") for ids in prompts]
    lengths = np.array([len(ids) + max_new_tokens for ids, _, _ in fitted], np.int64)
    texts = [""] * len(fitted)
    unfinished = 0
    for batch in plan_batches(lengths, batch_tokens):
        answers = _generate(model, [fitted[k][0] for k in batch], max_new_tokens)
        for k, (ids, finished) in zip(batch.tolist(), answers, strict=True):
            texts[k] = model.tokenizer.decode(
                ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
            unfinished += not finished
        if progress is not None:
            progress(len(batch))
    return Answers(tuple(texts), sum(cut for _, _, cut in fitted), unfinished)


def _generate(
    model: LanguageModel, prompts: list[list[int]], max_new_tokens: int
) -> list[tuple[list[int], bool]]:
    """Of every prompt: the ids of its answer before the stop token, and whether there was one."""
    import torch
    from transformers import GenerationConfig

    inner = _inner(model.model)
    stops = _stop_ids(model, inner)
    width = max(len(ids) for ids in prompts)
    # The mask hides the padding, so any id does; eos is in every vocabulary.
    ids = np.full((len(prompts), width), model.eos_id, np.int64)
    mask = np.zeros((len(prompts), width), np.int64)
    for k, prompt in enumerate(prompts):
        ids[k, width - len(prompt) :] = prompt
        mask[k, width - len(prompt) :] = 1
    greedy = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=False,
        num_beams=1,
        max_new_tokens=max_new_tokens,
        eos_token_id=stops,
        pad_token_id=model.eos_id,
    )
    with quiet(), _plain_settings(inner), torch.inference_mode():
        out = inner.generate(
            input_ids=torch.from_numpy(ids).to(model.device),
            attention_mask=torch.from_numpy(mask).to(model.device),
            generation_config=greedy,
        )
    return [_until_stop(answer, stops) for answer in out[:, width:].tolist()]


def _inner(model: Any) -> Any:
    """The model itself under LoRA adapters, whose layers stand inside it."""
    unwrap = getattr(model, "get_base_model", None)
    return model if unwrap is None else unwrap()


def _stop_ids(model: LanguageModel, inner: Any) -> list[int]:
    own = inner.generation_config.eos_token_id
    listed = own if isinstance(own, list) else [] if own is None else [own]
    return sorted({model.eos_id, *listed})


@contextmanager
def _plain_settings(inner: Any) -> Iterator[None]:
    """Set the model's own generation settings aside: `generate` fills every gap in ours from them."""
    from transformers import GenerationConfig

    own = inner.generation_config
    inner.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        inner.generation_config = own


def _until_stop(ids: list[int], stops: list[int]) -> tuple[list[int], bool]:
    for k, token in enumerate(ids):
        if token in stops:
            return ids[:k], True
    return ids, False
