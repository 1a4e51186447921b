"""What LESS compares: unit vectors of projected gradients of single examples at one checkpoint.

phi_i (pool side) = P Gamma_i / |P Gamma_i| with the direction an Adam step would take,
    Gamma = (b1 m + (1 - b1) g) / sqrt(b2 v + (1 - b2) g^2 + eps), b1 = 0.9, b2 = 0.999, eps = 1e-8,
from the checkpoint's moments m and v, without bias correction; psi_j (target side) = P g_j / |P g_j|.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from nncift_core.batching import TokenBudget, is_out_of_memory
from nncift_core.gradients.adapters import Adapted
from nncift_core.gradients.checkpoints import Checkpoint
from nncift_core.gradients.per_sample import PerSample, Sequences
from nncift_core.gradients.projection import Projection

Float32 = npt.NDArray[np.float32]

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


@dataclass(frozen=True)
class Found:
    """Of n examples: unit vectors [n, width], norms of the (projected) vectors [n], losses [n].

    A vector whose norm is zero or not finite stays as it is.
    """

    vectors: Float32
    norms: Float32
    losses: Float32


class GradientFeatures:
    """Gradient features of one model; `load` says at which checkpoint."""

    def __init__(self, adapted: Adapted, projection: Projection, budget: TokenBudget) -> None:
        self.adapted, self.projection, self.budget = adapted, projection, budget
        self._per_sample = PerSample(adapted)
        self._m = self._v = torch.empty(0)

    def load(self, checkpoint: Checkpoint) -> None:
        """Take up a checkpoint's weights and moments; raises like `Checkpoint.check`."""
        checkpoint.check(self.adapted)
        self.adapted.set_weights(checkpoint.weight)
        self._m = self.adapted.flat(checkpoint.exp_avg)
        self._v = self.adapted.flat(checkpoint.exp_avg_sq)

    def compute(
        self,
        sequences: Sequences,
        adam: bool,
        progress: Callable[[int], None] | None = None,
        most: int | None = None,
    ) -> Found:
        """Features of `sequences`: Adam directions when `adam`, else plain gradients.

        progress(k): rows just done; most: rows that are projected at once (a test's knob).
        """
        n = len(sequences)
        vectors = np.empty((n, self.projection.width), np.float32)
        norms, losses = np.empty(n, np.float32), np.empty(n, np.float32)
        for index, gradients, loss in self._per_sample.blocks(sequences, self.budget, most):
            if adam:
                for row in gradients:
                    adam_direction_(row, self._m, self._v)
            projected = self._projected(gradients)
            norm = torch.linalg.vector_norm(projected, dim=1)
            usable = torch.isfinite(norm) & (norm > 0)
            projected.div_(torch.where(usable, norm, 1.0)[:, None])
            vectors[index] = projected.cpu().numpy()
            norms[index], losses[index] = norm.cpu().numpy(), loss.cpu().numpy()
            if progress is not None:
                progress(len(index))
        return Found(vectors, norms, losses)

    def _projected(self, gradients: torch.Tensor) -> torch.Tensor:
        """`Projection.apply`, in halves where memory does not hold the work for all rows at once."""
        try:
            return self.projection.apply(gradients)
        except (RuntimeError, MemoryError) as e:
            if len(gradients) < 2 or not is_out_of_memory(e):
                raise
        half = len(gradients) // 2
        return torch.cat([self._projected(gradients[:half]), self._projected(gradients[half:])])


def adam_direction_(g: torch.Tensor, m: torch.Tensor, v: torch.Tensor) -> None:
    """Replace a gradient g [D] by Gamma, see the module; m, v [D] are a checkpoint's moments."""
    denominator = torch.addcmul(v * BETA2, g, g, value=1 - BETA2).add_(EPSILON).sqrt_()
    g.mul_(1 - BETA1).add_(m, alpha=BETA1).div_(denominator)
