"""Gradient scores of a head on embeddings against one backward pass per row in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from nncift_core.classification.contract import Checkpoint
from nncift_core.classification.heads import head_from, layers_of, make_head
from nncift_core.errors import UserError
from nncift_core.scores.grand import grand
from nncift_core.scores.head_gradients import Spread, early, head_gradient_scores
from nncift_core.scores.tracin import tracin
from nncift_core.scores.vog import vog

N, D, K, C = 23, 10, 5, 7
ALL = ("vog", "tracin", "grand")
X = np.random.default_rng(0).normal(size=(N, D)).astype(np.float32)
Y = np.random.default_rng(1).integers(0, K, N)


def checkpoints(kind: str, count: int = C) -> list[Checkpoint]:
    """Heads of different seeds, which differ more than a training's would."""
    heads = [layers_of(make_head(kind, D, K, 8, 0.1, seed)) for seed in range(count)]  # type: ignore[arg-type]
    return [Checkpoint(k + 1, float(k + 1), 0.1 / (k + 1), layers) for k, layers in enumerate(heads)]


def plain(checkpoint: Checkpoint) -> tuple[np.ndarray, np.ndarray]:
    """Gradients [N, D] of the label's logit; squared norms [N] of the loss's gradient over the head."""
    head = head_from(checkpoint.layers).double()
    at_x, norms = [], []
    for row, label in zip(X, Y, strict=True):
        x = torch.from_numpy(row).double().requires_grad_(True)
        logits = head(x)
        (g,) = torch.autograd.grad(logits[int(label)], x, retain_graph=True)
        at_x.append(g.numpy())
        loss = torch.nn.functional.cross_entropy(logits[None], torch.tensor([int(label)]))
        norms.append(sum(float((p**2).sum()) for p in torch.autograd.grad(loss, list(head.parameters()))))
    return np.stack(at_x), np.array(norms)


def relative(found: Any, expected: Any) -> float:
    return float((np.abs(found - expected) / np.abs(expected)).max())


@pytest.mark.parametrize("kind", ["paper", "linear"])
def test_scores_are_those_of_a_loop_over_rows(kind):
    given = checkpoints(kind)
    told: list[int] = []
    found = head_gradient_scores(given, X, Y, ALL, batch=9, progress=told.append)
    each = [plain(c) for c in given]
    norms = np.stack([norm for _, norm in each])
    assert relative(found["vog"], vog(np.stack([g for g, _ in each]))) < 1e-5
    assert relative(found["tracin"], tracin(norms, np.array([c.learning_rate for c in given]))) < 1e-5
    assert relative(found["grand"], grand(norms[:2])) < 1e-5
    assert sum(told) == N * C


def test_a_linear_head_has_the_same_vog_for_all_rows_of_a_class():
    found = head_gradient_scores(checkpoints("linear"), X, Y, ["vog"])["vog"]
    for label in range(K):
        assert np.ptp(found[Y == label]) == 0


def test_blocks_of_rows_change_nothing_but_rounding():
    given = checkpoints("paper")
    one, many = (head_gradient_scores(given, X, Y, ALL, batch=size) for size in (N, 1))
    for name in ALL:
        assert relative(many[name], one[name]) < 1e-5


def test_only_what_is_asked_for_is_given():
    assert set(head_gradient_scores(checkpoints("paper"), X, Y, ["grand"])) == {"grand"}


def test_the_first_fifth_of_the_checkpoints_is_early():
    assert [early(count) for count in (1, 2, 5, 6, 10, 11)] == [1, 1, 1, 2, 2, 3]


def test_the_spread_is_vog_of_all_gradients_at_once_even_far_from_zero():
    gradients = np.random.default_rng(3).normal(size=(10, 6, 4, 3)) + 100
    spread = Spread()
    for g in gradients.astype(np.float32):
        spread.add(torch.from_numpy(g))
    assert relative(spread.per_row().numpy(), vog(gradients)) < 1e-5


def test_vog_of_one_checkpoint_is_refused():
    with pytest.raises(UserError, match="a single one") as e:
        head_gradient_scores(checkpoints("paper", 1), X, Y, ["vog"])
    assert e.value.field == "training.epochs"
    assert head_gradient_scores(checkpoints("paper", 1), X, Y, ["tracin"])["tracin"].shape == (N,)


def test_a_name_or_checkpoints_that_are_lacking_are_a_mistake_of_the_caller():
    with pytest.raises(ValueError, match="no gradient score el2n"):
        head_gradient_scores(checkpoints("paper"), X, Y, ["el2n"])
    with pytest.raises(ValueError, match="need checkpoints"):
        head_gradient_scores([], X, Y, ["vog"])
