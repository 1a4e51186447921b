"""DELIFT: how much one example in the context helps a model to predict another (methods.md 1.1).

d(j | ctx) = || p(y_t | ctx, x_j, y_<t) - 1 ||_2 / sqrt(T) over the T response tokens of target j,
the end-of-sequence token included, and influence(i, j) = d(j | no example) - d(j | example i).

Sequences longer than the model's context: the prompt side loses its first tokens, so the example
goes first; a response that does not fit even then loses its last tokens (the same ones with and
without an example). `counters["truncated_sequences"]` counts the pairs cut in either way,
`counters["truncated_targets"]` the target rows that do not fit even without an example.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import cached_property

import numpy as np
import numpy.typing as npt

from nncift_core.config import Config, DeliftConfig
from nncift_core.devices import pick
from nncift_core.errors import RunError
from nncift_core.hashing import digest
from nncift_core.influence.contract import CostModel, Float32, Int64, Pairwise, Progress, Rows
from nncift_core.language_models import LanguageModel, language_model_key, load_language_model
from nncift_core.sequences import fill, fit, plan_batches

Float64 = npt.NDArray[np.float64]

# Sequences tokenised at once: bounds memory on large tiles, and is many batches, so sorting pays.
_WINDOW = 4096


class Delift(Pairwise):
    """The in-context-learning utility of DELIFT; the model is loaded when values are first asked for."""

    name = "delift"
    version = 1
    cost = CostModel(per_pair=1, per_column=1)
    needs = frozenset[str]()

    def __init__(
        self,
        load_model: Callable[[], LanguageModel],
        model_key: str,
        config: DeliftConfig | None = None,
        batch_tokens: int = 8192,
    ) -> None:
        """load_model: gives the model when called; model_key: that model's `language_model_key`;
        batch_tokens: tokens of a forward pass, padding included (never changes the key)."""
        self._load_model = load_model
        self._model_key = model_key
        self.config = config or DeliftConfig()
        self.batch_tokens = batch_tokens
        self.counters: Counter[str] = Counter()
        self._without: dict[int, float] = {}

    @classmethod
    def from_config(cls, config: Config, device: str) -> Delift:
        """The function of `config` on `device`, or where `[language_model] device` says."""
        where = pick(config.language_model.device, device, "language_model.device")
        return cls(
            lambda: load_language_model(config.language_model, where, config.base_dir),
            language_model_key(config.language_model, config.base_dir),
            config.influence.delift,
            config.language_model.batch_tokens,
        )

    @classmethod
    def key_of(cls, config: Config) -> str:
        """What `key()` of `from_config(config, ...)` gives, without looking at devices."""
        key = language_model_key(config.language_model, config.base_dir)
        return cls(_no_model, key, config.influence.delift).key()

    def key(self) -> str:
        """Digest of name, version, model key and templates."""
        return digest(
            {
                "name": self.name,
                "version": self.version,
                "model": self._model_key,
                "templates": self.config.model_dump(),
            }
        )

    @cached_property
    def model(self) -> LanguageModel:
        """The language model, loaded at first use."""
        return self._load_model()

    def tile(self, rows: Rows, columns: Rows, progress: Progress | None = None) -> Float32:
        """Raw influence [len(rows), len(columns)], in [-1, 1]."""
        i = np.repeat(np.arange(len(rows)), len(columns))
        j = np.tile(np.arange(len(columns)), len(rows))
        values = self._influence(rows, columns, i, j, progress)
        return values.reshape(len(rows), len(columns))

    def pairs(self, rows: Rows, columns: Rows, progress: Progress | None = None) -> Float32:
        """Raw influence of rows[k] on columns[k], [len(rows)]; raises ValueError for unequal lengths."""
        if len(rows) != len(columns):
            raise ValueError(f"{len(rows)} rows but {len(columns)} columns")
        k = np.arange(len(rows))
        return self._influence(rows, columns, k, k, progress)

    def _influence(self, rows: Rows, columns: Rows, i: Int64, j: Int64, progress: Progress | None) -> Float32:
        """influence(i[k], j[k]) for every k; i indexes `rows`, j indexes `columns`."""
        if not len(i):
            return np.empty(0, np.float32)
        without = self.distance_without(columns)
        with_example = self.distance_with(rows, columns, i, j, progress)
        return (without[j] - with_example).astype(np.float32)

    def distance_without(self, columns: Rows) -> Float64:
        """d(j | no example) [len(columns)]; computed once per content and kept in this object."""
        ids = columns.content_ids.tolist()
        first = {content: k for k, content in reversed(list(enumerate(ids))) if content not in self._without}
        new = columns.take(np.array(sorted(first.values()), np.int64))
        template = self.config.template_without
        distances, cut = self._distances(
            lambda k: fill(template, prompt=new.prompts[k]),
            self._response_ids(new),
            np.arange(len(new)),
            np.array([len(p) + len(r) for p, r in zip(new.prompts, new.responses, strict=True)], np.int64),
            None,
        )
        self.counters["truncated_targets"] += cut
        self._without.update(zip(new.content_ids.tolist(), distances.tolist(), strict=True))
        return np.array([self._without[content] for content in ids], np.float64)

    def distance_with(
        self, rows: Rows, columns: Rows, i: Int64, j: Int64, progress: Progress | None = None
    ) -> Float64:
        """d(j[k] | example i[k]) for every k, [len(i)]."""
        template = self.config.template_with
        characters = [
            np.array([len(p) + len(r) for p, r in zip(side.prompts, side.responses, strict=True)], np.int64)
            for side in (rows, columns)
        ]
        distances, cut = self._distances(
            lambda k: fill(
                template,
                example_prompt=rows.prompts[i[k]],
                example_response=rows.responses[i[k]],
                prompt=columns.prompts[j[k]],
            ),
            self._response_ids(columns),
            j,
            characters[0][i] + characters[1][j],
            progress,
        )
        self.counters["truncated_sequences"] += cut
        return distances

    def _response_ids(self, columns: Rows) -> list[list[int]]:
        """tokens(response) ++ [eos] of every column."""
        return [[*ids, self.model.eos_id] for ids in self.model.tokenize(columns.responses)]

    def _distances(
        self,
        prompt_text: Callable[[int], str],
        responses: list[list[int]],
        which: Int64,
        characters: Int64,
        progress: Progress | None,
    ) -> tuple[Float64, int]:
        """d of n sequences [n], and how many were cut: sequence k is `prompt_text(k)` followed by
        `responses[which[k]]`; `characters` [n], its rough length, orders the work longest first."""
        distances = np.empty(len(which), np.float64)
        cut = 0
        order = np.argsort(-characters, kind="stable")
        for start in range(0, len(order), _WINDOW):
            window = order[start : start + _WINDOW]
            tokens = self.model.tokenize([prompt_text(k) for k in window.tolist()])
            fitted = [
                fit(self.model, ids, responses[which[k]], "influence.delift")
                for ids, k in zip(tokens, window, strict=True)
            ]
            cut += sum(was_cut for _, _, was_cut in fitted)
            lengths = np.array([len(prompt) + len(response) for prompt, response, _ in fitted], np.int64)
            for batch in plan_batches(lengths, self.batch_tokens):
                chosen = [fitted[k] for k in batch]
                log_probs = self.model.response_log_probs([c[0] for c in chosen], [c[1] for c in chosen])
                distances[window[batch]] = [_distance(values) for values in log_probs]
                if progress is not None:
                    progress(len(batch))
        return distances, cut


def _distance(log_probs: Float32) -> float:
    """|| p - 1 ||_2 / sqrt(T) from log p [T]; raises RunError for NaN."""
    miss = np.expm1(log_probs.astype(np.float64))
    distance = float(np.sqrt(np.mean(miss * miss)))
    if np.isnan(distance):
        raise RunError(
            'the language model gave a probability that is not a number: use dtype = "float32" or "bfloat16"'
        )
    return distance


def _no_model() -> LanguageModel:
    raise AssertionError("a key needs no model")
