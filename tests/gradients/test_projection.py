"""Projections: the same signs by every route, exact linear maps, angles kept."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nncift_core.gradients import projection
from nncift_core.gradients.projection import Projection, sign_words, unpacked

CPU = torch.device("cpu")
_MASK = (1 << 64) - 1


def plain_mix(x: int) -> int:
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


def plain_word(seed: int, c: int, k: int) -> int:
    """h(seed, c, k) in Python's integers."""
    golden = 0x9E3779B97F4A7C15
    return plain_mix((plain_mix((seed + c * golden) & _MASK) + (k + 1) * golden) & _MASK)


def random_rows(n: int, dimension: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, dimension, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("seed", [0, 7, 2**64 - 1])
def test_both_routes_draw_the_words_of_the_definition(seed: int) -> None:
    wanted = np.array([[plain_word(seed, c, k) for k in range(5)] for c in range(3, 6)], np.uint64)
    signed = seed - (1 << 64) if seed >= 1 << 63 else seed
    by_torch = sign_words(signed, 3, 6, 5, CPU).numpy().view(np.uint64)
    by_numba = np.empty((3, 5), np.uint64)
    projection._fill_words(np.uint64(seed), np.uint64(3), by_numba, np.uint64(0))
    np.testing.assert_array_equal(by_torch, wanted)
    np.testing.assert_array_equal(by_numba, wanted)


def test_both_routes_give_bit_equal_signs() -> None:
    """Columns of the projected identity are the matrix itself, on either route."""
    p = Projection(200, 70, "rademacher", 5)
    tables, dense = p.apply(torch.eye(200)), p.apply_dense(torch.eye(200))
    assert torch.equal(tables, dense) and torch.equal(tables.abs(), torch.ones(200, 70))
    word = plain_word(5, 2, 33)
    wanted = [1.0 if word >> j & 1 else -1.0 for j in range(64)]
    assert tables[128:192, 33].tolist() == wanted
    sketch = Projection(200, 70, "count-sketch", 5)
    tables, dense = sketch.apply(torch.eye(200)), sketch.apply_dense(torch.eye(200))
    assert torch.equal(tables, dense)
    assert (tables != 0).sum(1).tolist() == [1] * 200
    word = plain_word(5, 123, 0)
    assert tables[123, ((word >> 33) * 70) >> 31] == (1.0 if word & 1 else -1.0)


def test_unpacked_bits_are_balanced() -> None:
    signs = unpacked(sign_words(1, 0, 40, 300, CPU))
    assert signs.shape == (2560, 300) and set(signs.unique().tolist()) == {-1.0, 1.0}
    assert abs(float(signs.mean())) < 5 / (2560 * 300) ** 0.5
    columns, rows = signs.T @ signs / 2560, signs @ signs.T / 300
    assert float((columns - torch.eye(300)).abs().max()) < 6 / 2560**0.5
    assert float((rows - torch.eye(2560)).abs().max()) < 6.5 / 300**0.5


@pytest.mark.parametrize("kind", ["rademacher", "count-sketch"])
@pytest.mark.parametrize("dimension", [64, 1000, 4097, 8200])
def test_routes_agree_and_rows_do_not_depend_on_each_other(kind: projection.Kind, dimension: int) -> None:
    p = Projection(dimension, 60, kind, 3)
    g = random_rows(85, dimension)
    out = p.apply(g)
    assert out.shape == (85, 60) and out.dtype == torch.float32
    matrix = p.apply_dense(torch.eye(dimension)).double()
    exact = g.double() @ matrix
    scale = float(exact.std())
    assert float((out - exact).abs().max()) < 1e-5 * scale
    assert float((p.apply_dense(g) - exact).abs().max()) < 1e-5 * scale
    assert torch.equal(p.apply(g[7:8]), out[7:8]) and torch.equal(p.apply(g.flip(0)), out.flip(0))
    assert p.apply(g[:0]).shape == (0, 60)


@pytest.mark.parametrize("kind", ["rademacher", "count-sketch"])
def test_block_sizes_and_threads_change_no_sign(
    kind: projection.Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    g = random_rows(3, 5000)
    before = Projection(5000, 600, kind, 1).apply(g)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert torch.equal(Projection(5000, 600, kind, 1).apply(g), before)
    finally:
        torch.set_num_threads(threads)
    monkeypatch.setattr(projection, "_WORDS_AT_ONCE", 3)
    p = Projection(5000, 600, kind, 1)
    torch.testing.assert_close(p.apply(g), before, rtol=0, atol=1e-3)
    torch.testing.assert_close(p.apply_dense(g), before, rtol=0, atol=1e-3)


@pytest.mark.parametrize("kind", ["rademacher", "count-sketch"])
def test_angles_are_kept_up_to_the_known_noise(kind: projection.Kind) -> None:
    g = random_rows(60, 20_000) + 0.5 * random_rows(1, 20_000, 1)
    unit = torch.nn.functional.normalize
    p = Projection(20_000, 2048, kind, 9)
    error = unit(p.apply(g)) @ unit(p.apply(g)).T - unit(g) @ unit(g).T
    spread = float(error[~torch.eye(60, dtype=torch.bool)].std())
    assert 0.5 / 2048**0.5 < spread < 1.3 / 2048**0.5


def test_seeds_differ_and_small_gradients_are_kept() -> None:
    g = random_rows(2, 500)
    assert not torch.equal(Projection(500, 100, "rademacher", 1).apply(g),
                           Projection(500, 100, "rademacher", 2).apply(g))  # fmt: skip
    for p in (Projection(500, 500, "rademacher", 1), Projection(500, 100, "none", 1)):
        assert p.width == 500 and p.apply(g) is g
    assert Projection(500, 499, "count-sketch", 1).width == 499


def test_wrong_shapes_are_refused() -> None:
    p = Projection(50, 10, "rademacher", 1)
    for wrong in (torch.zeros(2, 51), torch.zeros(50), torch.zeros(2, 50, dtype=torch.float64)):
        with pytest.raises(ValueError, match=r"wanted float32 \[n, 50\]"):
            p.apply(wrong)
    with pytest.raises(ValueError, match="cannot project"):
        Projection(0, 10, "rademacher", 1)
