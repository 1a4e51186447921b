"""DELIFT: how much one example in the context helps a model to predict another (methods.md 1.1).

d(j | ctx) = || p(y_t | ctx, x_j, y_<t) - 1 ||_2 / sqrt(T) over the T response tokens of target j,
the end-of-sequence token included, and influence(i, j) = d(j | no example) - d(j | example i).

Sequences longer than the model's context: the prompt side loses its first tokens, so the example
goes first; a response that does not fit even then loses its last tokens (the same ones with and
without an example). `counters["truncated_sequences"]` counts the pairs cut in either way,
`counters["truncated_targets"]` the target rows that do not fit even without an example.

What a prompt (i, j) begins with belongs to example i alone, so its keys and values are computed once for all
targets, where the model and the tokens allow it (`forward.can_share`, `sequences.halves`). With the chat
template of `[language_model]`, the example is an earlier turn of the conversation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from nncift_core.batching import TokenBudget, slack_of
from nncift_core.chat import assistant, conversation_ids, user
from nncift_core.config import Config, DeliftConfig
from nncift_core.devices import pick
from nncift_core.errors import RunError
from nncift_core.hashing import digest
from nncift_core.influence.contract import CostModel, Float32, Int64, Pairwise, Progress, Rows
from nncift_core.language_models import LanguageModel, language_model_key, load_language_model
from nncift_core.sequences import common_prefix, encode_prompts, fill, fit, halves

if TYPE_CHECKING:
    from nncift_core.forward import Batch, Prefix

Float64 = npt.NDArray[np.float64]

# Sequences tokenised, and examples planned, at once: bounds memory on large tiles, and sorting pays.
_WINDOW, _EXAMPLES = 4096, 64


@dataclass(frozen=True)
class _Group:
    """Sequences prefix ++ tails[k] ++ responses[k] that begin alike; their distances go to `where` [n].

    sizes [n, 2]: lengths of tails and responses; ready: batches made before, by the sequences in them.
    """

    prefix: list[int]
    tails: list[list[int]]
    responses: list[list[int]]
    where: Int64
    sizes: Int64
    ready: dict[bytes, Batch] = field(default_factory=dict)


class Delift(Pairwise):
    """The in-context-learning utility of DELIFT; the model is loaded when values are first asked for."""

    name = "delift"
    version = 2
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
        without = self.distance_without(columns)
        shape = (len(rows), len(columns))
        if 0 in shape:
            return np.empty(shape, np.float32)
        distances = self._measure(self._tile_groups(rows, columns), len(rows) * len(columns), progress)
        return (without - distances.reshape(shape)).astype(np.float32)

    def pairs(self, rows: Rows, columns: Rows, progress: Progress | None = None) -> Float32:
        """Raw influence of rows[k] on columns[k], [len(rows)]; raises ValueError for unequal lengths."""
        if len(rows) != len(columns):
            raise ValueError(f"{len(rows)} rows but {len(columns)} columns")
        k = np.arange(len(rows))
        without = self.distance_without(columns)
        return (without - self.distance_with(rows, columns, k, k, progress)).astype(np.float32)

    def distance_without(self, columns: Rows) -> Float64:
        """d(j | no example) [len(columns)]; computed once per content and kept in this object."""
        ids = columns.content_ids.tolist()
        first = {content: k for k, content in reversed(list(enumerate(ids))) if content not in self._without}
        new = columns.take(np.array(sorted(first.values()), np.int64))
        distances = np.empty(len(new), np.float64)
        prompts = encode_prompts(self.model, new.prompts, self.config.template_without)
        found = zip(prompts, self._responses(new), range(len(new)), strict=True)
        self.counters["truncated_targets"] += self._measure_alone(list(found), distances, None)
        self._without.update(zip(new.content_ids.tolist(), distances.tolist(), strict=True))
        return np.array([self._without[content] for content in ids], np.float64)

    def distance_with(
        self, rows: Rows, columns: Rows, i: Int64, j: Int64, progress: Progress | None = None
    ) -> Float64:
        """d(j[k] | example i[k]) for every k, [len(i)]; i indexes `rows`, j indexes `columns`."""
        return self._measure(self._pair_groups(rows, columns, i, j), len(i), progress)

    def tokens(self, rows: Rows, columns: Rows) -> tuple[int, int]:
        """Tokens that a tile's forward passes read, padding aside, and those of one pass per pair.

        Both without the passes that have no example. Sequences that are cut count with their whole length.
        """
        read = alone = 0
        for group in self._tile_groups(rows, columns):
            tails = int(group.sizes.sum()) - len(group.tails)
            alone += tails + len(group.prefix) * len(group.tails)
            read += tails + len(group.prefix) * (1 if self._worthwhile(group) else len(group.tails))
        return read, alone

    def _encode(self, rows: Rows, columns: Rows, i: Int64, j: Int64) -> list[list[int]]:
        """Ids of the whole prompts of columns[j[k]] after the examples rows[i[k]], without BOS."""
        template, at = self.config.template_with, list(zip(i.tolist(), j.tolist(), strict=True))
        if self.model.template == "chat":
            return conversation_ids(
                self.model,
                [
                    [user(rows.prompts[a]), assistant(rows.responses[a]), user(columns.prompts[b])]
                    for a, b in at
                ],
            )
        return self.model.tokenize(
            [
                fill(
                    template,
                    example_prompt=rows.prompts[a],
                    example_response=rows.responses[a],
                    prompt=columns.prompts[b],
                )
                for a, b in at
            ]
        )

    def _responses(self, columns: Rows) -> list[list[int]]:
        """tokens(response) ++ [eos] of every column."""
        return [[*ids, self.model.eos_id] for ids in self.model.tokenize(columns.responses)]

    def _tile_groups(self, rows: Rows, columns: Rows) -> Iterator[_Group]:
        """One group per row: all columns after that example."""
        m, n = len(rows), len(columns)
        responses, every = self._responses(columns), np.arange(n)
        found = halves(lambda i, j: self._encode(rows, columns, i, j), m, n)
        if found is None:
            for row in range(m):
                ids = self._encode(rows, columns, np.full(n, row), every)
                yield self._group(ids, responses, row * n + every)
            return
        bos, ready = list(self.model.bos_ids), dict[bytes, "Batch"]()
        sizes = _sizes(found.suffixes, responses)
        for row, prefix in enumerate(found.prefixes):
            yield _Group(bos + prefix, found.suffixes, responses, row * n + every, sizes, ready)

    def _pair_groups(self, rows: Rows, columns: Rows, i: Int64, j: Int64) -> Iterator[_Group]:
        """One group per run of equal examples, examples sorted by content."""
        order = np.argsort(rows.content_ids[i], kind="stable")
        for start in range(0, len(order), _WINDOW):
            window = order[start : start + _WINDOW]
            ids = self._encode(rows, columns, i[window], j[window])
            needed, at = np.unique(j[window], return_inverse=True)
            responses = self._responses(columns.take(needed))
            contents = rows.content_ids[i[window]].tolist()
            for _, run in groupby(range(len(window)), key=contents.__getitem__):
                k = list(run)
                yield self._group([ids[x] for x in k], [responses[at[x]] for x in k], window[k])

    def _group(self, prompts: list[list[int]], responses: list[list[int]], where: Int64) -> _Group:
        """The sequences of whole prompts, cut where they part."""
        shared = max(0, min(common_prefix(prompts), min(map(len, prompts)) - 1))
        prefix = [*self.model.bos_ids, *prompts[0][:shared]]
        tails = [ids[shared:] for ids in prompts]
        return _Group(prefix, tails, responses, where, _sizes(tails, responses))

    def _worthwhile(self, group: _Group) -> bool:
        """Whether a prefix of its own saves more than the passes it costs."""
        from nncift_core.forward import can_share

        saved = (len(group.tails) - 1) * len(group.prefix)
        return saved > 2 * self._budget.slack and can_share(self.model)

    def _measure(self, groups: Iterable[_Group], count: int, progress: Progress | None) -> Float64:
        """Distances [count] of all sequences of `groups`."""
        distances = np.empty(count, np.float64)
        alone: list[tuple[list[int], list[int], int]] = []
        window: list[tuple[_Group, Int64]] = []
        limit = self.model.context_length
        bos = len(self.model.bos_ids)
        for group in groups:
            fits = np.full(len(group.tails), self._worthwhile(group))
            if limit is not None:
                fits &= len(group.prefix) + group.sizes.sum(axis=1) <= limit
            for k in np.flatnonzero(~fits).tolist():
                alone.append((group.prefix[bos:] + group.tails[k], group.responses[k], int(group.where[k])))
                if len(alone) == _WINDOW:
                    self.counters["truncated_sequences"] += self._measure_alone(alone, distances, progress)
                    alone.clear()
            if fits.any():
                window.append((group, np.flatnonzero(fits)))
            if len(window) == _EXAMPLES:
                self._measure_shared(window, distances, progress)
                window.clear()
        self._measure_shared(window, distances, progress)
        self.counters["truncated_sequences"] += self._measure_alone(alone, distances, progress)
        return distances

    def _measure_shared(
        self, window: list[tuple[_Group, Int64]], distances: Float64, progress: Progress | None
    ) -> None:
        """Fill in the distances of the sequences chosen of each group, every prefix computed once."""
        from nncift_core.forward import encode_prefixes

        def encode(batch: Int64) -> None:
            chosen = [window[k] for k in batch.tolist()]
            prefixes = encode_prefixes(self.model, [group.prefix for group, _ in chosen])
            for (group, members), prefix in zip(chosen, prefixes, strict=True):
                self._measure_group(group, members, prefix, distances, progress)

        lengths = np.array([len(group.prefix) for group, _ in window], np.int64)
        self._prefix_budget.run(lengths, encode)

    def _measure_group(
        self, group: _Group, members: Int64, prefix: Prefix, distances: Float64, progress: Progress | None
    ) -> None:
        from nncift_core.forward import batch_log_probs, response_batch

        def score(batch: Int64) -> None:
            index = members[batch]
            ready = group.ready.get(index.tobytes())
            if ready is None:
                tails, responses = [group.tails[k] for k in index], [group.responses[k] for k in index]
                ready = group.ready[index.tobytes()] = response_batch(self.model, tails, responses)
            distances[group.where[index]] = _distances(
                batch_log_probs(self.model, ready, prefix), ready.starts
            )
            if progress is not None:
                progress(len(batch))

        # The last response token is not read.
        self._budget.run(group.sizes[members].sum(axis=1) - 1, score)

    def _measure_alone(
        self, found: list[tuple[list[int], list[int], int]], distances: Float64, progress: Progress | None
    ) -> int:
        """Fill in the distances of (prompt without BOS, response, where to); how many had to be cut."""
        fitted = [fit(self.model, prompt, response, "influence.delift") for prompt, response, _ in found]
        where = np.array([at for _, _, at in found], np.int64)

        def score(batch: Int64) -> None:
            chosen = [fitted[k] for k in batch.tolist()]
            values = self.model.response_log_probs([c[0] for c in chosen], [c[1] for c in chosen])
            starts = np.cumsum([0, *map(len, values[:-1])])
            distances[where[batch]] = _distances(np.concatenate(values), starts)
            if progress is not None:
                progress(len(batch))

        self._budget.run(np.array([len(p) + len(r) - 1 for p, r, _ in fitted], np.int64), score)
        return sum(cut for _, _, cut in fitted)

    @cached_property
    def _budget(self) -> TokenBudget:
        return TokenBudget(self.batch_tokens, slack_of(self.model.device), device=self.model.device)

    @cached_property
    def _prefix_budget(self) -> TokenBudget:
        # Keys and values of these stay in memory while their batches are computed.
        return TokenBudget(max(1, self.batch_tokens // 4), self._budget.slack, device=self.model.device)


def _sizes(tails: list[list[int]], responses: list[list[int]]) -> Int64:
    """Lengths [n, 2] of tails and responses."""
    return np.array([(len(t), len(r)) for t, r in zip(tails, responses, strict=True)], np.int64)


def _distances(log_probs: Float32, starts: Int64) -> Float64:
    """|| p - 1 ||_2 / sqrt(T) [n] from log p of n responses, one after the other; raises RunError for NaN."""
    miss = np.expm1(log_probs.astype(np.float64))
    squares = np.add.reduceat(miss * miss, starts)
    distances: Float64 = np.sqrt(squares / np.diff(starts, append=len(miss)))
    if np.isnan(distances).any():
        raise RunError(
            'the language model gave a probability that is not a number: use dtype = "float32" or "bfloat16"'
        )
    return distances


def _no_model() -> LanguageModel:
    raise AssertionError("a key needs no model")
