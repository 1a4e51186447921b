"""DELIFT (SE): the cosine of two examples' sentence embeddings (methods.md 1.2).

influence(i, j) = cos(emb(x_i ++ y_i), emb(x_j ++ y_j)), with emb of `encoders.Encoder`: a pool row is
embedded after `encoder.pool_prefix`, a target row after `encoder.target_prefix`. Where the two prefixes
differ, a text has two embeddings, one per side, and is no longer its own best match by rule.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from nncift_core.config import Config
from nncift_core.encoders import Side, encoder_key
from nncift_core.hashing import digest
from nncift_core.influence.contract import CostModel, Float32, Pairwise, Progress, Rows

_SIDES: tuple[Side, Side] = ("row", "column")


class DeliftSE(Pairwise):
    """Cosine similarity from embeddings made beforehand, [-1, 1]; linear work, no forward pass per pair."""

    name = "delift-se"
    version = 1
    cost = CostModel()
    needs = frozenset({"embedding"})

    def __init__(self, row_key: str, column_key: str | None = None) -> None:
        """row_key, column_key: `encoder_key` of the two sides; column_key None: the same."""
        self._keys = {"encoder": row_key}
        if column_key is not None and column_key != row_key:
            self._keys["target_encoder"] = column_key
        self.counters: Counter[str] = Counter()

    @classmethod
    def from_config(cls, config: Config, device: str) -> DeliftSE:
        """The function of `config`; it runs on the CPU whatever the device."""
        row, column = (encoder_key(config.encoder, config.base_dir, side) for side in _SIDES)
        return cls(row, column)

    @classmethod
    def key_of(cls, config: Config) -> str:
        """What `key()` of `from_config(config, ...)` gives."""
        return cls.from_config(config, "cpu").key()

    def key(self) -> str:
        """Digest of name, version and encoder key; of both sides' keys where they differ."""
        return digest({"name": self.name, "version": self.version, **self._keys})

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
