"""Losses of several tasks against NumPy: values by loops, gradients by differences."""

import numpy as np
import pytest
from keras import ops
from scipy.special import expit, softmax

from tests.test_losses import value_and_gradients
from zoo import losses, task_losses

RNG = np.random.default_rng(11)


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def number(value):
    return float(ops.convert_to_numpy(value))


def differences(function, array, step=1e-2):
    """Numerical gradient of a scalar function of one array."""
    result = np.zeros_like(array)
    for place in np.ndindex(*array.shape):
        sides = []
        for sign in (1, -1):
            moved = array.copy()
            moved[place] += sign * step
            sides.append(number(function(ops.convert_to_tensor(moved))))
        result[place] = (sides[0] - sides[1]) / (2 * step)
    return result


def check_gradient(function, array):
    _, (gradient,) = value_and_gradients(function, array)
    np.testing.assert_allclose(gradient, differences(function, array), rtol=2e-2, atol=2e-3)


@pytest.mark.parametrize("alpha", [0.5, 0.2])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal(alpha, gamma):
    scores, weights = normal(9) * 3, np.abs(normal(9))
    targets = (np.arange(9) % 2).astype(np.float32)
    probability = np.where(targets == 1, expit(scores), expit(-scores))
    a = np.where(targets == 1, alpha, 1 - alpha)
    expected = np.average(-a * (1 - probability) ** gamma * np.log(probability), weights=weights)
    given = [ops.convert_to_tensor(array) for array in (scores, targets, weights)]
    assert number(task_losses.focal(*given, alpha, gamma)) == pytest.approx(expected, rel=1e-5)
    check_gradient(lambda s: task_losses.focal(s, *given[1:], alpha, gamma), scores)


def test_focal_without_focus_is_half_of_cross_entropy():
    given = [ops.convert_to_tensor(a) for a in (normal(9), (np.arange(9) % 2).astype(np.float32), np.abs(normal(9)))]
    assert number(task_losses.focal(*given, 0.5, 0.0)) == pytest.approx(number(losses.bce(*given)) / 2, rel=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_is_finite_where_all_is_certain(gamma):
    targets, ones = ops.convert_to_tensor(np.array([0, 1, 0, 1], np.float32)), ops.ones(4)

    def loss(scores):
        return task_losses.focal(scores, targets, ones, 0.5, gamma)

    value, (gradient,) = value_and_gradients(loss, np.array([300, 300, -300, -300], np.float32))
    assert np.isfinite(value) and np.isfinite(gradient).all()
    assert gradient[1] == gradient[2] == 0 and gradient[0] > 0 > gradient[3]


@pytest.mark.parametrize("masked", [False, True])
def test_multi_positive_nce_equals_a_loop(masked):
    rows, candidates, most = 6, 8, 3
    scores, weights = normal(rows, candidates), np.array([1, 0.5, 0, 2, 1, 0.3], np.float32)
    positives = np.stack([RNG.permutation(candidates)[:most] for _ in range(rows)]).astype(np.int32)
    shares = np.array([[1, 0, 0], [1, 0.3, 0], [0, 0, 0], [1, 1, 1], [0.2, 0, 0], [1, 0.5, 0.1]], np.float32)
    excluded = np.zeros((rows, candidates), bool)
    if masked:
        excluded = RNG.random((rows, candidates)) < 0.4
        np.put_along_axis(excluded, positives, False, axis=1)
    total = 0.0
    for b in range(rows):
        real = [c for c in range(candidates) if not excluded[b, c]]
        bottom = sum(np.exp(scores[b, c]) for c in real)
        row = sum(-s * np.log(np.exp(scores[b, p]) / bottom) for p, s in zip(positives[b], shares[b], strict=True))
        total += weights[b] * row / max(shares[b].sum(), 1e-12)
    rest = [ops.convert_to_tensor(a) for a in (positives, shares, weights)]
    rest.append(ops.convert_to_tensor(excluded) if masked else None)
    found = number(task_losses.multi_positive_nce(ops.convert_to_tensor(scores), *rest))
    assert found == pytest.approx(total / weights.sum(), rel=1e-5)
    check_gradient(lambda s: task_losses.multi_positive_nce(s, *rest), scores)


def test_multi_positive_nce_is_least_at_the_distribution_of_the_positives():
    share = np.array([[0.5, 0.25, 0.25]], np.float32)
    rest = [ops.convert_to_tensor(a) for a in (np.array([[0, 1, 2]], np.int32), share, np.ones(1, np.float32))]
    best = np.log(np.array([[0.5, 0.25, 0.25, 1e-9]], np.float32))
    _, (gradient,) = value_and_gradients(lambda s: task_losses.multi_positive_nce(s, *rest), best)
    np.testing.assert_allclose(gradient, 0.0, atol=1e-6)


def test_batches_without_a_positive_weigh_nothing():
    nothing = [np.zeros((3, 2), np.int32), np.zeros((3, 2), np.float32), np.zeros(3, np.float32)]
    rest = [ops.convert_to_tensor(a) for a in nothing]
    value, (gradient,) = value_and_gradients(lambda s: task_losses.multi_positive_nce(s, *rest), normal(3, 4))
    assert value == 0 and not gradient.any()


def test_novelty():
    scores, popularity = normal(5, 7), np.abs(normal(7))
    weights = np.array([1, 0, 2, 1, 1], np.float32)
    expected = np.average(softmax(scores, axis=1) @ popularity, weights=weights)
    given = [ops.convert_to_tensor(a) for a in (scores, popularity, weights)]
    assert number(task_losses.novelty(*given)) == pytest.approx(expected, rel=1e-5)
    check_gradient(lambda s: task_losses.novelty(s, *given[1:]), scores)


def test_huber():
    scores, targets = np.array([0.0, 0.5, 3.0, -4.0], np.float32), np.zeros(4, np.float32)
    weights = np.array([1, 1, 2, 1], np.float32)
    each = np.array([0, 0.5 * 0.25, 2 * (3 - 1), 2 * (4 - 1)])
    given = [ops.convert_to_tensor(a) for a in (scores, targets, weights)]
    assert number(task_losses.huber(*given, 2.0)) == pytest.approx(np.average(each, weights=weights))
    check_gradient(lambda s: task_losses.huber(s, *given[1:], 2.0), scores)


def test_balanced():
    found, logs, weights = np.abs(normal(3)), normal(3), np.array([1, 0.5, 2], np.float32)
    given = [ops.convert_to_tensor(a) for a in (found, logs, weights)]
    expected = (weights * (np.exp(-logs) * found + logs / 2)).sum()
    assert number(task_losses.balanced(*given)) == pytest.approx(expected, rel=1e-5)
    # The best weight of a task is one over twice its loss, as a variance is the mean square.
    _, (gradient,) = value_and_gradients(
        lambda s: task_losses.balanced(given[0], s, given[2]), np.log(2 * found).astype(np.float32)
    )
    np.testing.assert_allclose(gradient, 0.0, atol=1e-6)
    # A task that nothing was asked of stays as it is.
    none = ops.convert_to_tensor(weights * np.array([1, 0, 1], np.float32))
    _, (gradient,) = value_and_gradients(lambda s: task_losses.balanced(given[0], s, none), logs)
    assert gradient[1] == 0.0 and np.abs(gradient[[0, 2]]).min() > 0
