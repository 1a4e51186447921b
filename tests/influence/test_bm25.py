"""BM25 as an influence function: its state, tiles and pairs, keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nncift_core.bm25 import Okapi
from nncift_core.config import parse_config
from nncift_core.errors import IntegrityError
from nncift_core.influence.bm25 import BM25
from nncift_core.influence.contract import Rows


def rows_of(*examples: tuple[str, str]) -> Rows:
    return Rows(np.arange(len(examples)), tuple(p for p, _ in examples), tuple(r for _, r in examples))


POOL = rows_of(
    ("Sort a list in Python", "use sorted(xs)"),
    ("Capital of France?", "Paris"),
    ("", ""),
    ("Sum 2 + 3", "5"),
    ("Name a city in France", "Paris or Lyon"),
)
TARGET = rows_of(("Which city is the capital of France?", "Paris"), ("How do I sort?", "with sorted"))


def config(**bm25: Any) -> Any:
    return parse_config({"pool": {"source": "x"}, "influence": {"function": "bm25", "bm25": bm25}})


def fitted(folder: Path, pool: Rows = POOL, **bm25: Any) -> BM25:
    made = BM25.from_config(config(**bm25), "cpu")
    folder.mkdir()
    made.fit_state(pool, folder)
    made.load_state(folder)
    return made


def test_tile_and_pairs_are_the_scores_of_prompt_newline_response(tmp_path: Path) -> None:
    f, done = fitted(tmp_path / "s", k1=1.2, b=0.4), []
    documents = [f"{p}\n{r}" for p, r in zip(POOL.prompts, POOL.responses, strict=True)]
    queries = [f"{p}\n{r}" for p, r in zip(TARGET.prompts, TARGET.responses, strict=True)]
    expected = Okapi.fit(documents, 1.2, 0.4).scores(documents, queries)
    values = f.tile(POOL, TARGET, done.append)
    np.testing.assert_array_equal(values, expected)
    assert sum(done) == 10 and values[1, 0] == values[:, 0].max() and values[0, 1] == values[:, 1].max()
    i, j = np.array([4, 0, 1]), np.array([0, 1, 1])
    pairs = f.pairs(POOL.take(i), TARGET.take(j), done.append)
    np.testing.assert_array_equal(pairs, expected[i, j])
    assert done[-1] == 3
    assert f.needs == {"state"} and f.cost.per_pair == f.cost.per_row == 0


def test_the_same_rows_in_any_order_give_the_same_state(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    for name, order in (("a", [0, 1, 2, 3, 4]), ("b", [4, 2, 0, 1, 3])):
        (tmp_path / name).mkdir()
        BM25().fit_state(POOL.take(np.array(order)), tmp_path / name, lambda k, n: seen.append((k, n)))
    assert (tmp_path / "a" / "words.json").read_bytes() == (tmp_path / "b" / "words.json").read_bytes()
    assert seen == [(5, 5), (5, 5)]


def test_the_state_decides_the_values_not_the_rows_scored(tmp_path: Path) -> None:
    f = fitted(tmp_path / "s")
    alone = f.tile(POOL.take(np.array([1])), TARGET)
    np.testing.assert_array_equal(alone, f.tile(POOL, TARGET)[1:2])
    grown = rows_of(("What is an okapi?", "An okapi is an animal"))
    question = rows_of(("okapi", ""))
    assert f.tile(grown, question)[0, 0] > f.tile(grown, rows_of(("in", "")))[0, 0]


def test_asking_without_a_state_and_from_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='needs "state"'):
        BM25().tile(POOL, TARGET)
    with pytest.raises(IntegrityError, match="words.json"):
        BM25().load_state(tmp_path)


def test_key_follows_k1_and_b_and_nothing_else() -> None:
    keys = {BM25.key_of(config(**c)) for c in ({}, {"k1": 1.0}, {"b": 0.5}, {"k1": 0.5, "b": 1.5 / 3})}
    assert len(keys) == 4
    assert BM25.key_of(config(k1=1.5, b=0.75)) == BM25.key_of(config()) == BM25().key()
    assert BM25.state_rows(config(), 17) == 17
