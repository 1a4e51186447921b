"""LESS: does a training step on one example lower another's loss (Xia et al. 2024, arXiv 2402.04333, 3-4)?

LoRA adapters are warmed up on a sample of the pool, with a checkpoint c after each epoch. There,
    influence(i, j) = sum_c w_c <phi_i^c, psi_j^c>,    w_c = eta_c / sum_c eta_c,
eta_c: mean learning rate of the epoch; phi_i, psi_j: unit vectors of the projected Adam direction of pool
example i and of the projected gradient of target example j (`nncift_core/gradients/features.py`). The loss is
the mean over an example's response tokens, the end-of-sequence token included.

Work is linear in rows: `features` gives each example one vector, checkpoint after checkpoint, and influence
is the inner product of two of them. A target task's score is the mean over its examples.

Rows longer than the context lose the prompt's first tokens, and a response that does not fit even then its
last (`sequences.fit`); `counters["truncated_examples"]` counts them.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nncift_core.config import Config, LessConfig
from nncift_core.devices import pick
from nncift_core.errors import IntegrityError, RunError, UserError
from nncift_core.hashing import digest, int63
from nncift_core.influence.contract import CostModel, Float32, Pairwise, Progress, Rows, Side
from nncift_core.language_models import LanguageModel, language_model_key, load_language_model
from nncift_core.sequences import encode_prompts, fit
from nncift_core.text import one_line

if TYPE_CHECKING:
    from nncift_core.batching import TokenBudget
    from nncift_core.gradients.adapters import Adapted
    from nncift_core.gradients.features import Found, GradientFeatures
    from nncift_core.gradients.per_sample import Sequences

_STATE, _FORMAT = "state.json", "nncift-less/1"
# A backward pass counts as two forward passes; there is one of each per checkpoint.
_PASSES = 3
_SHOWN = 80
# Numbers of one row's features: 16 MB.
_WIDEST = 1 << 22


@dataclass(frozen=True)
class _State:
    """What `fit_state` left: the checkpoints' files, and their weights w_c."""

    folder: Path
    weights: tuple[float, ...]


