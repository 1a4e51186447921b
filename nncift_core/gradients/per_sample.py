"""Gradients of each example's loss with respect to the adapters, many examples in one backward pass.

An adapted layer computes W x + (alpha / r) B A x. With a = A x, the gradient of example n's loss l_n is
    dl_n / dA = sum_t (dl_n / da[n, t]) x[n, t]^T,    dl_n / dB = sum_t (dl_n / db[n, t]) a[n, t]^T,  b = B a.
Examples do not mix in a forward pass, so one backward pass of sum_n l_n to the outputs a and b gives every
dl_n / da and dl_n / db at once; the sums over tokens are batched matrix products. No gradient with respect to
a weight is ever computed. Adapters are in float32, so their products are too, over weights of any dtype.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from nncift_core.batching import TokenBudget, is_out_of_memory, slack_of
from nncift_core.errors import UserError
from nncift_core.forward import Batch, logits_at, one_at_a_time, response_batch
from nncift_core.gradients.adapters import Adapted, lora_pair
from nncift_core.language_models import LanguageModel

Int64 = npt.NDArray[np.int64]

# In float16 the gradients of a mean over many tokens underflow on their way down.
_FLOAT16_SCALE = 1024.0
# Gradients that wait for a projection: bytes on the CPU, share of what is free elsewhere.
_CPU_BYTES, _FREE_SHARE = 512 << 20, 0.25
# Most rows that wait: beyond it, drawing the projection's signs costs next to nothing per row.
_MOST_ROWS = 1024
_CPU_TOKENS = 1024


@dataclass(frozen=True)
class Sequences:
    """n tokenised examples: prompts (with BOS) and responses (with eos), cut to the context."""

    prompts: Sequence[Sequence[int]]
    responses: Sequence[Sequence[int]]

    def __len__(self) -> int:
        return len(self.prompts)

    def lengths(self) -> Int64:
        """Tokens of each example that a forward pass reads, [n]; the last one is predicted only."""
        sizes = [len(p) + len(r) - 1 for p, r in zip(self.prompts, self.responses, strict=True)]
        return np.array(sizes, np.int64)

    def take(self, index: Int64) -> Sequences:
        """The examples at `index` [k], in that order."""
        chosen = index.tolist()
        return Sequences([self.prompts[i] for i in chosen], [self.responses[i] for i in chosen])


def token_losses(model: LanguageModel, sequences: Sequences) -> tuple[torch.Tensor, Batch]:
    """-log p of every response token, eos included, [K] in float32 with its graph; and the batch.

    Logits are computed at response positions only; dropout is as the model's mode says.
    """
    batch = response_batch(model, sequences.prompts, sequences.responses)
    logits, _ = logits_at(model, batch.ids, batch.where, None)
    return torch.nn.functional.cross_entropy(logits.float(), batch.labels, reduction="none"), batch


def gradient_scale(model: LanguageModel) -> float:
    """By what a loss is multiplied before it is differentiated, and its gradients divided after."""
    return _FLOAT16_SCALE if any(p.dtype == torch.float16 for p in model.model.parameters()) else 1.0


def gradient_budget(batch_tokens: int, device: str, single: bool = False) -> TokenBudget:
    """A budget for backward passes, which hold about four times what a forward pass does.

    On the CPU larger batches only leave the caches (measured on the builtin model: 512-1,024 tokens).
    single: see `TokenBudget`.
    """
    tokens = max(1, batch_tokens // 4)
    most = min(tokens, _CPU_TOKENS) if device == "cpu" else tokens
    return TokenBudget(most, slack_of(device), device=device, single=single)


class PerSample:
    """Per-example gradients of the mean response-token loss, in eval mode (no dropout)."""

    def __init__(self, adapted: Adapted) -> None:
        self.adapted = adapted
        self._spans = adapted.spans()
        self._scale = gradient_scale(adapted.model)

    def gradients(self, sequences: Sequences, out: torch.Tensor) -> torch.Tensor:
        """Fill out [n, D] (float32, on the model's device) in one pass; returns the losses [n].

        Coordinates as in `adapters.py`; a model that wants its rows `one_at_a_time` takes n passes. Raises
        UserError for adapted layers that do not see rows x tokens.
        """
        model = self.adapted.model
        if len(sequences) > 1 and one_at_a_time(model):
            rows = [np.array([k]) for k in range(len(sequences))]
            return torch.cat([self.gradients(sequences.take(k), out[k[0] : k[0] + 1]) for k in rows])
        model.model.eval()
        with torch.enable_grad(), self._captured() as captured:
            per_token, batch = token_losses(model, sequences)
            sizes = torch.tensor([len(r) for r in sequences.responses], device=per_token.device)
            losses = torch.zeros(len(sequences), device=per_token.device)
            losses = losses.index_add(0, batch.where[0], per_token / sizes[batch.where[0]])
            outputs = [output for _, _, output in captured]
            towards = torch.autograd.grad(
                losses.sum() * self._scale, outputs, allow_unused=True, materialize_grads=True
            )
        seen: set[str] = set()
        for (name, x, _), d in zip(captured, towards, strict=True):
            self._check_shape(name, x, batch)
            view = out[:, self._spans[name]].view(len(sequences), *self.adapted.parameters[name].shape)
            product = torch.bmm(d.transpose(1, 2), x)
            # A layer that is used twice in a pass has the sum of both.
            # Its device may be another one than that of `out`.
            view.add_(product.to(view.device)) if name in seen else view.copy_(product)
            seen.add(name)
        for name in self._spans.keys() - seen:
            out[:, self._spans[name]] = 0
        if self._scale != 1:
            out /= self._scale
        return losses.detach()

    def blocks(
        self, sequences: Sequences, budget: TokenBudget, most: int | None = None
    ) -> Iterator[tuple[Int64, torch.Tensor, torch.Tensor]]:
        """(index [k], gradients [k, D], losses [k]) until all rows of `sequences` are through, longest first.

        Blocks are as large as memory allows, at most `most` rows, so that a projection pays; forward and
        backward passes within them follow `budget`. The gradients' storage is used again for the next block.
        """
        lengths = sequences.lengths()
        order = np.argsort(-lengths, kind="stable")
        buffer = self._buffer(min(len(order), most or _MOST_ROWS))
        for start in range(0, len(order), max(1, len(buffer))):
            index = order[start : start + len(buffer)]
            yield self._block(sequences, lengths, index, budget, buffer)

    def _block(
        self, sequences: Sequences, lengths: Int64, index: Int64, budget: TokenBudget, buffer: torch.Tensor
    ) -> tuple[Int64, torch.Tensor, torch.Tensor]:
        losses = torch.empty(len(index), device=buffer.device)
        placed = np.empty(0, np.int64)

        def work(batch: Int64) -> None:
            nonlocal placed
            at = slice(len(placed), len(placed) + len(batch))
            losses[at] = self.gradients(sequences.take(index[batch]), buffer[at])
            placed = np.concatenate([placed, index[batch]])

        budget.run(lengths[index], work)
        return placed, buffer[: len(index)], losses

    def _buffer(self, rows: int) -> torch.Tensor:
        """Room for at most `rows` gradients [k, D], 1 <= k, as memory allows."""
        device, size = self.adapted.model.device, 4 * self.adapted.dimension
        free = _CPU_BYTES
        if device.startswith("cuda"):
            free = int(torch.cuda.mem_get_info(device)[0] * _FREE_SHARE)
        rows = min(rows, max(1, free // size))
        while True:
            try:
                return torch.empty((rows, self.adapted.dimension), device=device)
            except RuntimeError as e:
                if rows <= 1 or not is_out_of_memory(e):
                    raise
            rows = rows // 2

    @contextmanager
    def _captured(self) -> Iterator[list[tuple[str, torch.Tensor, torch.Tensor]]]:
        """Parameter name, input and output of every A and B that a forward pass goes through."""
        found: list[tuple[str, torch.Tensor, torch.Tensor]] = []

        def keep(name: str) -> Callable[[Any, tuple[torch.Tensor, ...], torch.Tensor], None]:
            def hook(_module: Any, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
                # In the first layers nothing before the adapter wants a gradient, so its output must.
                if not output.requires_grad:
                    output.requires_grad_(True)
                found.append((name, args[0].detach(), output))

            return hook

        hooks = []
        for name, layer in self.adapted.layers.items():
            for part, module in zip(("lora_A", "lora_B"), lora_pair(layer), strict=True):
                hooks.append(module.register_forward_hook(keep(f"{name}.{part}.weight")))
        try:
            yield found
        finally:
            for hook in hooks:
                hook.remove()

    def _check_shape(self, name: str, x: torch.Tensor, batch: Batch) -> None:
        if x.dim() != 3 or x.shape[:2] != batch.ids.shape:
            raise UserError(
                f"the layer of {name} sees {list(x.shape)} instead of rows x tokens x inputs, so the "
                "gradients of its rows cannot be told apart",
                field="influence.less.targets",
                mend="Leave that layer out.",
            )
