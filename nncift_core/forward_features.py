"""Features of a text from forward passes of the influence model: no label, no gradient of a weight.

Of a prompt and its response y_1 .. y_T (end-of-sequence token included): h_t is the input of the output
layer at the position that predicts y_t, L_t = -log p(y_t | prompt, y_<t), and e_t = dL_t / dh_t. For an
output layer W that nothing follows, e_t = W^T (p_t - onehot(y_t)), with p_t the model's distribution at t.

    hidden  mean_t h_t, then the mean of the same layer over the filled prompt's positions       [2 h]
    error   mean_t e_t                                                                           [h]
    loss    mean_t L_t; and without the prompt: after BOS, or the last token of an empty prompt  [2]
    tokens  log(1 + tokens) of the filled prompt (BOS included) and of the response              [2]
    proxy   G = mean_t e_t h_t^T, sketched                                                       [min(h h, s)]

G is W^T dL/dW, the gradient of the mean response loss by the output layer's weight seen through that weight.
The cosine of two G is a label-free proxy of gradient similarity. Its h h numbers are kept as they are up to
s, beyond that count-sketched to s (`gradients.projection`): inner products keep their expectation, with a
standard error of about |G_i| |G_j| / sqrt(s).

e_t is computed by automatic differentiation of the output layer alone (`output_layer`), in one product. A
model whose output layer does not take its hidden states in the usual way has none of these features but loss
and tokens: h = 0.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from nncift_core.batching import TokenBudget, slack_of
from nncift_core.errors import RunError
from nncift_core.hashing import digest, int63
from nncift_core.output_layer import look, slopes
from nncift_core.sequences import encode_prompts, fit

if TYPE_CHECKING:
    import torch

    from nncift_core.language_models import LanguageModel

# torch is imported where a model is used: keys and layouts are asked for while planning.

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]

# Raise this when the same model would give other features for the same text.
VERSION = 1
SKETCH = 4096

_SEED = int63("nncift gradient proxy")
# On the CPU larger batches only leave the caches (measured on the builtin model: 512-1,024 tokens).
_CPU_TOKENS = 1024
# Numbers held at once: logits of a batch, outer products that wait for the sketch.
_LOGITS, _PRODUCTS = 1 << 28, 1 << 25

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Layout:
    """Where the features lie in one vector of a text: loss, tokens, hidden, error, proxy.

    width: h; sketch: s, most numbers of the proxy.
    """

    width: int
    sketch: int = SKETCH

    @classmethod
    def of(cls, size: int, sketch: int = SKETCH) -> Layout:
        """The layout of vectors [size]; raises ValueError when there is none."""
        # The size grows with h, so one h at most fits.
        for width in range(size // 3 + 1):
            found = cls(width, sketch)
            if found.size == size:
                return found
            if found.size > size:
                break
        raise ValueError(f"no forward features of {size} numbers with a sketch of {sketch}")

    @property
    def proxy(self) -> int:
        """Numbers of the proxy."""
        return min(self.width**2, self.sketch)

    @property
    def size(self) -> int:
        """Numbers of a vector."""
        return 4 + 3 * self.width + self.proxy

    def split(self, vectors: Float32) -> dict[str, Float32]:
        """Views of vectors [n, size] by name; without those that h = 0 leaves empty."""
        h = self.width
        sizes = {"loss": 2, "tokens": 2, "hidden": 2 * h, "error": h, "proxy": self.proxy}
        ends = np.cumsum(list(sizes.values())).tolist()
        return {
            name: vectors[:, end - size : end]
            for (name, size), end in zip(sizes.items(), ends, strict=True)
            if size
        }


def forward_key(model_key: str, template: str, sketch: int = SKETCH) -> str:
    """Identity of the features under a model (by `language_model_key`) and a prompt template."""
    return digest({"forward": VERSION, "model": model_key, "template": template, "sketch": sketch})


class ForwardFeatures:
    """Forward-pass features under one model.

    counters: "truncated_feature_rows", rows that were cut to the model's context (rule: `sequences.fit`).
    """

    def __init__(
        self,
        model: LanguageModel,
        template: str,
        batch_tokens: int = 8192,
        sketch: int = SKETCH,
        field: str = "language_model.template",
    ) -> None:
        """template: text before a response, with {prompt} (a model with a chat template uses that instead);
        batch_tokens: of a forward pass, padding included (changes values by rounding only); field: the
        setting to name when the template gives a prompt without tokens."""
        from nncift_core.forward import one_at_a_time

        self.model, self.template, self.sketch, self.field = model, template, sketch, field
        self.counters: Counter[str] = Counter()
        # Logits and their slopes are held for a whole batch, at most one position per token.
        vocabulary = int(model.model.get_input_embeddings().num_embeddings)
        tokens = min(batch_tokens, max(1, _LOGITS // vocabulary))
        if model.device == "cpu":
            tokens = min(tokens, _CPU_TOKENS)
        single = one_at_a_time(model)
        self._budget = TokenBudget(tokens, slack_of(model.device), device=model.device, single=single)

    @cached_property
    def layout(self) -> Layout:
        """Found by one short pass; logs a warning for a model that shows no hidden states."""
        from nncift_core.forward import response_batch

        ids = [[self.model.eos_id]]
        seen = look(self.model, response_batch(self.model, ids, ids))
        if seen is None:
            _log.warning("the model's output layer shows no hidden states: only losses are features")
        return Layout(0 if seen is None else seen.inputs.shape[1], self.sketch)

    def compute(
        self,
        prompts: Sequence[str],
        responses: Sequence[str],
        progress: Callable[[int], None] | None = None,
    ) -> Float32:
        """Features of n texts, [n, layout.size]; progress(k): k more texts are done.

        Batches are longest first and halved when memory does not hold them. Raises UserError for a filled
        prompt without tokens, RunError for a text that memory does not hold.
        """
        examples = self._tokens(prompts, responses)
        out = np.empty((len(examples.prompts), self.layout.size), np.float32)
        parts = self.layout.split(out)
        sizes = [(len(p), len(r)) for p, r in zip(examples.prompts, examples.responses, strict=True)]
        lengths = np.array(sizes, np.int64).reshape(-1, 2)
        parts["tokens"][:] = np.log1p(lengths)
        start = self._nothing()

        def alone(batch: Int64) -> None:
            responses = examples.take(batch).responses
            parts["loss"][batch, 1] = self._losses(_Examples([start] * len(batch), responses))

        def whole(batch: Int64) -> None:
            some = examples.take(batch)
            found = self._features(some) if self.layout.width else {}
            parts["loss"][batch, 0] = found.pop("loss") if found else self._losses(some)
            for name, values in found.items():
                parts[name][batch] = values
            if progress is not None:
                progress(len(batch))

        self._budget.run(lengths[:, 1] + len(start), alone)
        self._budget.run(lengths.sum(axis=1), whole)
        return out

    def _tokens(self, prompts: Sequence[str], responses: Sequence[str]) -> _Examples:
        """Token ids of every text, cut to the context."""
        model = self.model
        filled = encode_prompts(model, prompts, self.template)
        fitted = [
            fit(model, prompt, [*response, model.eos_id], self.field)
            for prompt, response in zip(filled, model.tokenize(responses), strict=True)
        ]
        self.counters["truncated_feature_rows"] += sum(cut for _, _, cut in fitted)
        return _Examples([p for p, _, _ in fitted], [r for _, r, _ in fitted])

    def _nothing(self) -> list[int]:
        """What stands before a response without its prompt: no longer than what `fit` leaves room for."""
        if self.model.bos_ids:
            return list(self.model.bos_ids)
        return encode_prompts(self.model, [""], self.template)[0][-1:] or [self.model.eos_id]

    def _losses(self, examples: _Examples) -> Float32:
        """Mean loss of each response, [n]."""
        from nncift_core.forward import response_log_probs

        found = response_log_probs(self.model, examples.prompts, examples.responses)
        return np.array([-x.mean(dtype=np.float64) for x in found], np.float32)

    def _features(self, examples: _Examples) -> dict[str, Float32]:
        """What one forward pass over `examples` gives, by name; "loss" [n] is the one with the prompt."""
        import torch

        from nncift_core.forward import response_batch

        batch = response_batch(self.model, examples.prompts, examples.responses)
        seen = look(self.model, batch)
        if seen is None:
            raise RunError("the model's output layer took its hidden states in another way than before")
        losses, errors = slopes(seen, batch)
        sizes = [len(r) for r in examples.responses]
        h = torch.split(seen.inputs.detach().float(), sizes)
        e = torch.split(errors, sizes)
        prompt = [seen.hidden[k, : len(p)].float().mean(0) for k, p in enumerate(examples.prompts)]
        response = [x.mean(0) for x in h]
        found = {
            "loss": torch.stack([x.mean() for x in torch.split(losses, sizes)]),
            "hidden": torch.cat([torch.stack(response), torch.stack(prompt)], dim=1),
            "error": torch.stack([x.mean(0) for x in e]),
            "proxy": self._sketched(e, h),
        }
        return {name: values.cpu().numpy() for name, values in found.items()}

    def _sketched(self, e: Sequence[torch.Tensor], h: Sequence[torch.Tensor]) -> torch.Tensor:
        """The sketch of G of each example from e_t and h_t, [T, h] each; [n, proxy]."""
        import torch

        from nncift_core.gradients.projection import Projection

        numbers = self.layout.width**2
        projection = Projection(numbers, self.sketch, "count-sketch", _SEED)
        step = max(1, _PRODUCTS // numbers)
        parts = []
        for k in range(0, len(e), step):
            pairs = zip(e[k : k + step], h[k : k + step], strict=True)
            parts.append(projection.apply(torch.stack([(x.T @ y).flatten() / len(x) for x, y in pairs])))
        return torch.cat(parts)


@dataclass(frozen=True)
class _Examples:
    """Token ids of n prompts and responses."""

    prompts: list[list[int]]
    responses: list[list[int]]

    def take(self, index: Int64) -> _Examples:
        """Those at `index`."""
        return _Examples([self.prompts[k] for k in index], [self.responses[k] for k in index])