class Less(Pairwise):
    """Gradient similarity; the model is loaded when features are first asked for."""

    name = "less"
    version = 1
    cost = CostModel(
        per_row=_PASSES * LessConfig().epochs,
        per_column=_PASSES * LessConfig().epochs,
    )
    needs = frozenset({"state", "features"})
    state_is_costly = True

    def __init__(
        self,
        load_model: Callable[[], LanguageModel],
        model_key: str,
        config: LessConfig | None = None,
        seed: int = 0,
        batch_tokens: int = 8192,
    ) -> None:
        """load_model: gives a model that this object may wrap in adapters; model_key: its key; seed: decides
        warm-up and projection; batch_tokens: of a forward pass, padding included (never changes the key)."""
        self._load_model, self._model_key = load_model, model_key
        self.config, self.seed, self.batch_tokens = config or LessConfig(), seed, batch_tokens
        self.cost = CostModel(per_row=_PASSES * self.config.epochs, per_column=_PASSES * self.config.epochs)
        self.counters: Counter[str] = Counter()
        self._state: _State | None = None

    @classmethod
    def from_config(cls, config: Config, device: str, *more: str) -> Less:
        """The function of `config` on `device`, or where `[language_model] device` says; more: further
        devices that the model is spread over."""
        where = pick(config.language_model.device, device, "language_model.device")
        return cls(
            lambda: load_language_model(config.language_model, where, config.base_dir, (where, *more)),
            language_model_key(config.language_model, config.base_dir),
            config.influence.less,
            config.seed,
            config.language_model.batch_tokens,
        )

    @classmethod
    def key_of(cls, config: Config) -> str:
        """What `key()` of `from_config(config, ...)` gives, without looking at devices."""
        key = language_model_key(config.language_model, config.base_dir)
        return cls(_no_model, key, config.influence.less, config.seed).key()

    @classmethod
    def state_rows(cls, config: Config, n: int) -> int:
        """Rows of the warm-up training among `n` distinct pool rows."""
        less = config.influence.less
        return min(n, max(round(less.warm_up_fraction * n), less.warm_up_rows))

    @classmethod
    def feature_width(cls, config: Config) -> int:
        """checkpoints * projection_dim; 0 without a projection, when only the model would tell."""
        less = config.influence.less
        return 0 if less.projection == "none" else less.epochs * less.projection_dim

    def key(self) -> str:
        """Digest of name, version, model key, seed and the settings (of the projection, what it uses)."""
        settings: dict[str, Any] = self.config.model_dump(mode="json")
        if isinstance(settings["targets"], list):
            settings["targets"] = sorted(set(settings["targets"]))
        if self.config.projection == "none":
            del settings["projection_dim"]
        return digest(
            {
                "name": self.name,
                "version": self.version,
                "model": self._model_key,
                "settings": settings,
                "seed": self.seed,
            }
        )

    @cached_property
    def adapted(self) -> Adapted:
        """The language model with adapters, loaded at first use."""
        from nncift_core.gradients.adapters import Shape, attach

        targets = self.config.targets
        names = targets if isinstance(targets, str) else tuple(sorted(set(targets)))
        return attach(self._load_model(), Shape(self.config.rank, self.config.alpha, names))

    @cached_property
    def _budget(self) -> TokenBudget:
        from nncift_core.forward import one_at_a_time
        from nncift_core.gradients.per_sample import gradient_budget

        model = self.adapted.model
        return gradient_budget(self.batch_tokens, model.device, one_at_a_time(model))

    @cached_property
    def _features(self) -> GradientFeatures:
        from nncift_core.gradients.features import GradientFeatures
        from nncift_core.gradients.projection import Projection

        c = self.config
        seed = int63(f"less projection\x1f{self.seed}")
        projection = Projection(self.adapted.dimension, c.projection_dim, c.projection, seed)
        if projection.width * c.epochs > _WIDEST:
            raise UserError(
                f"{projection.width:,} numbers a row and checkpoint are too many to keep",
                field="influence.less.projection",
                mend='Use "rademacher" or "count-sketch", a smaller projection_dim, or a smaller rank.',
            )
        return GradientFeatures(self.adapted, projection, self._budget)

    def fit_state(self, pool: Rows, folder: Path, progress: Callable[[int, int], None] | None = None) -> None:
        """Warm-up training on `pool`, the sample: checkpoint-1.safetensors, ... and state.json.

        Raises UserError naming influence.less for targets that do not exist and for a training that diverges.
        """
        from nncift_core.gradients.warm_up import warm_up

        sequences, truncated = self._sequences(pool)
        done = warm_up(
            self.adapted,
            self.config,
            pool.content_ids,
            sequences,
            int63(f"less warm-up\x1f{self.seed}"),
            self._budget,
            folder,
            progress,
        )
        total = math.fsum(done.learning_rates)
        state = {
            "format": _FORMAT,
            "weights": [rate / total for rate in done.learning_rates],
            "learning_rates": list(done.learning_rates),
            "losses": list(done.losses),
            "steps": done.steps,
            "rows": len(pool),
            "truncated_examples": truncated,
            "parameters": self.adapted.dimension,
        }
        (folder / _STATE).write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")

    def load_state(self, folder: Path) -> None:
        """Take up a folder of `fit_state`; raises IntegrityError where a file of it is missing or damaged."""
        from nncift_core.gradients.warm_up import checkpoint_name

        try:
            state = json.loads((folder / _STATE).read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError) as e:
            raise IntegrityError(f"the state of less cannot be read ({e})") from e
        if state.get("format") != _FORMAT:
            raise IntegrityError(f"the state of less is not of the format {_FORMAT}")
        weights = tuple(float(w) for w in state["weights"])
        for epoch in range(1, len(weights) + 1):
            if not (folder / checkpoint_name(epoch)).is_file():
                raise IntegrityError(f"the state of less lacks {checkpoint_name(epoch)}")
        self._state = _State(folder, weights)

    def features(self, rows: Rows, side: Side, progress: Progress | None = None) -> Float32:
        """sqrt(w_c) phi_i^c (rows) or sqrt(w_c) psi_j^c (columns), one checkpoint after the other.

        [len(rows), checkpoints * min(projection_dim, parameters)]. Raises RunError when a gradient is zero or
        not finite, ValueError when there is no state.
        """
        from nncift_core.gradients.checkpoints import Checkpoint
        from nncift_core.gradients.warm_up import checkpoint_name

        if self._state is None:
            raise ValueError("less needs its state: call load_state first")
        weights = self._state.weights
        sequences, truncated = self._sequences(rows)
        width = self._features.projection.width
        out = np.empty((len(rows), len(weights) * width), np.float32)
        report = _Shares(len(weights), progress)
        for c, weight in enumerate(weights):
            self._features.load(Checkpoint.load(self._state.folder / checkpoint_name(c + 1)))
            found = self._features.compute(sequences, side == "row", report.add)
            _check_norms(found, rows, side, c + 1)
            np.multiply(found.vectors, math.sqrt(weight), out=out[:, c * width : (c + 1) * width])
        self.counters["truncated_examples"] += truncated
        return out

    def tile(self, rows: Rows, columns: Rows, progress: Progress | None = None) -> Float32:
        """Influence [len(rows), len(columns)], in [-1, 1]; raises ValueError when features are missing."""
        values = _features_of(rows) @ _features_of(columns).T
        if progress is not None:
            progress(values.size)
        return values

    def pairs(self, rows: Rows, columns: Rows, progress: Progress | None = None) -> Float32:
        """Influence of rows[k] on columns[k], [len(rows)]; raises ValueError when features are missing."""
        values: Float32 = np.einsum("kd,kd->k", _features_of(rows), _features_of(columns))
        if progress is not None:
            progress(values.size)
        return values

    def _sequences(self, rows: Rows) -> tuple[Sequences, int]:
        """Tokens of `rows`, cut to the context, and how many were cut."""
        from nncift_core.gradients.per_sample import Sequences

        model = self.adapted.model
        prompts = encode_prompts(model, rows.prompts, self.config.template)
        responses = model.tokenize(rows.responses)
        fitted = [
            fit(model, prompt, [*response, model.eos_id], "influence.less.template")
            for prompt, response in zip(prompts, responses, strict=True)
        ]
        return Sequences([f[0] for f in fitted], [f[1] for f in fitted]), sum(f[2] for f in fitted)


