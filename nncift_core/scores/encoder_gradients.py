"""Gradient scores of a fine-tuned encoder: VoG at its embedding layer, TracIn and GraNd at its last layer.

One forward pass per batch and checkpoint. The head's part comes in closed form (`head_gradients.py`), as the
gradients of cross entropy and label's logit with respect to the pooled vector; from there one backward pass
takes the former to the last layer, where it ends, and one the latter to the embedding layer's output E
[n, T, dim]. No gradient of a weight is kept, no loop over examples. In eval mode, in float32.

VoG needs every checkpoint's dE of a row together. Rows go in blocks, longest first, through all checkpoints;
of a block, 20 bytes per token and dimension are held (the sums of `Spread`, a checkpoint's gradients, and
what is between), in all 512 MiB on the CPU or a quarter of the GPU's free memory. Without VoG all rows are
one block, so that each checkpoint is read once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from nncift_core.batching import TokenBudget, slack_of
from nncift_core.classification.contract import Checkpoint, Float64, Int64
from nncift_core.classification.texts import TextEncoder, TokenRows, load_text_encoder, tokenise
from nncift_core.config_prune import TrainingConfig
from nncift_core.errors import IntegrityError
from nncift_core.scores.encoder_layers import (
    LayerNorms,
    embedding_layer,
    last_layer,
    unknown_architecture,
)
from nncift_core.scores.grand import grand
from nncift_core.scores.head_gradients import HeadAt, Spread, check_request, early
from nncift_core.scores.tracin import tracin

# Of a block's gradients: bytes on the CPU, share of what is free on a GPU.
_CPU_BYTES, _FREE_SHARE = 512 << 20, 0.25
_BYTES_HELD = 5 * 4
_CPU_TOKENS, _GPU_TOKENS = 1024, 16384


def encoder_gradient_scores(
    folder: Path,
    weights_dir: Path,
    checkpoints: Sequence[Checkpoint],
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    labels: Int64,
    names: Collection[str],
    settings: TrainingConfig,
    *,
    device: str = "cpu",
    progress: Callable[[int], None] | None = None,
    trust_remote_code: bool = False,
) -> dict[str, Float64]:
    """Raw scores [N] by name of texts [N] (and pairs [N]) with labels [N], from C checkpoints of one run.

    folder: the encoder that was trained; weights_dir: where `train_encoder` left the checkpoints' encoders.
    "vog": of the gradient of the label's logit with respect to E, mean over a row's own tokens and dim;
    "tracin": squared norms of the loss's gradient over all parameters of the last encoder layer, weighted by
    the encoder's learning rates, and with it "tracin-head", that of the head's parameters and rates; "grand":
    mean norm over both together, at the first fifth of the checkpoints (rounded up). progress(k): k more
    rows are through one checkpoint. Raises UserError for an architecture without the places needed, or VoG
    of a single checkpoint, IntegrityError for weights that cannot be read, ValueError for unknown names.
    """
    check_request(checkpoints, names)
    encoder = load_text_encoder(folder, device, trust_remote_code)
    rows = tokenise(encoder, texts, pairs, settings.max_tokens)
    if len(rows) != len(labels):
        raise ValueError(f"{len(rows)} texts and {len(labels)} labels")
    passes = _Passes(encoder, rows, labels, names)
    heads = [HeadAt(c.layers, device) for c in checkpoints]
    norms = np.empty((len(checkpoints), 2, len(rows)))
    vog = np.empty(len(rows))
    for block in passes.blocks():
        spread = Spread()
        for c, (checkpoint, head) in enumerate(zip(checkpoints, heads, strict=True)):
            load_encoder_weights(encoder, weights_dir / checkpoint.weights)
            gradients = passes.run(block, head, norms[c], progress)
            if gradients is not None:
                spread.add(gradients)
        if "vog" in names:
            vog[block] = passes.mean_over_tokens(block, spread.per_row())
    out = {"vog": vog} if "vog" in names else {}
    if "tracin" in names:
        out["tracin"] = tracin(norms[:, 0], np.array([c.encoder_rate for c in checkpoints]))
        out["tracin-head"] = tracin(norms[:, 1], np.array([c.learning_rate for c in checkpoints]))
    if "grand" in names:
        out["grand"] = grand(norms[: early(len(checkpoints))].sum(axis=1))
    return out


def load_encoder_weights(encoder: TextEncoder, path: Path) -> None:
    """Put the weights of a checkpoint's file into `encoder`; raises IntegrityError where they do not fit."""
    try:
        encoder.model.load_state_dict(load_file(path, device=encoder.device), strict=True)
    except (OSError, SafetensorError, RuntimeError) as e:
        raise IntegrityError(f"the checkpoint {path.name} cannot be read into the encoder ({e})") from e


