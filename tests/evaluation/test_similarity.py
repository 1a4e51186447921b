"""Embedding similarity with the built-in encoder."""

from __future__ import annotations

import numpy as np
import pytest

from nncift_core.config import EncoderConfig
from nncift_core.encoders import Encoder, load_encoder
from nncift_core.evaluation import similarities

REFERENCES = ["The cat sat on the mat.", "Paris is the capital of France.", "42"]
ANSWERS = ["A cat was sitting on a rug.", "I like cake with tea.", "42"]


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load_encoder(EncoderConfig(), "cpu")


def test_it_is_the_cosine_of_each_pair(encoder: Encoder) -> None:
    found, cut = similarities(encoder, REFERENCES, ANSWERS)
    wanted = [
        float(encoder.embed([r])[0] @ encoder.embed([a])[0]) for r, a in zip(REFERENCES, ANSWERS, strict=True)
    ]
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert found[2] == pytest.approx(1) and found[0] > 0.5 > found[1] and cut == 0
    np.testing.assert_allclose(similarities(encoder, ANSWERS, REFERENCES)[0], found, atol=1e-6)


def test_a_prefix_stands_before_both_and_long_texts_are_counted(encoder: Encoder) -> None:
    found, cut = similarities(encoder, ["word " * 2000, "a"], ["word " * 2000, ""], "query: ")
    pair = encoder.embed(["a", ""], prefix="query: ")
    assert found.tolist() == pytest.approx([1, float(pair[0] @ pair[1])], abs=1e-5) and cut == 1


def test_no_rows_and_unequal_numbers(encoder: Encoder) -> None:
    assert similarities(encoder, [], [])[0].shape == (0,)
    with pytest.raises(ValueError, match="1 references but 2 answers"):
        similarities(encoder, ["a"], ["b", "c"])
