"""The network of the paper behind the contract: as published (`mlp-paper`) and on every feature (`mlp`)."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from nncift_core.estimator.contract import EMBEDDING, Features, Float32, Int64, checked_labels
from nncift_core.estimator.network import InfluenceNetwork
from nncift_core.estimator.sides import Arrays, Labels, WarmSides
from nncift_core.estimator.training import FitReport, WarmNetwork, fit
from nncift_core.estimator.warm import Start, Unfit

_CHUNK = 4096


class Mlp(WarmSides):
    """`W2 relu(W1 (f_i ++ g_j) + b1) + b2` on standardised features, beside the linear mean of the pairs.

    Trained as `training.fit` says for "mlp": standardised targets, early stopping on held-out rows, fewer
    passes over more than 20,000 labels. A warm start trains the earlier network's weights further.
    """

    name = "mlp"

    def __init__(self, hidden: int = 100) -> None:
        """hidden: number of hidden units."""
        super().__init__()
        self._hidden = hidden

    def _learn(self, labels: Labels, seed: int) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        return self._fit(labels, seed, None)

    def _continue(
        self, labels: Labels, seed: int, start: Start
    ) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        start.check_new_rows()
        network = _network(start.weights)
        if network.hidden != self._hidden:
            raise Unfit(f"the earlier fit has {network.hidden} hidden units, not {self._hidden}")
        return self._fit(labels, seed, _said_again(network, start))

    def _fit(
        self, labels: Labels, seed: int, start: WarmNetwork | None
    ) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        width = max(labels.F.shape[1], labels.G.shape[1], 1)
        network, report = fit(
            _padded(labels.F, width),
            _padded(labels.G, width if labels.G.shape[1] else 0),
            labels.i,
            labels.j,
            labels.z,
            architecture="mlp",
            hidden=self._hidden,
            seed=seed,
            start=start,
        )
        return _arrays(network), _facts(network, report)

    def _tile(self, weights: Arrays, F: Float32, G: Float32) -> Float32:
        network = _network(weights)
        return network.predict(*_inputs(network, F, G))

    def _pairs(self, weights: Arrays, F: Float32, G: Float32, i: Int64, j: Int64) -> Float32:
        network = _network(weights)
        return _predict_pairs(network, *_inputs(network, F, G), i, j)


class MlpPaper:
    """The published recipe on the embeddings alone (methods.md 1): targets min-max scaled, 20 epochs."""

    name: ClassVar[str] = "mlp-paper"
    learned: ClassVar[bool] = True

    def __init__(self, hidden: int = 100) -> None:
        """hidden: number of hidden units."""
        self._hidden = hidden
        self._network: InfluenceNetwork | None = None
        self._facts: dict[str, Any] = {}

    def fit(self, features: Features, i: Int64, j: Int64, values: npt.NDArray[Any], *, seed: int) -> Self:
        """Train as `training.fit` says for "mlp-paper"; raises ValueError also without embeddings."""
        z = checked_labels(features, i, j, values)
        if EMBEDDING not in features.rows:
            raise ValueError(f"{self.name} needs the feature group {EMBEDDING!r}")
        columns = _columns(features)
        self._network, report = fit(
            features.rows[EMBEDDING],
            columns,
            i,
            j,
            z,
            architecture="mlp-paper",
            hidden=self._hidden,
            seed=seed,
        )
        self._facts = _facts(self._network, report)
        return self

    def predict(self, features: Features) -> Float32:
        """[R, C]."""
        return self._fitted.predict(features.rows[EMBEDDING], _columns(features))

    def predict_pairs(self, features: Features, i: Int64, j: Int64) -> Float32:
        """[k]."""
        return _predict_pairs(self._fitted, features.rows[EMBEDDING], _columns(features), i, j)

    def std(self, features: Features, i: Int64, j: Int64) -> Float32 | None:
        """None: not known pair by pair."""
        return None

    def describe(self) -> dict[str, Any]:
        """What training reports."""
        return self._facts

    def state(self) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        """Weights and scale of the network; facts."""
        return _arrays(self._fitted), {"facts": self._facts}

    @classmethod
    def from_state(cls, arrays: dict[str, npt.NDArray[Any]], settings: dict[str, Any]) -> Self:
        """From a `state`."""
        made = cls()
        made._network, made._facts = _network(arrays), dict(settings["facts"])
        made._hidden = made._network.hidden
        return made

    @property
    def _fitted(self) -> InfluenceNetwork:
        if self._network is None:
            raise ValueError(f"{self.name} is not fitted")
        return self._network


def _said_again(network: InfluenceNetwork, start: Start) -> WarmNetwork:
    """The earlier network on the new coordinates and the new scale of the labels."""
    d, W1 = network.dimension, network.W1.astype(np.float64)
    W1r = W1[:, : start.rows.T.shape[1]]
    W1c = W1[:, d : d + start.columns.T.shape[1]]
    row, column = W1r @ start.rows.T.T, W1c @ start.columns.T.T
    width = max(row.shape[1], column.shape[1], 1)
    return WarmNetwork(
        _padded(row, width),
        _padded(column, width if column.shape[1] else 0),
        network.b1 + W1r @ start.rows.t + W1c @ start.columns.t,
        network.W2 * (network.scale * start.ratio),
        (network.b2 * network.scale + network.shift) * start.ratio,
        start.new_rows,
    )


def _arrays(network: InfluenceNetwork) -> dict[str, npt.NDArray[Any]]:
    scaling = np.array([network.scale, network.shift])
    weights = {"W1": network.W1, "b1": network.b1, "W2": network.W2, "b2": network.b2}
    return {**weights, "scaling": scaling, "dimension": np.array([network.dimension])}


def _network(arrays: Arrays) -> InfluenceNetwork:
    scale, shift = arrays["scaling"].tolist()
    weights = (arrays[name] for name in ("W1", "b1", "W2", "b2"))
    dimension = int(arrays["dimension"][0])
    return InfluenceNetwork.from_weights(*weights, dimension=dimension, scale=scale, shift=shift)


def _facts(network: InfluenceNetwork, report: FitReport) -> dict[str, Any]:
    """The report of training without what varies from run to run (its seconds)."""
    facts = {
        k: x for k, x in asdict(report).items() if x is not None and k not in ("seconds", "architecture")
    }
    return {"parameters": network.n_parameters, "hidden": network.hidden, **facts}


def _columns(features: Features) -> Float32:
    """Embeddings of the columns [C, d]; [C, 0] for a function of the row alone."""
    columns = features.columns.get(EMBEDDING)
    return np.empty((features.shape[1], 0), np.float32) if columns is None else columns


def _inputs(network: InfluenceNetwork, F: Float32, G: Float32) -> tuple[Float32, Float32]:
    return _padded(F, network.dimension), _padded(G, network.column_dimension)


def _padded(X: npt.NDArray[Any], width: int) -> Float32:
    """X [n, d] with columns of 0 up to `width`: the network wants both sides equally wide."""
    return np.pad(X.astype(np.float32), ((0, 0), (0, width - X.shape[1])))


def _predict_pairs(network: InfluenceNetwork, rows: Float32, columns: Float32, i: Int64, j: Int64) -> Float32:
    """predict_pairs of the network, gathering the inputs of a few thousand pairs at a time."""
    out = np.empty(len(i), np.float32)
    for k in range(0, len(i), _CHUNK):
        here = slice(k, k + _CHUNK)
        out[here] = network.predict_pairs(rows[i[here]], columns[j[here]])
    return out
