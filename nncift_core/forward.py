"""Forward passes of a language model: log-probabilities of responses, and prefixes that many rows share.

Sequences are padded on the right, whatever the tokenizer's side is, by repeating their own last token:
attention is causal, so nothing that counts ever looks at padding, and no model needs a pad token or a mask.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import cross_entropy
from transformers.cache_utils import DynamicLayer

from nncift_core.last_layer import trimmable, trimmed
from nncift_core.prefixes import Prefix as Prefix
from nncift_core.prefixes import Prefixes, past
from nncift_core.rotary import forget_lengths, length_dependent

if TYPE_CHECKING:
    from nncift_core.language_models import LanguageModel

Float32 = npt.NDArray[np.float32]
Ids = Sequence[int]

_LOGITS_AT_ONCE = 1 << 25
# How far log-probabilities with and without a shared prefix may lie apart, on average, in nats.
_EXACT, _ROUNDED = 1e-3, 0.15

_log = logging.getLogger(__name__)
_sharing: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


@dataclass(frozen=True)
class Batch:
    """n sequences ready for a forward pass.

    ids [n, longest]; where: row and column [K] of the positions whose next token is asked for;
    labels [K]: those tokens; starts [n]: where each sequence's part of the K begins.
    """

    ids: torch.Tensor
    where: tuple[torch.Tensor, torch.Tensor]
    labels: torch.Tensor
    starts: npt.NDArray[np.int64]


def response_log_probs(
    model: LanguageModel,
    prompts: Sequence[Ids],
    responses: Sequence[Ids],
    prefix: Prefix | Prefixes | None = None,
) -> list[Float32]:
    """log p(y_t | prefix, prompt, y_<t) of every response token, teacher-forced, in one forward pass.

    prompts, responses: n sequences of ids. With a prefix, `prompts` holds what follows it; at least one token
    of every prompt stays outside of the prefix, for it predicts the first response token. Log-softmax in
    float32. Returns n arrays [T_k], T_k = len(responses[k]), or with g prefixes g x n of them, prefix by
    prefix. Raises ValueError for an empty sequence. A model that wants them `one_at_a_time` takes n passes.
    """
    if prefix is None and len(prompts) > 1 and one_at_a_time(model):
        pairs = zip(prompts, responses, strict=True)
        return [part for p, r in pairs for part in response_log_probs(model, [p], [r])]
    batch = response_batch(model, prompts, responses)
    found = batch_log_probs(model, batch, prefix)
    return [part for row in found for part in np.split(row, batch.starts[1:])]


def response_batch(model: LanguageModel, prompts: Sequence[Ids], responses: Sequence[Ids]) -> Batch:
    """The sequences prompts[k] ++ responses[k], ready for `batch_log_probs`.

    Raises ValueError for an empty prompt or response.
    """
    if not all(map(len, prompts)) or not all(map(len, responses)):
        raise ValueError("every prompt and every response needs at least one token")
    # The last response token is predicted and never read, so it is left out of the input, except where the
    # length of the whole sequence counts.
    last = None if one_at_a_time(model) else -1
    inputs = [[*p, *r[:last]] for p, r in zip(prompts, responses, strict=True)]
    sizes = np.array([len(r) for r in responses])
    ends = np.array([len(p) + len(r) - 1 for p, r in zip(prompts, responses, strict=True)])
    row = np.repeat(np.arange(len(inputs)), sizes)
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    column = np.arange(len(row)) - np.repeat(starts - ends + sizes, sizes)
    labels = torch.tensor([y for r in responses for y in r])
    return Batch(
        _padded(inputs).to(model.device),
        (torch.from_numpy(row).to(model.device), torch.from_numpy(column).to(model.device)),
        labels.to(model.device),
        starts,
    )


def batch_log_probs(model: LanguageModel, batch: Batch, prefix: Prefix | Prefixes | None = None) -> Float32:
    """log p of `batch.labels` [g, K] after each of g prefixes (1 without any), in float32.

    The K are one sequence after the other; see `response_log_probs`.
    """
    g, n = len(prefix) if isinstance(prefix, Prefixes) else 1, len(batch.ids)
    row, column = batch.where
    if g > 1:
        row = (row + n * torch.arange(g, device=row.device)[:, None]).flatten()
        column = column.repeat(g)
    with torch.inference_mode():
        logits, _ = logits_at(model, batch.ids.repeat(g, 1), (row, column), prefix)
        found: Float32 = _label_log_probs(logits, batch.labels.repeat(g)).cpu().numpy()
    return found.reshape(g, -1)


def next_token_log_probs(
    model: LanguageModel, prompts: Sequence[Ids], token_ids: Ids, prefix: Prefix | Prefixes | None = None
) -> Float32:
    """log p(token | prefix, prompt) of each of `token_ids` [k] as the next token, in one forward pass.

    prompts: n sequences of ids, at least one long, with a prefix what follows it. Returns [n, k], or with g
    prefixes [g x n, k], prefix by prefix; log-softmax over the whole vocabulary in float32. The output layer
    is computed at the last tokens only. Raises ValueError for an empty prompt.
    """
    if not all(map(len, prompts)):
        raise ValueError("every prompt needs at least one token")
    g = len(prefix) if isinstance(prefix, Prefixes) else 1
    last = torch.tensor([len(ids) - 1 for ids in prompts], device=model.device).repeat(g)
    rows = torch.arange(len(last), device=model.device)
    chosen = torch.tensor(list(token_ids), device=model.device)
    with torch.inference_mode():
        ids = _padded(prompts).to(model.device).repeat(g, 1)
        logits, _ = logits_at(model, ids, (rows, last), prefix)
        scores = logits.float()
        found: Float32 = (scores[:, chosen] - torch.logsumexp(scores, 1, keepdim=True)).cpu().numpy()
    return found


def encode_prefixes(model: LanguageModel, prefixes: Sequence[Ids]) -> list[Prefix]:
    """Keys and values of each prefix (at least one token long), by one padded forward pass, without logits.

    Only for models that `can_share`. Raises ValueError for an empty prefix.
    """
    together = encode_together(model, prefixes)
    return [together.one(k) for k in range(len(together))]


def encode_together(model: LanguageModel, prefixes: Sequence[Ids]) -> Prefixes:
    """As `encode_prefixes`, in one piece: for sequences that follow every one of these prefixes."""
    if not all(map(len, prefixes)):
        raise ValueError("a prefix needs at least one token")
    first = torch.zeros(1, dtype=torch.long, device=model.device)
    with torch.inference_mode():
        _, cache = logits_at(model, _padded(prefixes).to(model.device), (first, first), None, keep=True)
    return Prefixes(tuple(map(len, prefixes)), tuple((x.keys, x.values) for x in cache.layers))


def can_share(model: LanguageModel) -> bool:
    """Whether prefixes of this model can be computed once and shared; looked at once per model.

    Asks for a cache of keys and values of every token in every layer (no sliding window, no state, nothing
    quantised), for angles that no length changes (`one_at_a_time`), and for log-probabilities that a prefix
    does not change. Logs a warning when they do.
    """
    if model.model not in _sharing:
        _sharing[model.model] = not one_at_a_time(model) and _plain_cache(model) and _agrees(model)
    return _sharing[model.model]


def one_at_a_time(model: LanguageModel) -> bool:
    """Whether the longest sequence of a pass changes the values of all others, padded or not (`rotary`).

    Such a model takes one sequence in a pass, whole, and shares no prefix.
    """
    return length_dependent(model.model)


def _padded(sequences: Sequence[Ids]) -> torch.Tensor:
    """ids [n, longest], each row filled up with its last token."""
    ids = np.empty((len(sequences), max(map(len, sequences))), np.int64)
    for k, sequence in enumerate(sequences):
        ids[k, : len(sequence)] = sequence
        ids[k, len(sequence) :] = sequence[-1]
    return torch.from_numpy(ids)


def logits_at(
    model: LanguageModel,
    ids: torch.Tensor,
    where: tuple[torch.Tensor, torch.Tensor],
    prefix: Prefix | Prefixes | None,
    keep: bool = False,
) -> tuple[torch.Tensor, Any]:
    """Logits [K, V] at the K (row, column) positions `where` of ids [n, q]; and the cache, if to `keep` it.

    The hidden states are gathered just before the output layer, inside the model's own forward
    pass, so that whatever a model does to its logits (scaling, soft-capping) still happens.
    A model whose output layer is not called in the usual way gets full logits. Without gradients, the last
    layer's feed-forward part is computed at `where` only, too (`last_layer`).
    """
    if torch.is_grad_enabled():
        return _logits_at(model, ids, where, prefix, keep, None)
    part = trimmable(model.model, lambda module: _trial(model, module))
    return _logits_at(model, ids, where, prefix, keep, part)


def _trial(model: LanguageModel, part: torch.nn.Module | None) -> torch.Tensor:
    """Logits at some positions of two short rows, with `part` trimmed."""
    ids = torch.tensor([_sample(model, 7, 4), _sample(model, 8, 4)], device=model.device)
    where = (torch.tensor([0, 0, 1], device=model.device), torch.tensor([1, 3, 2], device=model.device))
    return _logits_at(model, ids, where, None, False, part)[0]


def _logits_at(
    model: LanguageModel,
    ids: torch.Tensor,
    where: tuple[torch.Tensor, torch.Tensor],
    prefix: Prefix | Prefixes | None,
    keep: bool,
    part: torch.nn.Module | None,
) -> tuple[torch.Tensor, Any]:
    """`logits_at` with the feed-forward part `part` trimmed."""
    shape, count = (ids.shape[0], ids.shape[1]), len(where[0])
    gathered: list[bool] = []

    def gather(_module: Any, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        hidden = args[0] if args else None
        if hidden is None or hidden.dim() != 3 or hidden.shape[:2] != shape:
            return None
        gathered.append(True)
        # The model may be spread over several devices, and `where` lies on the first.
        return (hidden[on(hidden.device, where)].unsqueeze(0), *args[1:])

    def forward() -> Any:
        if one_at_a_time(model):
            forget_lengths(model.model)
        return model.model(input_ids=ids, **past(model.model, ids, prefix, keep))

    head = model.model.get_output_embeddings()
    hook = None if head is None else head.register_forward_pre_hook(gather)
    try:
        with trimmed(part, shape, where if part is None else on(_device(part), where)):
            out = forward()
    finally:
        if hook is not None:
            hook.remove()
    if gathered and out.logits.shape[:2] == (1, count):
        return out.logits[0], out.get("past_key_values")
    if gathered:
        out = forward()
    return out.logits[where], out.get("past_key_values")


def on(device: torch.device, where: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Row and column of positions, on `device`."""
    return where[0].to(device), where[1].to(device)


