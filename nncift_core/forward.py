"""Forward passes of a language model: log-probabilities of responses, and prefixes that many rows share.

Sequences are padded on the right, whatever the tokenizer's side is, by repeating their own last token:
attention is causal, so nothing that counts ever looks at padding, and no model needs a pad token or a mask.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

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
class Prefix:
    """Keys and values of one prefix, on the model's device.

    length: its tokens; layers: per layer, keys and values [1, heads, length, head size].
    """

    length: int
    layers: tuple[tuple[torch.Tensor, torch.Tensor], ...]


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
    model: LanguageModel, prompts: Sequence[Ids], responses: Sequence[Ids], prefix: Prefix | None = None
) -> list[Float32]:
    """log p(y_t | prefix, prompt, y_<t) of every response token, teacher-forced, in one forward pass.

    prompts, responses: n sequences of ids. With a prefix, `prompts` holds what follows it; at least one token
    of every prompt stays outside of the prefix, for it predicts the first response token. Log-softmax in
    float32. Returns n arrays [T_k], T_k = len(responses[k]). Raises ValueError for an empty sequence.
    """
    batch = response_batch(model, prompts, responses)
    return np.split(batch_log_probs(model, batch, prefix), batch.starts[1:])


def response_batch(model: LanguageModel, prompts: Sequence[Ids], responses: Sequence[Ids]) -> Batch:
    """The sequences prompts[k] ++ responses[k], ready for `batch_log_probs`.

    Raises ValueError for an empty prompt or response.
    """
    if not all(map(len, prompts)) or not all(map(len, responses)):
        raise ValueError("every prompt and every response needs at least one token")
    # The last response token is predicted and never read, so it is left out of the input.
    inputs = [[*p, *r[:-1]] for p, r in zip(prompts, responses, strict=True)]
    sizes = np.array([len(r) for r in responses])
    ends = np.array([len(ids) for ids in inputs])
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


def batch_log_probs(model: LanguageModel, batch: Batch, prefix: Prefix | None = None) -> Float32:
    """log p of `batch.labels` [K], in float32, one sequence after the other; see `response_log_probs`."""
    with torch.inference_mode():
        logits, _ = _logits_at(model, batch.ids, batch.where, prefix)
        found: Float32 = _label_log_probs(logits, batch.labels).cpu().numpy()
    return found


def next_token_log_probs(
    model: LanguageModel, prompts: Sequence[Ids], token_ids: Ids, prefix: Prefix | None = None
) -> Float32:
    """log p(token | prefix, prompt) of each of `token_ids` [k] as the next token, in one forward pass.

    prompts: n sequences of ids, at least one long, with a prefix what follows it. Returns [n, k], log-softmax
    over the whole vocabulary in float32; the output layer is computed at the last tokens only. Raises
    ValueError for an empty prompt.
    """
    if not all(map(len, prompts)):
        raise ValueError("every prompt needs at least one token")
    n = len(prompts)
    last = torch.tensor([len(ids) - 1 for ids in prompts], device=model.device)
    rows = torch.arange(n, device=model.device)
    chosen = torch.tensor(list(token_ids), device=model.device)
    with torch.inference_mode():
        logits, _ = _logits_at(model, _padded(prompts).to(model.device), (rows, last), prefix)
        scores = logits.float()
        found: Float32 = (scores[:, chosen] - torch.logsumexp(scores, 1, keepdim=True)).cpu().numpy()
    return found


def encode_prefixes(model: LanguageModel, prefixes: Sequence[Ids]) -> list[Prefix]:
    """Keys and values of each prefix (at least one token long), by one padded forward pass, without logits.

    Only for models that `can_share`. Raises ValueError for an empty prefix.
    """
    if not all(map(len, prefixes)):
        raise ValueError("a prefix needs at least one token")
    first = torch.zeros(1, dtype=torch.long, device=model.device)
    with torch.inference_mode():
        _, cache = _logits_at(model, _padded(prefixes).to(model.device), (first, first), None, keep=True)
        return [
            Prefix(
                len(ids),
                tuple(
                    (x.keys[k : k + 1, :, : len(ids)].clone(), x.values[k : k + 1, :, : len(ids)].clone())
                    for x in cache.layers
                ),
            )
            for k, ids in enumerate(prefixes)
        ]


def can_share(model: LanguageModel) -> bool:
    """Whether prefixes of this model can be computed once and shared; looked at once per model.

    Asks for a cache of keys and values of every token in every layer (no sliding window, no state, nothing
    quantised), and for log-probabilities that a prefix does not change. Logs a warning when they do.
    """
    if model.model not in _sharing:
        _sharing[model.model] = _plain_cache(model) and _agrees(model)
    return _sharing[model.model]


class _PrefixLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """A layer's keys and values of a prefix: handed out with the new ones after them, which are not kept."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.lazy_initialization(keys, values)
        self.keys: torch.Tensor = keys
        self.values: torch.Tensor = values

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.cat([self.keys, key_states], -2), torch.cat([self.values, value_states], -2)


