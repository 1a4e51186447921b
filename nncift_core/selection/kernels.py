"""Similarity computed when it is asked for, so that no [candidate, represented] array need exist.

A `SimilarityRows` has one row per candidate: rows[a, i] = s(i, a), how well candidate a represents
item i. Greedy (`block_greedy.py`, `approximate.py`) and neighbour lists (`neighbours.py`) read it by
blocks of rows and hold no more than the block they were given.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from nncift_core.selection.result import Floating, Int64, as_floating, finite_range

if TYPE_CHECKING:
    import torch

Float32 = npt.NDArray[np.float32]
Metric = Literal["shifted-cosine", "cosine", "inner"]
_AXES = ("candidate", "represented")


@runtime_checkable
class SimilarityRows(Protocol):
    """Rows of similarity, [candidate, represented], computed on the fly.

    shape: (candidates, represented). All values are finite, and the same row has the same values each
    time, up to float32 rounding of another block.
    """

    @property
    def shape(self) -> tuple[int, int]: ...

    def rows(self, a: int, b: int, out: Float32 | None = None) -> Float32:
        """Candidates a..b-1, float32 [b - a, represented]; out: array of that shape to fill."""
        ...

    def take(self, candidates: Int64, out: Float32 | None = None) -> Float32:
        """The named candidates, float32 [len(candidates), represented]; out: array to fill."""
        ...

    def part(self, candidates: Int64, represented: Int64 | None = None) -> SimilarityRows:
        """The same similarity over some candidates and some (None: all) represented items."""
        ...


class EmbeddingRows:
    """Similarity of embedding vectors, a matrix product per block.

    candidates [C, d]; represented [R, d], or None for the candidates themselves; float32, or float16 to
    halve the memory (products are float32 either way). metric: "shifted-cosine" (1 + cos) / 2, in
    [0, 1]; "cosine"; "inner". Raises ValueError for shapes that do not fit, a value that is not finite,
    and for a cosine of a zero vector.
    """

    def __init__(
        self,
        candidates: npt.ArrayLike,
        represented: npt.ArrayLike | None = None,
        metric: Metric = "shifted-cosine",
    ) -> None:
        if metric not in ("shifted-cosine", "cosine", "inner"):
            raise ValueError(f"metric is {metric!r}, but must be shifted-cosine, cosine or inner")
        self.metric = metric
        self.candidates = _vectors(candidates, "candidates", metric)
        self.represented = (
            self.candidates if represented is None else _vectors(represented, "represented", metric)
        )
        if self.candidates.shape[1] != self.represented.shape[1]:
            raise ValueError(
                f"candidates have {self.candidates.shape[1]} dimensions, but represented have "
                f"{self.represented.shape[1]}: embed both with the same model"
            )

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.candidates), len(self.represented)

    def rows(self, a: int, b: int, out: Float32 | None = None) -> Float32:
        return self._product(self.candidates[a:b], out)

    def take(self, candidates: Int64, out: Float32 | None = None) -> Float32:
        import torch

        return self._product(self.candidates[torch.from_numpy(candidates)], out)

    def part(self, candidates: Int64, represented: Int64 | None = None) -> EmbeddingRows:
        import torch

        some = object.__new__(EmbeddingRows)
        some.metric = self.metric
        some.candidates = self.candidates[torch.from_numpy(candidates)]
        some.represented = (
            self.represented if represented is None else self.represented[torch.from_numpy(represented)]
        )
        return some

    def to(self, device: torch.device) -> EmbeddingRows:
        """The same with its vectors on a device, for `product` there."""
        some = object.__new__(EmbeddingRows)
        some.metric = self.metric
        some.candidates = self.candidates.to(device)
        same = self.represented is self.candidates
        some.represented = some.candidates if same else self.represented.to(device)
        return some

    def product(self, candidates: torch.Tensor) -> torch.Tensor:
        """Rows of the named candidates, float32 [len(candidates), represented], where the vectors are."""
        import torch

        left = self.candidates[candidates]
        out = torch.empty((len(left), self.shape[1]), device=left.device)
        return self._fill(left, out)

    def _product(self, some: torch.Tensor, out: Float32 | None) -> Float32:
        import torch

        if out is None:
            out = np.empty((len(some), self.shape[1]), np.float32)
        self._fill(some, torch.from_numpy(out))
        return out

    def _fill(self, some: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        import torch

        left, half = some.float(), torch.full((1, 1), 0.5, device=some.device)
        # Columns by pieces: of a float16 side, only one piece is ever held in float32.
        for at in range(0, self.shape[1], 8192):
            right = self.represented[at : at + 8192].float()
            piece = out[:, at : at + 8192]
            if self.metric == "shifted-cosine":
                torch.addmm(half, left, right.T, alpha=0.5, out=piece)
            else:
                torch.mm(left, right.T, out=piece)
        return out


class TileRows:
    """Similarity from any function of candidates and items, such as an estimator's tile.

    function(candidates int64 [r], represented int64 [c]) -> float [r, c]. Each tile is checked: ValueError
    for another shape or a value that is not finite.
    """

    def __init__(self, function: Callable[[Int64, Int64], npt.ArrayLike], shape: tuple[int, int]) -> None:
        if min(shape) < 1:
            raise ValueError(f"shape is {shape}, but must be (candidates, represented), both at least 1")
        self.function = function
        self.shape = shape

    def rows(self, a: int, b: int, out: Float32 | None = None) -> Float32:
        return self.take(np.arange(a, b), out)

    def take(self, candidates: Int64, out: Float32 | None = None) -> Float32:
        values = as_floating(self.function(candidates, np.arange(self.shape[1])), "tile", _AXES)
        if values.shape != (len(candidates), self.shape[1]):
            raise ValueError(
                f"the tile function gave {values.shape} for {len(candidates)} candidates and "
                f"{self.shape[1]} represented items: it must give [candidates, represented]"
            )
        finite_range(values, "tile", _AXES)
        return _filled(values, out)

    def part(self, candidates: Int64, represented: Int64 | None = None) -> TileRows:
        items = np.arange(self.shape[1]) if represented is None else represented

        def function(rows: Int64, columns: Int64) -> npt.ArrayLike:
            return self.function(candidates[rows], items[columns])

        return TileRows(function, (len(candidates), len(items)))


class DenseRows:
    """A matrix [represented, candidate] that is there already, behind the same contract."""

    def __init__(self, similarity: npt.ArrayLike) -> None:
        self.matrix = as_floating(similarity, "similarity", ("represented", "candidate"))
        finite_range(self.matrix, "similarity", ("represented", "candidate"))

    @property
    def shape(self) -> tuple[int, int]:
        return self.matrix.shape[1], self.matrix.shape[0]

    def rows(self, a: int, b: int, out: Float32 | None = None) -> Float32:
        return _filled(self.matrix[:, a:b].T, out)

    def take(self, candidates: Int64, out: Float32 | None = None) -> Float32:
        return _filled(self.matrix.T[candidates], out)

    def part(self, candidates: Int64, represented: Int64 | None = None) -> SimilarityRows:
        items = np.arange(self.shape[1]) if represented is None else represented
        return _DensePart(self.matrix, candidates, items)


class _DensePart:
    """Some candidates and items of a matrix, read where they lie: it may be larger than memory."""

    def __init__(self, matrix: Floating, candidates: Int64, items: Int64) -> None:
        self.matrix, self.candidates, self.items = matrix, candidates, items
        every = len(items) == matrix.shape[0]
        self._whole = every and bool(np.array_equal(items, np.arange(len(items))))

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.candidates), len(self.items)

    def rows(self, a: int, b: int, out: Float32 | None = None) -> Float32:
        return self._read(self.candidates[a:b], out)

    def take(self, candidates: Int64, out: Float32 | None = None) -> Float32:
        return self._read(self.candidates[candidates], out)

    def part(self, candidates: Int64, represented: Int64 | None = None) -> SimilarityRows:
        items = self.items if represented is None else self.items[represented]
        return _DensePart(self.matrix, self.candidates[candidates], items)

    def _read(self, candidates: Int64, out: Float32 | None) -> Float32:
        rows = self.matrix.T
        return _filled(rows[candidates] if self._whole else rows[np.ix_(candidates, self.items)], out)


def materialise(rows: SimilarityRows, block: int = 1024) -> Float32:
    """The whole kernel as one array [candidate, represented]."""
    candidates, represented = rows.shape
    out = np.empty((candidates, represented), np.float32)
    for a in range(0, candidates, block):
        rows.rows(a, min(a + block, candidates), out[a : a + block])
    return out


def _filled(values: Floating, out: Float32 | None) -> Float32:
    if out is None:
        return np.ascontiguousarray(values, np.float32)
    out[...] = values
    return out


def _vectors(values: npt.ArrayLike, name: str, metric: Metric) -> torch.Tensor:
    """Checked vectors, of length 1 for a cosine, float32 or float16 as given."""
    import torch

    array = np.asarray(values)
    half = array.dtype == np.float16
    wide = as_floating(array, name, ("row", "dimension")).astype(np.float32)
    finite_range(wide, name, ("row", "dimension"))
    if metric != "inner":
        length = np.linalg.norm(wide, axis=1, keepdims=True)
        if not length.all():
            row = int(np.argmin(length))
            raise ValueError(f"{name}[row {row}] is all zeros and has no cosine: drop the row, or use inner")
        wide /= length
    return torch.from_numpy(wide.astype(np.float16) if half else wide)