class _Shares:
    """Counts rows over all checkpoints and reports them as whole rows."""

    def __init__(self, checkpoints: int, progress: Progress | None) -> None:
        self.checkpoints, self.progress = checkpoints, progress
        self._done = 0

    def add(self, rows: int) -> None:
        """`rows` more are through one checkpoint."""
        before = self._done // self.checkpoints
        self._done += rows
        whole = self._done // self.checkpoints - before
        if self.progress is not None and whole:
            self.progress(whole)


def _check_norms(found: Found, rows: Rows, side: Side, checkpoint: int) -> None:
    """Refuse gradients without a direction."""
    wrong = np.flatnonzero(~np.isfinite(found.norms) | (found.norms <= 0))
    if not len(wrong):
        return
    name = "pool" if side == "row" else "target"
    start = one_line(rows.prompts[wrong[0]] or rows.responses[wrong[0]], _SHOWN)
    what = "not a number" if not np.isfinite(found.norms[wrong[0]]) else "zero"
    raise RunError(
        f"the gradients of {len(wrong)} of {len(rows)} {name} rows have no direction at checkpoint "
        f'{checkpoint}; the first one\'s length is {what}, and its text starts "{start}"'
    )


def _features_of(rows: Rows) -> Float32:
    if rows.features is None:
        raise ValueError('less needs "features": rows came without')
    return np.asarray(rows.features, np.float32)


def _no_model() -> LanguageModel:
    raise AssertionError("a key needs no model")
