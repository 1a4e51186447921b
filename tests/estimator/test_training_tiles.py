"""Batches that share rows and columns."""

from __future__ import annotations

import threading

import pytest
import torch

from nncift_core.estimator.training_tiles import Shuffled, Tiles, batch_sizes, one_thread


def grid(m, n):
    return torch.arange(m).repeat_interleave(n), torch.arange(n).repeat(m)


@pytest.mark.parametrize("density", [1.0, 0.1])
@pytest.mark.parametrize(("m", "n"), [(200, 100), (60, 3), (500, 1), (1, 7), (2, 2)])
@pytest.mark.parametrize("kind", [Tiles, Shuffled])
def test_every_label_once_an_epoch(kind, m, n, density):
    generator = torch.Generator().manual_seed(0)
    i, j = grid(m, n)
    kept = torch.rand(len(i), generator=generator) < density
    kept[0] = True
    # Rows and columns without a label, as those held out are.
    batches = kind(2 * i[kept], 3 * j[kept], 64)
    first, second = batches.epoch(generator), batches.epoch(generator)
    for epoch in (first, second):
        assert torch.cat(list(epoch)).sort().values.tolist() == list(range(int(kept.sum())))
    assert kept.sum() < 20 or not torch.equal(torch.cat(list(first)), torch.cat(list(second)))


@pytest.mark.parametrize(("density", "most"), [(1.0, 40), (0.25, 80)])
def test_a_batch_has_few_rows_and_columns(density, most):
    generator = torch.Generator().manual_seed(0)
    i, j = grid(256, 128)
    kept = torch.rand(len(i), generator=generator) < density
    i, j = i[kept], j[kept]
    for at in Tiles(i, j, 256).epoch(generator):
        assert len(i[at].unique()) + len(j[at].unique()) <= most
        assert 128 <= len(at) <= 512
    apart = Shuffled(i, j, 256).epoch(generator)[0]
    assert len(i[apart].unique()) + len(j[apart].unique()) > 2 * most


def test_sizes_of_batches():
    assert batch_sizes([10, 10, 10], 10) == [10, 10, 10]
    assert batch_sizes([2, 2, 2, 9, 1], 10) == [6, 10]
    assert batch_sizes([35], 10) == [9, 9, 9, 8]
    assert batch_sizes([0, 3], 10) == [3]


def test_one_thread_inside_and_the_setting_back_in_every_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    entered, leave, seen = threading.Event(), threading.Event(), []

    def other():
        # A new thread starts with the 1 of the one that is inside, and must not leave with it.
        with one_thread(10):
            entered.set()
            leave.wait(20)
        seen.append(torch.get_num_threads())

    thread = threading.Thread(target=other)
    try:
        with one_thread(10):
            assert torch.get_num_threads() == 1
            thread.start()
            assert entered.wait(20)
        assert torch.get_num_threads() == 2
        leave.set()
        thread.join()
        assert seen == [2]
        with pytest.raises(KeyError), one_thread(10):
            raise KeyError
        with one_thread(10_000_000):
            assert torch.get_num_threads() == 2
    finally:
        leave.set()
        torch.set_num_threads(before)
