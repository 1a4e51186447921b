"""The InfluenceNetwork: `emb(i) ++ emb(j) -> influence(i, j)` (methods.md 1, step 2).

The first layer over a concatenation splits, `W1 [e_i; e_j] + b1 = A_i + B_j`, so that A and B cost one
small matrix product each and a pair costs only `W2 relu(A_i + B_j) + b2`; pairs are never concatenated.
`network_calibration` says which kernel computes a matrix: "numba" (`network_numba`) or "torch" (here).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from nncift_core.errors import IntegrityError
from nncift_core.estimator import network_calibration

Float32 = npt.NDArray[np.float32]

FORMAT = "nncift-influence-network-1"
_WEIGHTS = ("W1", "b1", "W2", "b2")
_TILE_ROWS = 16
_TILE_FLOATS = 16 * 512 * 100
_BLOCK_ROWS = 1024
_BLOCK_COLUMNS = 4096


@dataclass(frozen=True, eq=False)
class InfluenceNetwork:
    """One-hidden-layer ReLU network over a pair of embeddings, with an affine map back to raw scale.

    `influence(i, j) = scale * (W2 relu(W1 (e_i ++ e_j) + b1) + b2) + shift`; W1 [hidden, d + d_column]
    with the row part first, b1 [hidden], W2 [1, hidden], b2 [1], all float32. Columns are embedded like
    rows (d_column = d), or, for a function of the row alone, not at all (d_column = 0). Build it by
    `from_weights`.
    """

    W1: Float32
    b1: Float32
    W2: Float32
    b2: Float32
    dimension: int
    scale: float = 1.0
    shift: float = 0.0

    @classmethod
    def from_weights(
        cls,
        W1: npt.ArrayLike,
        b1: npt.ArrayLike,
        W2: npt.ArrayLike,
        b2: npt.ArrayLike,
        *,
        dimension: int | None = None,
        scale: float = 1.0,
        shift: float = 0.0,
    ) -> InfluenceNetwork:
        """A network from its weights, copied as float32; dimension: d, half of W1's columns when unset.

        Raises ValueError when shapes do not fit.
        """
        w1, c1, w2, c2 = (np.array(w, dtype=np.float32, order="C") for w in (W1, b1, W2, b2))
        hidden = c1.size
        d = w1.shape[-1] // 2 if dimension is None else dimension
        if w1.ndim != 2 or w1.shape[0] != hidden or d < 1 or w1.shape[1] not in (d, 2 * d):
            shape = list(w1.shape)
            raise ValueError(
                f"W1 must be [hidden, 2d] or [hidden, d], hidden = {hidden}, d = {d}, got {shape}"
            )
        if c1.shape != (hidden,) or w2.shape != (1, hidden) or c2.shape != (1,):
            raise ValueError(
                f"b1, W2, b2 must be [{hidden}], [1, {hidden}], [1], "
                f"got {list(c1.shape)}, {list(w2.shape)}, {list(c2.shape)}"
            )
        return cls(w1, c1, w2, c2, d, float(scale), float(shift))

    @property
    def column_dimension(self) -> int:
        """Length of a column's embedding: d, or 0 for a function of the row alone."""
        return int(self.W1.shape[1]) - self.dimension

    @property
    def hidden(self) -> int:
        """Number of hidden units."""
        return int(self.W1.shape[0])

    @property
    def n_parameters(self) -> int:
        """Number of trained weights: (d + d_column + 1) * hidden + hidden + 1."""
        return self.W1.size + self.b1.size + self.W2.size + self.b2.size

    def predict(
        self,
        rows: npt.NDArray[Any],
        columns: npt.NDArray[Any],
        out: Float32 | None = None,
        *,
        kernel: network_calibration.Kernel | None = None,
    ) -> Float32:
        """Raw-scale influence of every row on every column: rows [m, d], columns [n, d_column] -> [m, n].

        Inputs of another type than float32 (float16, say) are converted tile by tile: beside them and the
        result the memory does not grow with m or n. `out` (float32 [m, n], writable) is filled and returned
        when given. kernel: the one in use (`network_calibration.in_use`) when not given. Equal calls give
        equal bits; the kernels, and with "torch" a sub-block, agree within rounding (1e-5 of the scale).
        Raises ValueError when a shape or the type of `out` does not fit, and for a kernel unknown or missing.
        """
        out = self.checked_out(rows, columns, out)
        chosen = network_calibration.in_use() if kernel is None else network_calibration.checked(kernel)
        if chosen == "numba":
            from nncift_core.estimator import network_numba

            network_numba.predict(self, rows, columns, out)
        else:
            self._predict_by_torch(rows, columns, out)
        return out

    def _predict_by_torch(self, rows: npt.NDArray[Any], columns: npt.NDArray[Any], out: Float32) -> None:
        """Tiles of about 16 x 512 pairs that stay in cache."""
        with torch.inference_mode():
            for c in range(0, len(columns), _BLOCK_COLUMNS):
                B = self._column_terms(columns[c : c + _BLOCK_COLUMNS])
                for r in range(0, len(rows), _BLOCK_ROWS):
                    A = self._row_terms(rows[r : r + _BLOCK_ROWS])
                    self._fill(A, B, out[r : r + len(A), c : c + len(B)])

    def predict_pairs(self, rows: Float32, columns: Float32) -> Float32:
        """Raw-scale influence of rows[k] on columns[k]: [k, d] and [k, d_column] -> [k].

        Raises ValueError when shapes do not fit.
        """
        self._check(rows, columns)
        if len(rows) != len(columns):
            raise ValueError(f"pairs need as many rows as columns, got {len(rows)} and {len(columns)}")
        out = np.empty(len(rows), dtype=np.float32)
        weights = torch.from_numpy(self.W2[0])
        with torch.inference_mode():
            for k in range(0, len(rows), _BLOCK_COLUMNS):
                A = self._row_terms(rows[k : k + _BLOCK_COLUMNS])
                B = self._column_terms(columns[k : k + _BLOCK_COLUMNS])
                out[k : k + len(A)] = self._to_raw(torch.mv(A.add_(B).relu_(), weights)).numpy()
        return out

    def save(self, path: str | Path, metadata: dict[str, str] | None = None) -> None:
        """Write a safetensors file; `metadata` is kept beside the sizes, scale and shift."""
        own = {
            "format": FORMAT,
            "architecture": "Linear, ReLU, Linear",
            "dimension": str(self.dimension),
            "hidden": str(self.hidden),
            "scale": json.dumps(self.scale),
            "shift": json.dumps(self.shift),
        }
        save_file({n: getattr(self, n) for n in _WEIGHTS}, str(path), metadata={**(metadata or {}), **own})

    @classmethod
    def load(cls, path: str | Path) -> InfluenceNetwork:
        """Read what `save` wrote. Raises IntegrityError when the file is broken or of another kind."""
        try:
            with safe_open(str(path), framework="np") as file:
                metadata = file.metadata() or {}
                kind = metadata.get("format")
                if kind != FORMAT:
                    raise IntegrityError(f"{path}: not an InfluenceNetwork (format {kind!r})")
                weights = [file.get_tensor(name) for name in _WEIGHTS]
            scale, shift = json.loads(metadata["scale"]), json.loads(metadata["shift"])
            dimension = int(metadata["dimension"])
            return cls.from_weights(*weights, dimension=dimension, scale=scale, shift=shift)
        except (SafetensorError, KeyError, ValueError) as e:
            raise IntegrityError(f"{path}: broken InfluenceNetwork file ({e})") from e

    def checked_out(self, rows: npt.NDArray[Any], columns: npt.NDArray[Any], out: Float32 | None) -> Float32:
        """`out`, or a new one, once all three are found to fit; raises ValueError as `predict` does."""
        self._check(rows, columns)
        shape = (len(rows), len(columns))
        if out is None:
            return np.empty(shape, dtype=np.float32)
        if out.shape != shape or out.dtype != np.float32 or not out.flags.writeable:
            raise ValueError(
                f"out must be writable float32 {list(shape)}, got {out.dtype} {list(out.shape)}"
                + ("" if out.flags.writeable else ", read-only")
            )
        return out

    def _check(self, rows: npt.NDArray[Any], columns: npt.NDArray[Any]) -> None:
        wanted = {"rows": (rows, self.dimension), "columns": (columns, self.column_dimension)}
        for name, (x, d) in wanted.items():
            if x.ndim != 2 or x.shape[1] != d:
                raise ValueError(f"{name} must be [n, {d}], got {list(x.shape)}")

    def _row_terms(self, rows: Float32) -> torch.Tensor:
        """A = rows W1r^T, [m, hidden]."""
        return _tensor(rows) @ torch.from_numpy(self.W1[:, : self.dimension]).T

    def _column_terms(self, columns: Float32) -> torch.Tensor:
        """B = columns W1c^T + b1, [n, hidden]."""
        half = torch.from_numpy(self.W1[:, self.dimension :])
        return torch.addmm(torch.from_numpy(self.b1), _tensor(columns), half.T)

    def _to_raw(self, net: torch.Tensor) -> torch.Tensor:
        return net.add_(float(self.b2[0])).mul_(self.scale).add_(self.shift)

    def _fill(self, A: torch.Tensor, B: torch.Tensor, out: Float32) -> None:
        """out[i, j] = scale * (W2 relu(A_i + B_j) + b2) + shift, tile by tile."""
        m, n, hidden = len(A), len(B), self.hidden
        step = max(16, _TILE_FLOATS // (_TILE_ROWS * hidden))
        weights = torch.from_numpy(self.W2[0])
        buffer = torch.empty(min(_TILE_ROWS, m) * min(step, n) * hidden, dtype=torch.float32)
        for j in range(0, n, step):
            b = B[j : j + step]
            for i in range(0, m, _TILE_ROWS):
                a = A[i : i + _TILE_ROWS]
                tile = buffer[: len(a) * len(b) * hidden].view(len(a), len(b), hidden)
                torch.add(a[:, None, :], b[None, :, :], out=tile).relu_()
                net = torch.mv(tile.view(-1, hidden), weights).view(len(a), len(b))
                out[i : i + len(a), j : j + len(b)] = self._to_raw(net).numpy()


def _tensor(x: npt.NDArray[Any]) -> torch.Tensor:
    # A copy: torch refuses to promise anything about read-only arrays such as memory maps.
    return torch.from_numpy(np.array(x, dtype=np.float32, order="C"))
