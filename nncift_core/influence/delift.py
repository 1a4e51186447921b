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
from collections.abc import Callable, Iterator
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from nncift_core.chat import assistant, conversation_ids, user
from nncift_core.config import Config, DeliftConfig
from nncift_core.devices import pick
from nncift_core.hashing import digest
from nncift_core.influence.contract import CostModel, Float32, Float64, Int64, Pairwise, Progress, Rows
from nncift_core.language_models import (
    LanguageModel,
    language_model_key,
    load_language_model,
    load_tokenizer,
)
from nncift_core.sequences import common_prefix, encode_prompts, fill, halves

if TYPE_CHECKING:
    from nncift_core.influence.delift_passes import Grid, Passes

# Pairs tokenised at once: bounds memory on large tiles.
_WINDOW = 4096


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
        load_tokenizer: Callable[[], LanguageModel] | None = None,
    ) -> None:
        """load_model: gives the model when called; model_key: that model's `language_model_key`;
        batch_tokens: tokens of a forward pass, padding included (never changes the key); load_tokenizer:
        gives the model without weights, for `token_costs` (default: `load_model`)."""
        self._load_model = load_model
        self._load_tokenizer = load_tokenizer or load_model
        self._model_key = model_key
        self.config = config or DeliftConfig()
        self.batch_tokens = batch_tokens
        self.counters: Counter[str] = Counter()
        self._without: dict[int, float] = {}

    @classmethod
    def from_config(cls, config: Config, device: str, *more: str) -> Delift:
        """The function of `config` on `device`, or where `[language_model] device` says; more: further
        devices that the model is spread over."""
        where = pick(config.language_model.device, device, "language_model.device")
        return cls(
            lambda: load_language_model(config.language_model, where, config.base_dir, (where, *more)),
            language_model_key(config.language_model, config.base_dir),
            config.influence.delift,
            config.language_model.batch_tokens,
            lambda: load_tokenizer(config.language_model, config.base_dir),
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
        distances = self._measure(self._tile_grids(rows, columns), len(rows) * len(columns), progress)
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
        from nncift_core.influence.delift_passes import Grid

        ids = columns.content_ids.tolist()
        first = {content: k for k, content in reversed(list(enumerate(ids))) if content not in self._without}
        new = columns.take(np.array(sorted(first.values()), np.int64))
        if len(new):
            bos, responses = list(self.model.bos_ids), self._responses(new)
            prompts = encode_prompts(self.model, new.prompts, self.config.template_without)
            each = [
                Grid([bos], [prompt], [response], np.array([[0]]))
                for prompt, response in zip(prompts, responses, strict=True)
            ]
            # One by one: in a batch the last bits would depend on which columns were not known yet, and with
            # them on the order of shards, on another run beside this one, on a kill.
            distances = np.concatenate([self._passes.measure([grid], 1) for grid in each])
            self.counters["truncated_targets"] += self._passes.counters.pop("cut", 0)
            self._without.update(zip(new.content_ids.tolist(), distances.tolist(), strict=True))
        return np.array([self._without[content] for content in ids], np.float64)

    def distance_with(
        self, rows: Rows, columns: Rows, i: Int64, j: Int64, progress: Progress | None = None
    ) -> Float64:
        """d(j[k] | example i[k]) for every k, [len(i)]; i indexes `rows`, j indexes `columns`."""
        return self._measure(self._pair_grids(rows, columns, i, j), len(i), progress)

    def tokens(self, rows: Rows, columns: Rows) -> tuple[int, int]:
        """Tokens that the forward passes of a tile read, padding aside, and those of one pass per pair.

        Both leave out the passes without an example, and cut nothing to the context.
        """
        grids = list(self._tile_grids(rows, columns))
        return (
            sum(grid.tokens(self._passes.worthwhile(grid)) for grid in grids),
            sum(grid.tokens(shared=False) for grid in grids),
        )

    def token_costs(self, rows: Rows, columns: Rows) -> tuple[Float64, Float64]:
        """Tokens of what the prompts of a row begin with [m], and of what follows with its response [n].

        Row i against k columns reads shared[i] + sum of own[j] tokens, no part longer than the context;
        the passes without an example are left out. Loads the tokenizer only. Where tokens reach across
        the border, what the first and the last column share stands for what all of them do.
        """
        counting = Delift(self._load_tokenizer, self._model_key, self.config)
        m, n = len(rows), len(columns)
        found = halves(lambda i, j: counting._encode(rows, columns, i, j), m, n)
        if found is not None:
            shared, own = [len(ids) for ids in found.prefixes], [len(ids) for ids in found.suffixes]
        else:
            ends = [counting._encode(rows, columns, np.arange(m), np.full(m, j)) for j in (0, n - 1)]
            shared = [common_prefix(list(both)) for both in zip(*ends, strict=True)]
            of_first = counting._encode(rows, columns, np.zeros(n, np.int64), np.arange(n))
            own = [max(1, len(ids) - shared[0]) for ids in of_first]
        answers = np.array([len(ids) - 1 for ids in counting._responses(columns)])
        limit = np.inf if counting.model.context_length is None else counting.model.context_length
        bos = len(counting.model.bos_ids)
        return np.minimum(np.array(shared) + bos, limit), np.minimum(np.array(own) + answers, limit)

    def _measure(self, grids: Iterator[Grid], count: int, progress: Progress | None) -> Float64:
        distances = self._passes.measure(grids, count, progress)
        self.counters["truncated_sequences"] += self._passes.counters.pop("cut", 0)
        return distances

    @cached_property
    def _passes(self) -> Passes:
        from nncift_core.influence.delift_passes import Passes

        return Passes(self.model, self.batch_tokens)

    def _encode(self, rows: Rows, columns: Rows, i: Int64, j: Int64) -> list[list[int]]:
        """Ids of the whole prompts of columns[j[k]] after the examples rows[i[k]], without BOS."""
        triples = [
            (rows.prompts[a], rows.responses[a], columns.prompts[b])
            for a, b in zip(i.tolist(), j.tolist(), strict=True)
        ]
        if self.model.template == "chat":
            return conversation_ids(self.model, [[user(x), assistant(y), user(q)] for x, y, q in triples])
        template = self.config.template_with
        return self.model.tokenize(
            [fill(template, example_prompt=x, example_response=y, prompt=q) for x, y, q in triples]
        )

    def _responses(self, columns: Rows) -> list[list[int]]:
        """tokens(response) ++ [eos] of every column."""
        return [[*ids, self.model.eos_id] for ids in self.model.tokenize(columns.responses)]

    def _tile_grids(self, rows: Rows, columns: Rows) -> Iterator[Grid]:
        """The whole tile as one grid, or one grid per row where tokens reach across the border."""
        from nncift_core.influence.delift_passes import Grid

        m, n = len(rows), len(columns)
        responses, where = self._responses(columns), np.arange(m * n).reshape(m, n)
        found = halves(lambda i, j: self._encode(rows, columns, i, j), m, n)
        if found is None:
            for row in range(m):
                ids = self._encode(rows, columns, np.full(n, row), np.arange(n))
                yield self._grid(ids, responses, where[row])
        else:
            bos = list(self.model.bos_ids)
            yield Grid([bos + ids for ids in found.prefixes], found.suffixes, responses, where)

    def _pair_grids(self, rows: Rows, columns: Rows, i: Int64, j: Int64) -> Iterator[Grid]:
        """One grid per run of equal examples, examples sorted by content."""
        order = np.argsort(rows.content_ids[i], kind="stable")
        for start in range(0, len(order), _WINDOW):
            window = order[start : start + _WINDOW]
            ids = self._encode(rows, columns, i[window], j[window])
            needed, at = np.unique(j[window], return_inverse=True)
            responses = self._responses(columns.take(needed))
            contents = rows.content_ids[i[window]].tolist()
            for _, run in groupby(range(len(window)), key=contents.__getitem__):
                k = list(run)
                yield self._grid([ids[x] for x in k], [responses[at[x]] for x in k], window[k])

    def _grid(self, prompts: list[list[int]], responses: list[list[int]], where: Int64) -> Grid:
        """Whole prompts of one example, cut where they part."""
        from nncift_core.influence.delift_passes import Grid

        shared = max(0, min(common_prefix(prompts), min(map(len, prompts)) - 1))
        prefix = [*self.model.bos_ids, *prompts[0][:shared]]
        return Grid([prefix], [ids[shared:] for ids in prompts], responses, where[None])


def _no_model() -> LanguageModel:
    raise AssertionError("a key needs no model")
