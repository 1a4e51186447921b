"""DELIFT (SE): the cosine of two examples' sentence embeddings (methods.md 1.2)."""

from __future__ import annotations

from collections import Counter

import numpy as np

from nncift_core.config import Config
from nncift_core.encoders import encoder_key
from nncift_core.hashing import digest
from nncift_core.influence.contract import CostModel, Float32, Pairwise, Progress, Rows


class DeliftSE(Pairwise):
    """influence(i, j) = cos(emb(x_i ++ y_i), emb(x_j ++ y_j)), from embeddings made beforehand."""

    name = "delift-se"
    version = 1
    # No forward pass per pair: the embeddings, one pass a row, are there already.
    cost = CostModel()
    needs = frozenset({"embedding"})

    def __init__(self, encoder_key: str) -> None:
        self._encoder_key = encoder_key
        self.counters: Counter[str] = Counter()

    @classmethod
    def from_config(cls, config: Config, device: str) -> DeliftSE:
        """The function of `config`; it runs on the CPU whatever the device."""
        return cls(encoder_key(config.encoder, config.base_dir))

    @classmethod
    def key_of(cls, config: Config) -> str:
        """What `key()` of `from_config(config, ...)` gives."""
        return cls(encoder_key(config.encoder, config.base_dir)).key()

    def key(self) -> str:
        """Digest of name, version and encoder key."""
        return digest({"name": self.name, "version": self.version, "encoder": self._encoder_key})

    def tile(self, rows: Rows, columns: Rows, progress: Progress | None = None) -> Float32:
        """Cosines [len(rows), len(columns)], clipped to [-1, 1] against rounding.

        Raises ValueError when embeddings are missing.
        """
        cosine = _embeddings(rows) @ _embeddings(columns).T
        if progress is not None:
            progress(cosine.size)
        return np.clip(cosine, -1.0, 1.0, out=cosine)

    def pairs(self, rows: Rows, columns: Rows, progress: Progress | None = None) -> Float32:
        """Cosine of rows[k] and columns[k], [len(rows)]; raises ValueError when embeddings are missing."""
        cosine: Float32 = np.einsum("kd,kd->k", _embeddings(rows), _embeddings(columns))
        if progress is not None:
            progress(cosine.size)
        return np.clip(cosine, -1.0, 1.0, out=cosine)


def _embeddings(rows: Rows) -> Float32:
    if rows.embeddings is None:
        raise ValueError('delift-se needs "embedding": rows came without')
    return np.asarray(rows.embeddings, np.float32)
