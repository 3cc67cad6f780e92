"""Optimizers against NumPy."""

import keras
import numpy as np
import pytest

from zoo.optimizers import Adagrad

RNG = np.random.default_rng(5)


def run(momentum, gradients, start, name):
    variable = keras.Variable(start, name=name)
    optimizer = Adagrad(0.1, momentum=momentum)
    optimizer.build([variable])
    for gradient in gradients:
        optimizer.apply([keras.ops.convert_to_tensor(gradient)], [variable])
    return keras.ops.convert_to_numpy(variable)


def reference(momentum, gradients, start, sparse):
    """Row by row; with `sparse`, a row without a gradient is not looked at."""
    weights = start.astype(np.float64)
    squares, moments = np.zeros_like(weights), np.zeros_like(weights)
    for gradient in gradients:
        for row in range(len(weights)):
            if sparse and not gradient[row].any():
                continue
            squares[row] += gradient[row].astype(np.float64) ** 2
            moments[row] = momentum * moments[row] - 0.1 * gradient[row] / np.sqrt(squares[row] + 1e-6)
            weights[row] += moments[row]
    return weights


@pytest.mark.parametrize("momentum", [0.0, 0.4])
@pytest.mark.parametrize("name", ["kernel", "embeddings"])
def test_adagrad(momentum, name):
    start = RNG.normal(size=(5, 3)).astype(np.float32)
    gradients = RNG.normal(size=(12, 5, 3)).astype(np.float32)
    gradients[RNG.random((12, 5)) < 0.5] = 0
    expected = reference(momentum, gradients, start, sparse=name == "embeddings")
    np.testing.assert_allclose(run(momentum, gradients, start, name), expected, rtol=1e-5, atol=1e-6)
    if momentum:
        other = reference(momentum, gradients, start, sparse=name != "embeddings")
        assert np.abs(other - expected).max() > 1e-2, "the two cases must differ for the test to tell them apart"


@pytest.mark.skipif(keras.config.backend() != "torch", reason="compares with PyTorch's own")
def test_adagrad_without_momentum_is_that_of_pytorch_but_for_epsilon():
    import torch

    start, gradients = RNG.normal(size=(4, 2)).astype(np.float32), RNG.normal(size=(9, 4, 2)).astype(np.float32)
    weights = torch.nn.Parameter(torch.tensor(start))
    theirs = torch.optim.Adagrad([weights], lr=0.1, eps=1e-10)
    for gradient in gradients:
        weights.grad = torch.tensor(gradient)
        theirs.step()
    np.testing.assert_allclose(run(0.0, gradients, start, "kernel"), weights.detach().numpy(), rtol=1e-4, atol=1e-5)
