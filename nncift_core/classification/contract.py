"""What one training of a classifier gives: its dynamics over all rows, its checkpoints, its predictions.

Training of a head on cached embeddings (`frozen`) and of a whole encoder (`full`) fill the same contract, so
that scores and studies need not know which it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]
_BLOCK = 4096


@dataclass(frozen=True, eq=False)
class Dynamics:
    """What is kept of the logits f(x) [N, K] of all rows at T logging points of one run.

    steps, epochs [T]: optimisation steps and epochs done, both > 0 and rising; epoch_end [T]: whether the
    point closes an epoch. Of every row's given label y, with p = softmax(f(x)): log_probability = ln p_y;
    margin = f_y - max of the other logits; el2n = ||p - onehot(y)||_2; predicted = argmax (the lowest of
    equal logits); all [T, N].
    """

    steps: Int64
    epochs: Float64
    epoch_end: Bool
    log_probability: Float32
    margin: Float32
    el2n: Float32
    predicted: Int64

    def __post_init__(self) -> None:
        shape = self.log_probability.shape
        for name in ("margin", "el2n", "predicted"):
            if getattr(self, name).shape != shape:
                raise ValueError(f"{name} is {getattr(self, name).shape}, log_probability {shape}")
        for name in ("steps", "epochs", "epoch_end"):
            if getattr(self, name).shape != shape[:1]:
                raise ValueError(f"{name} is {getattr(self, name).shape}, there are {shape[0]} points")

    def __len__(self) -> int:
        return len(self.steps)

    @property
    def rows(self) -> int:
        """N."""
        return int(self.log_probability.shape[1])

    def at(self, points: Bool | Int64) -> Self:
        """The dynamics at some of the logging points."""
        return type(self)(**{f.name: getattr(self, f.name)[points] for f in fields(self)})

    def correct(self, labels: Int64) -> Bool:
        """Whether each row is predicted as its label [N] says, [T, N]."""
        right: Bool = self.predicted == labels[None, :]
        return right


def observed(logits: Float32, labels: Int64) -> dict[str, npt.NDArray[Any]]:
    """What `Dynamics` keeps of one logging point, by name, [N] each: logits [N, K], labels [N]; in float64
    inside, in blocks of rows."""
    starts = range(0, max(1, len(logits)), _BLOCK)
    parts = [_observed(logits[at : at + _BLOCK], labels[at : at + _BLOCK]) for at in starts]
    return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}


def _observed(logits: Float32, labels: Int64) -> dict[str, npt.NDArray[Any]]:
    f = logits.astype(np.float64)
    rows = np.arange(len(f))
    shifted = f - f.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    error = np.exp(log_p)
    error[rows, labels] -= 1
    rivals = f.copy()
    rivals[rows, labels] = -np.inf
    return {
        "log_probability": log_p[rows, labels].astype(np.float32),
        "margin": (f[rows, labels] - rivals.max(axis=1)).astype(np.float32),
        "el2n": np.sqrt((error**2).sum(axis=1)).astype(np.float32),
        "predicted": f.argmax(axis=1),
    }


class Log:
    """What is noted of a run's logits, point by point, on rows with labels [N].

    whole: whether the logits at the ends of epochs are kept, too.
    """

    def __init__(self, labels: Int64, per_epoch: int, *, whole: bool) -> None:
        self._labels, self._per_epoch, self._whole = labels, per_epoch, whole
        self._points: list[tuple[int, bool]] = []
        self._found: list[dict[str, npt.NDArray[Any]]] = []
        self._kept: list[Float32] = []

    def note(self, step: int, epoch_end: bool, blocks: Iterable[Float32]) -> None:
        """The logits [N, K] after `step`, in blocks of rows. Raises ValueError where they are not N rows."""
        found: list[dict[str, npt.NDArray[Any]]] = []
        kept: list[Float32] = []
        done = 0
        for logits in blocks:
            found.append(observed(logits, self._labels[done : done + len(logits)]))
            done += len(logits)
            if self._whole and epoch_end:
                kept.append(logits)
        if done != len(self._labels):
            raise ValueError(f"logits of {done} rows, there are {len(self._labels)} labels")
        self._points.append((step, epoch_end))
        self._found.append({name: np.concatenate([f[name] for f in found]) for name in found[0]})
        if kept:
            self._kept.append(np.concatenate(kept))

    def dynamics(self) -> Dynamics:
        """The dynamics of all points noted."""
        steps = np.array([step for step, _ in self._points], np.int64)
        ends = np.array([end for _, end in self._points], np.bool_)
        stacked = {name: np.stack([f[name] for f in self._found]) for name in self._found[0]}
        return Dynamics(steps, steps / self._per_epoch, ends, **stacked)

    def logits(self) -> Float32 | None:
        """The kept logits [E, N, K]; None where they are not kept."""
        return np.stack(self._kept) if self._kept else None


def dynamics_of(logits: Float32, labels: Int64, steps: Int64, epochs: Float64, epoch_end: Bool) -> Dynamics:
    """The dynamics of whole logits [T, N, K] under labels [N]."""
    points = [observed(at, labels) for at in logits]
    stacked = {name: np.stack([p[name] for p in points]) for name in points[0]}
    return Dynamics(steps, epochs, epoch_end, **stacked)


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A model in the middle of its training.

    layers: (weight [out, in], bias [out]) of the head's linear layers in order, with a ReLU between them;
    learning_rate: of the head at that step; encoder_rate: of the encoder, 0 where it is frozen; weights: file
    of the encoder's weights, "" where it is frozen.
    """

    step: int
    epoch: float
    learning_rate: float
    layers: tuple[tuple[Float32, Float32], ...]
    encoder_rate: float = 0.0
    weights: str = ""


@dataclass(frozen=True, eq=False)
class Prediction:
    """Of one evaluated set of n rows: predicted class [n] and the probabilities [n, K]."""

    predicted: Int64
    probabilities: Float32


@dataclass(frozen=True, eq=False)
class Run:
    """One training: dynamics (None where not asked for), checkpoints (as many as were asked for), and the
    final model's predictions by name of the evaluated set.

    facts: numbers a person may ask for; logits: of all rows at the ends of epochs, [E, N, K], where
    `keep_logits` asks for them.
    """

    dynamics: Dynamics | None
    checkpoints: tuple[Checkpoint, ...]
    predictions: Mapping[str, Prediction]
    facts: Mapping[str, Any] = field(default_factory=dict)
    logits: Float32 | None = None
