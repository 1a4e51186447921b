"""BM25: how well a document answers the words of another text (Robertson and Zaragoza 2009, equation 3.15).

score(d, q) = sum over the distinct words w of q of
    idf(w) * tf(w, d) * (k1 + 1) / (tf(w, d) + k1 * (1 - b + b * |d| / mean length)),
    idf(w) = log(1 + (n - df(w) + 0.5) / (df(w) + 0.5)),
with tf(w, d) how often w stands in d, |d| the words of d, and n, df and the mean length from the texts
that were fitted. The idf is positive for every word; a word that no fitted text holds has df = 0. Each
word of q counts once, however often it stands there (their k3 = 0): q is a whole text here, not a search,
and what it repeats most is what every text repeats.

Words: of the NFC-normalised text in lower case, runs of Unicode letters, digits and underscores (so
`snake_case` and `2024` are one word each), every Han character and kana by itself (their texts have no
spaces), and each sign that carries meaning in code and formulas (`+*/%=<>&|^~@#$` and the backslash).
Other punctuation parts words and is none.

A score is summed in float64 in the alphabetical order of words, so it is the same number whichever
texts are scored together.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nncift_core.compiled import compiled
from nncift_core.errors import IntegrityError

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

_FORMAT = "nncift-bm25/1"
_NO_SPACES = "\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
_WORD = re.compile(rf"[{_NO_SPACES}]|[^\W{_NO_SPACES}]+|[+*/%=<>&|^~@#$\\]")


def words(text: str) -> list[str]:
    """The words of `text` in order, repeated as they are there (rule: the module's docstring)."""
    return _WORD.findall(unicodedata.normalize("NFC", text).lower())


@dataclass(frozen=True)
class WordStatistics:
    """What a collection of texts says about words.

    texts: n; total_words: words of all of them; document_frequency: word -> number of texts with it.
    """

    texts: int
    total_words: int
    document_frequency: Mapping[str, int]

    @classmethod
    def of(cls, texts: Iterable[str], progress: Callable[[int], None] | None = None) -> WordStatistics:
        """Count `texts`, in whichever order; progress(1) after each. Raises ValueError for no text."""
        frequency: Counter[str] = Counter()
        count = total = 0
        for text in texts:
            found = words(text)
            frequency.update(set(found))
            total += len(found)
            count += 1
            if progress is not None:
                progress(1)
        if not count:
            raise ValueError("no text to count words in")
        return cls(count, total, dict(frequency))

    @property
    def mean_length(self) -> float:
        """Mean words of a text."""
        return self.total_words / self.texts

    def idf(self, word: str) -> float:
        """log(1 + (n - df + 0.5) / (df + 0.5)), above 0."""
        df = self.document_frequency.get(word, 0)
        return float(np.log1p((self.texts - df + 0.5) / (df + 0.5)))

    def save(self, path: Path) -> None:
        """Write JSON: the same bytes for the same texts in any order."""
        data = {"format": _FORMAT, "texts": self.texts, "total_words": self.total_words}
        known = dict(sorted(self.document_frequency.items()))
        content = json.dumps(data | {"document_frequency": known}, ensure_ascii=True)
        path.write_text(content, encoding="ascii")

    @classmethod
    def load(cls, path: Path) -> WordStatistics:
        """Read what `save` wrote; raises IntegrityError for an absent file or any other content."""
        try:
            data = json.loads(path.read_text(encoding="ascii"))
            good = data["format"] == _FORMAT and data["texts"] > 0
            found = cls(int(data["texts"]), int(data["total_words"]), dict(data["document_frequency"]))
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise IntegrityError(f"{path.name}: no word counts ({type(e).__name__})") from None
        if not good:
            raise IntegrityError(f"{path.name}: word counts of another format")
        return found


class Okapi:
    """BM25 scores under fixed word statistics."""

    def __init__(self, statistics: WordStatistics, k1: float = 1.5, b: float = 0.75) -> None:
        """k1 >= 0: how slowly repeated words saturate; b in 0..1: how much a document's length counts."""
        self.statistics, self.k1, self.b = statistics, k1, b

    @classmethod
    def fit(cls, texts: Iterable[str], k1: float = 1.5, b: float = 0.75) -> Okapi:
        """Scores under the statistics of `texts`; raises ValueError for no text."""
        return cls(WordStatistics.of(texts), k1, b)

    def scores(self, documents: Sequence[str], queries: Sequence[str]) -> Float32:
        """score(documents[i], queries[j]), float32 [len(documents), len(queries)]."""
        table = self._table(documents, queries)
        out = np.zeros((len(documents), len(queries)), np.float32)
        _fill_tile(table.document_start, table.document_word, table.weight, *table.postings(), out)
        return out

    def pair_scores(
        self,
        documents: Sequence[str],
        queries: Sequence[str],
        document_index: Int64 | None = None,
        query_index: Int64 | None = None,
    ) -> Float32:
        """score(documents[document_index[k]], queries[query_index[k]]), float32 [k].

        Without indices: documents[k] with queries[k]. Bit-equal to the entries of `scores`.
        Raises ValueError for unequal lengths.
        """
        i = np.arange(len(documents)) if document_index is None else np.asarray(document_index, np.int64)
        j = np.arange(len(queries)) if query_index is None else np.asarray(query_index, np.int64)
        if i.shape != j.shape:
            raise ValueError(f"{len(i)} documents but {len(j)} queries")
        return self.pair_scorer(documents, queries)(i, j)

    def pair_scorer(
        self, documents: Sequence[str], queries: Sequence[str]
    ) -> Callable[[Int64, Int64], Float32]:
        """A function of document indices [k] and query indices [k] giving float32 [k]; texts are read once.

        It raises IndexError for an index that is none.
        """
        t = self._table(documents, queries)

        def score(i: Int64, j: Int64) -> Float32:
            for index, size in ((i, len(documents)), (j, len(queries))):
                if len(index) and not (0 <= index.min() and index.max() < size):
                    raise IndexError(f"an index lies outside 0..{size - 1}")
            out = np.empty(len(i), np.float32)
            _fill_pairs(
                t.document_start, t.document_word, t.weight, t.query_start, t.query_word,
                np.ascontiguousarray(i, np.int64), np.ascontiguousarray(j, np.int64), out,
            )  # fmt: skip
            return out

        return score

    def _table(self, documents: Sequence[str], queries: Sequence[str]) -> _Table:
        """The words of both sides as numbers, in alphabetical order of the queries' words."""
        asked = [set(words(q)) for q in queries]
        vocabulary = sorted(set().union(*asked))
        number = {word: k for k, word in enumerate(vocabulary)}
        query_words = [sorted(map(number.__getitem__, q)) for q in asked]
        idf = np.fromiter(map(self.statistics.idf, vocabulary), np.float64, len(vocabulary))
        found, counts, lengths = [], [], np.empty(len(documents))
        for k, document in enumerate(documents):
            counted = Counter(words(document))
            lengths[k] = counted.total()
            known = sorted((number[w], tf) for w, tf in counted.items() if w in number)
            found.append([w for w, _ in known])
            counts.append([tf for _, tf in known])
        start, word = _joined(found)
        query_start, query_word = _joined(query_words)
        tf = _joined(counts)[1].astype(np.float64)
        mean = self.statistics.mean_length
        # Where no fitted text has a word there is no length to compare with: every document is as long.
        relative = lengths / mean if mean > 0 else np.ones(len(documents))
        norm = np.repeat(self.k1 * (1 - self.b + self.b * relative), np.diff(start))
        weight = idf[word] * tf * (self.k1 + 1) / (tf + norm)
        return _Table(len(vocabulary), start, word, weight, query_start, query_word)


@dataclass(frozen=True)
class _Table:
    """Both sides in compressed rows: document k holds the words `document_word[s[k] : s[k + 1]]` (s =
    `document_start`) with what each adds to a score, `weight`; queries likewise, without weights."""

    vocabulary: int
    document_start: Int64
    document_word: Int64
    weight: Float64
    query_start: Int64
    query_word: Int64

    def postings(self) -> tuple[Int64, Int64]:
        """start [vocabulary + 1], query: the queries that hold word w are query[start[w] : start[w + 1]]."""
        order = np.argsort(self.query_word, kind="stable")
        query = np.repeat(np.arange(len(self.query_start) - 1), np.diff(self.query_start))
        held = np.bincount(self.query_word, minlength=self.vocabulary)
        return np.concatenate([[0], np.cumsum(held)]).astype(np.int64), query[order]


def _joined(lists: list[list[int]]) -> tuple[Int64, Int64]:
    """start [len(lists) + 1] and the lists' numbers one after the other."""
    start = np.zeros(len(lists) + 1, np.int64)
    np.cumsum([len(x) for x in lists], out=start[1:])
    return start, np.fromiter((x for row in lists for x in row), np.int64, int(start[-1]))


@compiled
def _fill_tile(
    document_start: Int64,
    document_word: Int64,
    weight: Float64,
    posting_start: Int64,
    posting_query: Int64,
    out: Float32,
) -> None:
    """out[d, q] = sum of the weights of document d's words that query q holds."""
    total = np.zeros(out.shape[1])
    for d in range(out.shape[0]):
        total[:] = 0.0
        for k in range(document_start[d], document_start[d + 1]):
            w, x = document_word[k], weight[k]
            for p in range(posting_start[w], posting_start[w + 1]):
                total[posting_query[p]] += x
        for q in range(out.shape[1]):
            out[d, q] = total[q]


@compiled
def _fill_pairs(
    document_start: Int64,
    document_word: Int64,
    weight: Float64,
    query_start: Int64,
    query_word: Int64,
    document: Int64,
    query: Int64,
    out: Float32,
) -> None:
    """out[k] = score of (document[k], query[k]): one walk along two sorted lists of words."""
    for k in range(len(out)):
        a, a_end = document_start[document[k]], document_start[document[k] + 1]
        c, c_end = query_start[query[k]], query_start[query[k] + 1]
        total = 0.0
        while a < a_end and c < c_end:
            if document_word[a] < query_word[c]:
                a += 1
            elif document_word[a] > query_word[c]:
                c += 1
            else:
                total += weight[a]
                a += 1
                c += 1
        out[k] = total
