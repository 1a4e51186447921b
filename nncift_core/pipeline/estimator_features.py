"""What estimators read of rows, columns and pairs: which of it a job uses, its computation, its loading.

Embeddings are made by `pipeline.embed`, forward-pass features of the influence model here: once per
content, in pieces that a killed task keeps. Lengths, BM25 and cosines are made when features are loaded.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from nncift_core.bm25 import Okapi
from nncift_core.config import Config
from nncift_core.config_sections import CHEAP
from nncift_core.encoders import example_text
from nncift_core.estimator.contract import (
    BM25,
    COSINE,
    EMBEDDING,
    ERROR,
    GROUPS,
    HIDDEN,
    LENGTH,
    LENGTHS,
    LOSS,
    PAIR_FEATURES,
    PROXY,
    RESPONSE,
    RESPONSE_COSINE,
    SIDE_GROUPS,
    Features,
    PairFeature,
)
from nncift_core.estimator.pair_features import Cosine, Lexical, OfRow
from nncift_core.forward_features import ForwardFeatures, Layout
from nncift_core.functions import CATALOGUE
from nncift_core.hashing import digest
from nncift_core.influence.contract import Rows, Side
from nncift_core.pipeline.labelling import label_fraction
from nncift_core.pipeline.problem import Problem, prompt_template

if TYPE_CHECKING:
    from nncift_core.language_models import LanguageModel

Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]

# Raise this when lengths or pair features mean something else than before.
VERSION = 1
PIECE = 256
SHARD = 1024

FORWARD = (HIDDEN, ERROR, LOSS, PROXY)
_OF_PAIRS = (COSINE, RESPONSE_COSINE, BM25, PROXY)
# Estimators that read little; the others read whatever there is.
_READS: dict[str, tuple[str, ...]] = {
    "mlp-paper": (EMBEDDING,),
    "constant": (),
    "means": (),
    "cosine": (COSINE,),
    "bm25": (BM25,),
    "length": (LENGTH,),
    "proxy": (PROXY,),
    "random": (),
}
# Baselines that stand beside every estimate, and what they read.
_BASELINES = (COSINE, BM25, LENGTH)

_fitted: WeakKeyDictionary[Problem, Okapi] = WeakKeyDictionary()
_lock = threading.Lock()


@dataclass(frozen=True)
class ForwardShard:
    """Contents of rows or columns that lack forward-pass features."""

    name: str
    content_ids: tuple[int, ...]


def readable(config: Config) -> tuple[str, ...]:
    """Groups and pair features (names of `estimator.contract`) that the job's estimators may read: those of
    `estimator.features` that are possible and that some of them reads."""
    e = config.estimator
    names = [*e.candidates, *CHEAP] if e.architecture == "auto" else [e.architecture]
    everything = (*SIDE_GROUPS, *PAIR_FEATURES)
    read = {group for name in names for group in _READS.get(name, everything)}
    wanted = {name for group in e.features for name in GROUPS[group]}
    return _possible(config, read & wanted)


def groups_of(config: Config) -> tuple[str, ...]:
    """What is loaded: `readable`, and what the baselines beside every estimate read."""
    return _possible(config, {*readable(config), *_BASELINES})


def _possible(config: Config, names: Iterable[str]) -> tuple[str, ...]:
    """Those of `names` that the job's function allows, in the contract's order.

    Forward-pass features are of the model that is asked for values; SelectIT may ask others.
    """
    i = config.influence
    without: set[str] = set(_OF_PAIRS) if config.pointwise else set()
    if not CATALOGUE[i.function].teacher or (i.function == "selectit" and i.selectit.models):
        without.update(FORWARD)
    asked = set(names) - without
    return tuple(name for name in (*SIDE_GROUPS, *PAIR_FEATURES) if name in asked)


def estimator_features_needed(config: Config) -> bool:
    """Whether forward passes are made for the estimators' sake."""
    return label_fraction(config) < 1 and not set(FORWARD).isdisjoint(groups_of(config))


def features_key(problem: Problem) -> str:
    """Identity of what estimators read: encoders, model, template, groups, versions.

    Not of the pool, though BM25 counts its words: an estimator outlives a pool that grows a little.
    """
    groups = groups_of(problem.config)
    parts: dict[str, object] = {
        "version": VERSION,
        "groups": groups,
        "readable": readable(problem.config),
        "encoders": problem.keys.encoders,
    }
    if not set(FORWARD).isdisjoint(groups):
        parts["forward"] = problem.forward_store.key
    if BM25 in groups:
        parts["bm25"] = problem.config.influence.bm25.model_dump()
    return digest(parts)


def plan_estimator_features(problem: Problem) -> tuple[list[ForwardShard], int]:
    """Shards of the contents that lack forward-pass features, and the number of contents in all.

    Contents of rows first, then those that only columns hold. Nothing where nothing is estimated.
    """
    if problem.all_exact or not estimator_features_needed(problem.config):
        return [], 0
    store = problem.forward_store
    store.refresh()
    columns = np.empty(0, np.int64) if problem.config.pointwise else problem.columns
    sides = {"pool": problem.rows, "target": columns[~np.isin(columns, problem.rows)]}
    shards = []
    for name, contents in sides.items():
        missing = store.missing(contents)
        for start in range(0, len(missing), SHARD):
            ids = tuple(missing[start : start + SHARD].tolist())
            shards.append(ForwardShard(f"{name} {start // SHARD}", ids))
    return shards, sum(map(len, sides.values()))