def _padded(sequences: Sequence[Ids]) -> torch.Tensor:
    """ids [n, longest], each row filled up with its last token."""
    ids = np.empty((len(sequences), max(map(len, sequences))), np.int64)
    for k, sequence in enumerate(sequences):
        ids[k, : len(sequence)] = sequence
        ids[k, len(sequence) :] = sequence[-1]
    return torch.from_numpy(ids)


def _logits_at(
    model: LanguageModel,
    ids: torch.Tensor,
    where: tuple[torch.Tensor, torch.Tensor],
    prefix: Prefix | None,
    keep: bool = False,
) -> tuple[torch.Tensor, Any]:
    """Logits [K, V] at the K (row, column) positions `where` of ids [n, q]; and the cache, if to `keep` it.

    The hidden states are gathered just before the output layer, inside the model's own forward
    pass, so that whatever a model does to its logits (scaling, soft-capping) still happens.
    A model whose output layer is not called in the usual way gets full logits.
    """
    shape, count = ids.shape, len(where[0])
    gathered: list[bool] = []

    def gather(_module: Any, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        hidden = args[0] if args else None
        if hidden is None or hidden.dim() != 3 or hidden.shape[:2] != shape:
            return None
        gathered.append(True)
        return (hidden[where].unsqueeze(0), *args[1:])

    def forward() -> Any:
        return model.model(input_ids=ids, **_past(model, ids, prefix, keep))

    head = model.model.get_output_embeddings()
    hook = None if head is None else head.register_forward_pre_hook(gather)
    try:
        out = forward()
    finally:
        if hook is not None:
            hook.remove()
    if gathered and out.logits.shape[:2] == (1, count):
        return out.logits[0], out.get("past_key_values")
    if gathered:
        out = forward()
    return out.logits[where], out.get("past_key_values")


def _past(model: LanguageModel, ids: torch.Tensor, prefix: Prefix | None, keep: bool) -> dict[str, Any]:
    """What a forward pass over ids [n, q] is told of what comes before them."""
    if prefix is None:
        return {"use_cache": keep}
    n, q = ids.shape
    layers = [_PrefixLayer(k.expand(n, *k.shape[1:]), v.expand(n, *v.shape[1:])) for k, v in prefix.layers]
    past: dict[str, Any] = {"use_cache": True, "past_key_values": DynamicCache()}
    past["past_key_values"].layers = layers
    if "position_ids" in inspect.signature(model.model.forward).parameters:
        positions = torch.arange(prefix.length, prefix.length + q, device=ids.device)
        past["position_ids"] = positions[None].expand(n, q)
    return past


def _label_log_probs(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """log softmax(logits)[k, labels[k]] in float32: logits [K, V], labels [K] -> [K].

    Goes through the rows in pieces, so that float32 copies of a large vocabulary stay small.
    """
    rows = max(1, _LOGITS_AT_ONCE // logits.shape[1])
    pieces = []
    for piece, label in zip(torch.split(logits, rows), torch.split(labels, rows), strict=True):
        scores = piece.float()
        chosen = scores.gather(1, label[:, None]).squeeze(1)
        pieces.append(chosen - torch.logsumexp(scores, dim=1))
    return torch.cat(pieces)


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
    """Whether two padded rows give the same log-probabilities with a shared prefix as without."""
    start, tails = _sample(model, 1, 9), [_sample(model, 2, 4), _sample(model, 3, 2)]
    responses = [_sample(model, 4, 4), _sample(model, 5, 7)]
    whole = response_log_probs(model, [start + tail for tail in tails], responses)
    (prefix,) = encode_prefixes(model, [start])
    shared = response_log_probs(model, tails, responses, prefix)
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