def _device(module: torch.nn.Module) -> torch.device:
    return next(module.parameters()).device


def _label_log_probs(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """log softmax(logits)[k, labels[k]] in float32: logits [K, V], labels [K] -> [K].

    Goes through the rows in pieces, so that float32 copies of a large vocabulary stay small.
    """
    rows = max(1, _LOGITS_AT_ONCE // logits.shape[1])
    pieces = zip(torch.split(logits, rows), torch.split(labels, rows), strict=True)
    return torch.cat([-cross_entropy(piece.float(), label, reduction="none") for piece, label in pieces])


def _plain_cache(model: LanguageModel) -> bool:
    """Whether a forward pass returns keys and values [1, heads, tokens, head size] for every layer."""
    ids = _sample(model, 0, 5)
    if model.context_length is not None and model.context_length < 32:
        return False
    with torch.inference_mode():
        out = model.model(input_ids=torch.tensor([ids], device=model.device), use_cache=True)
    layers = getattr(out.get("past_key_values"), "layers", [])
    return bool(layers) and all(_is_plain(layer, len(ids)) for layer in layers)


def _is_plain(layer: Any, length: int) -> bool:
    if type(layer) is not DynamicLayer or layer.keys is None or layer.values is None:
        return False
    return all(x.dim() == 4 and x.shape[2] == length for x in (layer.keys, layer.values))


def _agrees(model: LanguageModel) -> bool:
    """Whether two prefixes and two padded rows give the same log-probabilities shared as whole."""
    starts, tails = [_sample(model, 1, 9), _sample(model, 6, 6)], [_sample(model, 2, 4), _sample(model, 3, 2)]
    responses = [_sample(model, 4, 4), _sample(model, 5, 7)]
    whole = response_log_probs(model, [s + tail for s in starts for tail in tails], responses * 2)
    shared = response_log_probs(model, tails, responses, encode_together(model, starts))
    apart = float(np.abs(np.concatenate(whole) - np.concatenate(shared)).mean())
    exact = next(iter(model.model.parameters())).dtype in (torch.float32, torch.float64)
    if apart <= (_EXACT if exact else _ROUNDED):
        return True
    _log.warning("shared prefixes change this model's log-probabilities by %.2g: doing without them", apart)
    return False


def _sample(model: LanguageModel, seed: int, count: int) -> list[int]:
    """Some ids of the vocabulary, always the same."""
    vocabulary = int(model.model.get_input_embeddings().num_embeddings)
    drawn: list[int] = np.random.default_rng(seed).integers(0, vocabulary, count).tolist()
    return drawn