class _Passes:
    """Forward and backward passes of one encoder, whatever weights it holds at the time."""

    def __init__(self, encoder: TextEncoder, rows: TokenRows, labels: Int64, names: Collection[str]) -> None:
        self._encoder, self._rows = encoder, rows
        self._labels = torch.from_numpy(np.ascontiguousarray(labels)).to(encoder.device)
        self._lengths = rows.lengths()
        self._embeddings = embedding_layer(encoder.model) if "vog" in names else None
        wants_norms = bool({"tracin", "grand"} & set(names))
        self._layer = LayerNorms(last_layer(encoder.model)) if wants_norms else None
        encoder.model.eval().requires_grad_(False)
        tokens = _CPU_TOKENS if encoder.device == "cpu" else _GPU_TOKENS
        self._budget = TokenBudget(tokens, slack_of(encoder.device), "training.max_tokens", encoder.device)

    def blocks(self) -> Iterator[Int64]:
        """Rows that go through the checkpoints together, longest first."""
        order = np.argsort(-self._lengths, kind="stable")
        if self._embeddings is None:
            yield order
            return
        device, most = self._encoder.device, _CPU_BYTES
        if device.startswith("cuda"):
            most = int(torch.cuda.mem_get_info(device)[0] * _FREE_SHARE)
        held = np.cumsum(self._lengths[order]) * self._encoder.dim * _BYTES_HELD
        yield from np.split(order, np.flatnonzero(np.diff(held // most)) + 1)

    def run(
        self, block: Int64, head: HeadAt, norms: Float64, progress: Callable[[int], None] | None
    ) -> torch.Tensor | None:
        """Fill norms [2, N] of encoder and head at the rows `block` [n].

        Returns dE of the label's logit, the tokens of all rows of the block one after the other,
        [tokens, dim]; None where VoG was not asked for.
        """
        ends = np.cumsum(self._lengths[block])
        flat: torch.Tensor | None = None

        def work(batch: Int64) -> None:
            nonlocal flat
            at_e, layer_norms, head_norms = self._batch(block[batch], head)
            if at_e is not None:
                if flat is None:
                    flat = at_e.new_empty((int(ends[-1]), at_e.shape[1]))
                flat[self._places(ends, self._lengths[block], batch)] = at_e
            norms[0, block[batch]] = layer_norms
            norms[1, block[batch]] = head_norms
            if progress is not None:
                progress(len(batch))

        with torch.inference_mode(False), torch.enable_grad():
            self._budget.run(self._lengths[block], work)
        return flat

    def mean_over_tokens(self, block: Int64, per_token: torch.Tensor) -> Float64:
        """Mean [n] over the tokens of each row of `block` of numbers [tokens]."""
        lengths = self._lengths[block]
        starts = np.cumsum(lengths) - lengths
        mean: Float64 = np.add.reduceat(per_token.cpu().numpy(), starts) / lengths
        return mean

    @staticmethod
    def _places(ends: Int64, lengths: Int64, batch: Int64) -> torch.Tensor:
        """Where the tokens of the rows `batch` of a block stand in its flat storage."""
        return torch.from_numpy(np.concatenate([np.arange(ends[b] - lengths[b], ends[b]) for b in batch]))

    def _batch(self, index: Int64, head: HeadAt) -> tuple[torch.Tensor | None, Float64, Float64]:
        """dE [tokens, dim] of the rows `index` [k], or None; squared norms [k] of last layer and head."""
        batch = self._rows.batch(index, self._encoder.device)
        capture = self._layer.captured() if self._layer is not None else nullcontext()
        with self._leaf() as leaf, capture as captured:
            pooled = self._encoder.pooled(batch)
        labels = self._labels[torch.from_numpy(index).to(self._labels.device)]
        found = head.gradients(pooled.detach(), labels)
        norms = torch.zeros(len(index), dtype=torch.float64)
        if captured is not None:
            norms = captured.squared_norms(pooled, found.loss_at_x, again=self._embeddings is not None)
        at_e = None
        if self._embeddings is not None:
            (towards,) = torch.autograd.grad(pooled, leaf, found.logit_at_x)
            at_e = towards[batch["attention_mask"].bool()]
        return at_e, norms.cpu().numpy(), found.squared_norm.cpu().numpy()

    @contextmanager
    def _leaf(self) -> Iterator[list[torch.Tensor]]:
        """Within, the embedding layer's output starts the graph; it is put into the list."""
        leaf: list[torch.Tensor] = []

        def cut(_module: Any, _args: Any, output: Any) -> torch.Tensor:
            if leaf or not isinstance(output, torch.Tensor) or output.dim() != 3:
                raise unknown_architecture(
                    f"the embedding layer of {type(self._encoder.model).__name__} does not give one tensor "
                    "of rows x tokens x dimensions, at which VoG could be taken"
                )
            leaf.append(output.detach().requires_grad_(True))
            return leaf[0]

        hook = self._embeddings.register_forward_hook(cut) if self._embeddings is not None else None
        try:
            yield leaf
        finally:
            if hook is not None:
                hook.remove()