def compute_estimator_features(
    problem: Problem,
    model: LanguageModel,
    shard: ForwardShard,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Compute what `shard` lacks, piece by piece, and store it; returns the number of contents done."""
    store = problem.forward_store
    store.refresh()
    ids = store.missing(np.array(shard.content_ids, np.int64))
    config = problem.config
    template, field = prompt_template(config)
    features = ForwardFeatures(model, template, config.language_model.batch_tokens, field=field)
    for start in range(0, len(ids), PIECE):
        piece = ids[start : start + PIECE]
        texts = problem.texts(piece)
        counted = Counter(features.counters)
        values = features.compute(texts.prompts, texts.responses, progress)
        store.write(piece, values, problem.valued, dict(features.counters - counted))
    return len(ids)


def load_features(problem: Problem, row_ids: Int64, column_ids: Int64) -> Features:
    """What estimators read of these rows [R] and columns [C], in this order.

    Groups are those of `groups_of`; `Features.only(readable(config))` leaves what a fit may read. The column
    of a pointwise function has no groups. Raises RunError for a content without stored vectors.
    """
    return MatrixFeatures(problem, column_ids).of(row_ids)


def feature_files(problem: Problem, row_ids: Int64, column_ids: Int64) -> tuple[str, ...]:
    """Paths, sorted, of the stored vectors that `load_features` reads of these rows [R] and columns [C]."""
    groups = groups_of(problem.config)
    found: set[str] = set()
    sides: dict[Side, Int64] = {"row": row_ids}
    if not problem.config.pointwise:
        sides["column"] = column_ids
    for side, ids in sides.items():
        if EMBEDDING in groups or COSINE in groups:
            found.update(problem.vectors(side).files(ids))
        if RESPONSE in groups:
            found.update(problem.response_vectors(side).files(ids))
        if not set(FORWARD).isdisjoint(groups):
            found.update(problem.forward_store.files(ids))
    return tuple(sorted(found))


class MatrixFeatures:
    """`load_features` for one set of columns [C], read once, and one block of rows after another."""

    def __init__(self, problem: Problem, column_ids: Int64) -> None:
        self.problem, self.column_ids, self.groups = problem, column_ids, groups_of(problem.config)
        pointwise = problem.config.pointwise
        self._columns = None if pointwise else _Loaded(problem, column_ids, "column", self.groups)

    def of(self, row_ids: Int64) -> Features:
        """Features of the rows [R] and all columns."""
        rows, columns = _Loaded(self.problem, row_ids, "row", self.groups), self._columns
        pairs: dict[str, PairFeature] = {LENGTH: OfRow(rows.length, len(self.column_ids))}
        if columns is None:
            return Features(row_ids, self.column_ids, rows.groups, {}, pairs)
        for name in (COSINE, RESPONSE_COSINE, PROXY):
            if name in self.groups and name in rows.vectors:
                # The encoder's vectors are of length 1 already.
                made = Cosine.of if name == PROXY else Cosine
                pairs[name] = made(rows.vectors[name], columns.vectors[name])
        if BM25 in self.groups:
            pairs[BM25] = Lexical(_word_scores(self.problem), _joined(rows.texts), _joined(columns.texts))
        ordered = {name: pairs[name] for name in PAIR_FEATURES if name in pairs}
        return Features(row_ids, self.column_ids, rows.groups, columns.groups, ordered)


class _Loaded:
    """One side's features.

    texts [n]; length [n]: log(1 + characters of the response); groups: of the contract, [n, d]; vectors: what
    pair features compare, by their names, [n, d].
    """

    def __init__(self, problem: Problem, ids: Int64, side: Side, groups: tuple[str, ...]) -> None:
        self.texts = problem.texts(ids)
        characters = [(len(p), len(r)) for p, r in zip(self.texts.prompts, self.texts.responses, strict=True)]
        lengths = np.log1p(np.array(characters, np.float32).reshape(-1, 2))
        self.length: Float32 = lengths[:, 1]
        self.vectors: dict[str, Float32] = {}
        found: dict[str, Float32] = {LENGTHS: lengths}
        if EMBEDDING in groups or COSINE in groups:
            found[EMBEDDING] = self.vectors[COSINE] = problem.embeddings(ids, side)
        if RESPONSE in groups:
            found[RESPONSE] = self.vectors[RESPONSE_COSINE] = problem.response_vectors(side).load(ids)
        if not set(FORWARD).isdisjoint(groups):
            vectors = problem.forward_store.load(ids)
            forward = Layout.of(vectors.shape[1]).split(vectors)
            found[LENGTHS] = np.concatenate([lengths, forward["tokens"]], axis=1)
            if "proxy" in forward:
                self.vectors[PROXY] = forward["proxy"]
            # A view would keep the sketches in memory for as long as the group.
            found |= {name: forward[name].copy() for name in (HIDDEN, ERROR, LOSS) if name in forward}
        self.groups = {name: found[name] for name in groups if name in found}


def _word_scores(problem: Problem) -> Okapi:
    """BM25 under the word statistics of the pool's distinct rows; counted once per problem."""
    with _lock:
        if problem not in _fitted:
            settings = problem.config.influence.bm25
            texts = _joined(problem.texts(problem.pool.contents))
            _fitted[problem] = Okapi.fit(texts, settings.k1, settings.b)
        return _fitted[problem]


def _joined(texts: Rows) -> tuple[str, ...]:
    return tuple(example_text(p, r) for p, r in zip(texts.prompts, texts.responses, strict=True))
