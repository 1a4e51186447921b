"""BM25 against the formula written out, its words, its files."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from nncift_core.bm25 import Okapi, WordStatistics, words
from nncift_core.errors import IntegrityError

TEXTS = [
    "The cat sat on the mat.",
    "A dog, a dog, a dog!",
    "x = y + 2; return x",
    "",
    "the quick brown fox jumps over the lazy dog",
    "猫が好き the cat",
]
QUERIES = ["Which cat? THE cat!", "", "return x + unheard", "a fox and a dog and a fox", "猫"]


def plain(fitted: list[str], document: str, query: str, k1: float, b: float) -> float:
    bags = [words(t) for t in fitted]
    n, mean = len(bags), sum(map(len, bags)) / len(bags)
    d, total = words(document), 0.0
    for w in set(words(query)):
        df = sum(w in bag for bag in bags)
        idf = math.log(1 + (n - df + 0.5) / (df + 0.5))
        tf = d.count(w)
        total += idf * tf * (k1 + 1) / (tf + k1 * (1 - b + b * len(d) / mean)) if tf else 0.0
    return total


def random_texts(count: int, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(f"w{int(w)}" for w in rng.zipf(1.3, rng.integers(0, 60)) % 300) for _ in range(count)]


@pytest.mark.parametrize(("k1", "b"), [(1.5, 0.75), (0.0, 0.3), (2.2, 0.0), (0.9, 1.0)])
def test_scores_equal_the_formula(k1: float, b: float) -> None:
    documents = [*TEXTS, "a new dog that no fitted text has seen, unheard of"]
    scores = Okapi.fit(TEXTS, k1, b).scores(documents, QUERIES)
    expected = [[plain(TEXTS, d, q, k1, b) for q in QUERIES] for d in documents]
    assert scores.dtype == np.float32 and scores.shape == (7, 5)
    np.testing.assert_allclose(scores, expected, rtol=1e-6, atol=1e-6)
    assert scores[6, 2] > 0  # "unheard" is unknown to the statistics and counts as the rarest word


def test_scores_equal_the_formula_on_many_random_texts() -> None:
    fitted, queries = random_texts(60, 1), random_texts(25, 2)
    expected = [[plain(fitted, d, q, 1.5, 0.75) for q in queries] for d in fitted]
    np.testing.assert_allclose(Okapi.fit(fitted).scores(fitted, queries), expected, rtol=2e-6, atol=1e-6)


def test_pairs_and_parts_are_bit_equal_to_the_whole() -> None:
    documents, queries = random_texts(40, 3), random_texts(30, 4)
    okapi = Okapi.fit(documents)
    whole = okapi.scores(documents, queries)
    i, j = np.divmod(np.random.default_rng(5).permutation(1200), 30)
    np.testing.assert_array_equal(okapi.pair_scores(documents, queries, i, j), whole[i, j])
    np.testing.assert_array_equal(okapi.pair_scores(documents[:30], queries), np.diagonal(whole))
    parts = [okapi.scores(documents[a : a + 7], queries[4:11]) for a in range(0, 40, 7)]
    np.testing.assert_array_equal(np.concatenate(parts), whole[:, 4:11])
    backwards = okapi.scores(documents[::-1], queries[::-1])
    np.testing.assert_array_equal(backwards[::-1, ::-1], whole)


def test_a_query_word_counts_once_and_case_and_normal_form_do_not_matter() -> None:
    okapi = Okapi.fit(TEXTS)
    one, many = okapi.scores(TEXTS, ["cat the", "The the CAT cat cat"]).T
    np.testing.assert_array_equal(one, many)
    np.testing.assert_array_equal(
        okapi.scores(["caf\u00e9"], ["CAFE\u0301"]), okapi.scores(["CAFÉ"], ["café"])
    )
    assert okapi.scores(["caf\u00e9"], ["CAFE\u0301"])[0, 0] > 0


def test_words() -> None:
    assert words("It's a snake_case x1 = 3.14*2, C# (ok)?") == (
        ["it", "s", "a", "snake_case", "x1", "=", "3", "14", "*", "2", "c", "#", "ok"]
    )
    assert words("日本GDPは2倍 שלום naïve") == ["日", "本", "gdp", "は", "2", "倍", "שלום", "naïve"]
    assert words(" \n.,;:!?\"'()[]{}-") == []


def test_statistics_do_not_depend_on_order_and_survive_a_file(tmp_path: Path) -> None:
    seen: list[int] = []
    one, two = WordStatistics.of(TEXTS, seen.append), WordStatistics.of(TEXTS[::-1])
    assert sum(seen) == 6 and one == two
    assert (one.texts, one.total_words, one.document_frequency["the"]) == (6, 6 + 6 + 7 + 9 + 6, 3)
    one.save(tmp_path / "a.json")
    two.save(tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert WordStatistics.load(tmp_path / "a.json") == one


def test_files_that_are_no_word_counts_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.json"
    for content in ("", "[]", "{}", json.dumps({"format": "nncift-bm25/1", "texts": 0, "total_words": 0})):
        path.write_text(content, encoding="ascii")
        with pytest.raises(IntegrityError, match="w.json"):
            WordStatistics.load(path)
    other = {"format": "other/1", "texts": 1, "total_words": 0, "document_frequency": {}}
    path.write_text(json.dumps(other), encoding="ascii")
    with pytest.raises(IntegrityError, match="another format"):
        WordStatistics.load(path)
    with pytest.raises(IntegrityError, match="none.json"):
        WordStatistics.load(tmp_path / "none.json")


def test_edges() -> None:
    okapi = Okapi.fit(["", "..."])  # no word at all: the mean length is 0
    idf = math.log(1 + 2.5 / 0.5)
    np.testing.assert_allclose(okapi.scores(["a b", ""], ["a"]), [[idf], [0]], rtol=1e-6)
    assert okapi.scores([], ["a"]).shape == (0, 1) and okapi.scores(["a"], []).shape == (1, 0)
    assert okapi.pair_scores([], []).shape == (0,)
    with pytest.raises(ValueError, match="no text"):
        Okapi.fit([])
    with pytest.raises(ValueError, match="1 documents but 2 queries"):
        okapi.pair_scores(["a"], ["a", "b"])
    with pytest.raises(IndexError, match=r"outside 0\.\.1"):
        okapi.pair_scores(["a", "b"], ["a"], np.array([2]), np.array([0]))
