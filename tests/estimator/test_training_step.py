"""Output and gradient of the network in training."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nncift_core.estimator.training_step import Labels, outputs, set_gradients


@pytest.mark.parametrize(("density", "d_column"), [(1.0, 6), (0.2, 6), (1.0, 0)])
def test_gradients_are_those_of_autograd(density, d_column):
    """For a full tile and for scattered labels, some pairs labelled twice, and with a buffer already used."""
    rng = np.random.default_rng(0)
    i, j = (x.ravel() for x in np.nonzero(rng.random((12, 9)) < density))
    i, j = np.append(i, i[:5]), np.append(j, j[:5])
    rows, columns = rng.normal(size=(12, 6)), rng.normal(size=(9, d_column))
    labels = Labels.of(rows, columns, i, j, rng.normal(size=len(i)))
    generator = torch.Generator().manual_seed(0)
    shapes = ((7, 6), (7, d_column), (7,), (1, 7), (1,))
    parameters = [torch.randn(s, generator=generator).requires_grad_() for s in shapes]
    batch = torch.randperm(len(i), generator=generator)[: len(i) - 2]
    (outputs(parameters, labels, batch) - labels.targets[batch]).square().mean().backward()
    expected = [p.grad.clone() for p in parameters]
    buffer = torch.full((3,), torch.nan)
    for _ in range(2):
        set_gradients(parameters, labels, batch, buffer)
        for parameter, gradient in zip(parameters, expected, strict=True):
            torch.testing.assert_close(parameter.grad, gradient, rtol=1e-5, atol=1e-6)
