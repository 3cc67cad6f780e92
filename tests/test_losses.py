"""Losses against NumPy: values, gradients, masks, and the sign of log-q."""

import keras
import numpy as np
import pytest
from scipy.special import expit, log_softmax, logsumexp, softmax

from zoo import backends, losses
from zoo.data.vocabulary import NUM_SPECIALS

RNG = np.random.default_rng(7)


class Tensors:
    """`zoo.losses` with NumPy arguments made tensors, as in a model."""

    def __getattr__(self, name):
        function = getattr(losses, name)
        return lambda *args: function(*(None if arg is None else keras.ops.convert_to_tensor(arg) for arg in args))


tensors = Tensors()


def value_and_gradients(function, *arrays):
    """(value, gradients) of a scalar function of float arrays, on whichever backend runs, traced where it can be."""
    backend = keras.config.backend()
    if backend == "jax":
        import jax

        value, gradients = jax.jit(jax.value_and_grad(function, argnums=tuple(range(len(arrays)))))(*arrays)
    elif backend == "tensorflow":
        import tensorflow as tf

        values = [tf.constant(array) for array in arrays]
        rows = (None, *arrays[0].shape[1:])  # `fit` leaves the number of rows open

        @tf.function(input_signature=[tf.TensorSpec(rows), *(tf.TensorSpec(array.shape) for array in arrays[1:])])
        def both(*values):
            with tf.GradientTape() as tape:
                tape.watch(values)
                value = function(*values)
            return value, [tf.convert_to_tensor(gradient) for gradient in tape.gradient(value, values)]

        value, gradients = both(*values)
    else:
        import torch

        leaves = [torch.tensor(array, requires_grad=True) for array in arrays]
        value = function(*leaves)
        value.backward()
        gradients = [tensor.grad for tensor in leaves]
        value = value.detach()
    return float(value), [np.asarray(gradient) for gradient in gradients]


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def close(actual, expected, tolerance=2e-6):
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=tolerance)


@pytest.fixture
def weights():
    return np.array([1.0, 0.5, 0.0, 2.0], np.float32)


def mean(values, weights):
    return float((values * weights).sum() / weights.sum())


def test_mse(weights):
    scores, targets = normal(4), RNG.random(4).astype(np.float32)
    value, (gradient,) = value_and_gradients(lambda s: tensors.mse(s, targets, weights), scores)
    close(value, mean((scores - targets) ** 2, weights))
    close(gradient, 2 * (scores - targets) * weights / weights.sum())


def test_bce(weights):
    scores, targets = normal(4), np.array([1, 0, 0.25, 0.7], np.float32)
    value, (gradient,) = value_and_gradients(lambda s: tensors.bce(s, targets, weights), scores)
    close(value, mean(-targets * np.log(expit(scores)) - (1 - targets) * np.log(expit(-scores)), weights))
    close(gradient, (expit(scores) - targets) * weights / weights.sum())


def test_bce_of_large_logits_is_finite():
    value = tensors.bce(np.array([90.0, -90.0], np.float32), np.array([0.0, 1.0], np.float32), np.ones(2, np.float32))
    close(float(value), 90.0)


def test_bpr(weights):
    positive, negative = normal(4), normal(4)
    value, gradients = value_and_gradients(lambda p, n: tensors.bpr(p, n, weights), positive, negative)
    close(value, mean(-np.log(expit(positive - negative)), weights))
    slope = -expit(negative - positive) * weights / weights.sum()
    close(gradients[0], slope)
    close(gradients[1], -slope)


def test_a_batch_without_weight_has_no_loss():
    zero = np.zeros(4, np.float32)
    for value in (
        tensors.mse(normal(4), normal(4), zero),
        tensors.bpr(normal(4), normal(4), zero),
        tensors.softmax_cross_entropy(normal(4, 3), normal(8, 3), np.full(4, 3, np.int32), zero),
    ):
        assert float(value) == 0.0


def test_sampled_softmax(weights):
    positive, negative = normal(4), normal(4, 5)
    positive_log_q, log_q = np.log(RNG.random(4)).astype(np.float32), np.log(RNG.random(5)).astype(np.float32)
    excluded = RNG.random((4, 5)) < 0.3
    value, gradients = value_and_gradients(
        lambda p, n: tensors.sampled_softmax(p, n, positive_log_q, log_q, weights, excluded), positive, negative
    )
    expected, slopes = [], np.zeros((4, 6))
    for b in range(4):
        kept = np.flatnonzero(~excluded[b])
        logits = np.concatenate([[positive[b] - positive_log_q[b]], negative[b, kept] - log_q[kept]])
        expected.append(-log_softmax(logits)[0])
        slopes[b, np.concatenate([[0], kept + 1])] = softmax(logits)
    slopes[:, 0] -= 1
    slopes *= (weights / weights.sum())[:, None]
    close(value, mean(np.array(expected), weights))
    close(gradients[0], slopes[:, 0])
    close(gradients[1], slopes[:, 1:])


@pytest.mark.parametrize("calibration", [0.0, 0.75, 1.0])
def test_gbce(weights, calibration):
    positive, negative, num_items = normal(4), normal(4, 5), 11
    excluded = np.zeros((4, 5), bool)
    excluded[0, 1] = True
    rate = 5 / 10
    beta = rate * (calibration * (1 - 1 / rate) + 1 / rate)
    terms = np.where(excluded, 0, np.log(1 - expit(negative)))
    expected = -(np.log(expit(positive) ** beta) + terms.sum(axis=1)) / 6
    value, gradients = value_and_gradients(
        lambda p, n: losses.gbce(p, n, keras.ops.convert_to_tensor(weights), num_items, calibration, excluded),
        positive,
        negative,
    )
    close(value, mean(expected, weights))
    share = weights / weights.sum()
    close(gradients[0], -beta * expit(-positive) * share / 6)
    close(gradients[1], np.where(excluded, 0, expit(negative)) * share[:, None] / 6)


def of_negatives(function, positive, negative, excluded, penalty):
    """Value and gradient of the sum over rows of `function(s+, s, p)`, by central differences in float64; p is the
    softmax of the negatives that are some."""

    def value(positive, negative):
        p = softmax(np.where(excluded, -np.inf, negative), axis=1)
        return function(positive[:, None], negative, p, penalty)  # (B,)

    positive, negative, step = positive.astype(np.float64), negative.astype(np.float64), 1e-5
    of_positive = (value(positive + step, negative) - value(positive - step, negative)) / (2 * step)
    of_negative = np.zeros_like(negative)
    for column in range(negative.shape[1]):
        moved = np.zeros_like(negative)
        moved[:, column] = step
        of_negative[:, column] = (value(positive, negative + moved) - value(positive, negative - moved)) / (2 * step)
    return value(positive, negative), of_positive, of_negative


def bpr_max_reference(positive, negative, p, penalty):
    return -np.log((p * expit(positive - negative)).sum(1)) + penalty * (p * negative**2).sum(1)


def top1_max_reference(positive, negative, p, penalty):
    return (p * (expit(negative - positive) + expit(negative**2))).sum(1)


@pytest.mark.parametrize("name, penalty", [("bpr_max", 0.0), ("bpr_max", 0.7), ("top1_max", None)])
def test_losses_of_the_highest_negatives(weights, name, penalty):
    positive, negative = normal(4), normal(4, 6)
    excluded = RNG.random((4, 6)) < 0.3
    extra = () if penalty is None else (penalty,)
    value, gradients = value_and_gradients(
        lambda p, n: getattr(tensors, name)(p, n, weights, *extra, excluded), positive, negative
    )
    reference = {"bpr_max": bpr_max_reference, "top1_max": top1_max_reference}[name]
    expected, of_positive, of_negative = of_negatives(reference, positive, negative, excluded, penalty)
    share = weights / weights.sum()
    close(value, mean(expected, weights))
    close(gradients[0], of_positive * share)
    close(gradients[1], of_negative * share[:, None])
    assert np.all(gradients[1][excluded] == 0)
    everything = getattr(tensors, name)(positive, negative, weights, *extra)
    close(float(everything), mean(of_negatives(reference, positive, negative, False, penalty)[0], weights))


def in_batch_reference(scores, items, log_q, weights, known=None):
    total = []
    for b in range(len(items)):
        columns = [
            c
            for c in range(len(items))
            if c == b or (items[c] != items[b] and weights[c] > 0 and not (known is not None and known[b, c]))
        ]
        logits = scores[b, columns] - log_q[columns]
        total.append(logsumexp(logits) - (scores[b, b] - log_q[b]))
    return mean(np.array(total), weights)


@pytest.mark.parametrize("masked", [False, True])
def test_in_batch_softmax(masked):
    items = np.array([5, 9, 5, 7, 3])
    weights = np.array([1, 1, 2, 0.5, 0], np.float32)
    scores, log_q = normal(5, 5), np.log(RNG.random(5)).astype(np.float32)
    known = RNG.random((5, 5)) < 0.4 if masked else None
    value, (gradient,) = value_and_gradients(
        lambda s: tensors.in_batch_softmax(s, items, log_q, weights, known), scores
    )
    close(value, in_batch_reference(scores, items, log_q, weights, known))
    step = 1e-3
    for b, c in ((0, 0), (0, 1), (0, 2), (3, 1), (1, 4), (4, 4)):
        moved = scores.astype(np.float64)
        moved[b, c] += step
        upper = in_batch_reference(moved, items, log_q, weights, known)
        moved[b, c] -= 2 * step
        close(gradient[b, c], (upper - in_batch_reference(moved, items, log_q, weights, known)) / (2 * step), 1e-5)


def test_log_q_lifts_the_rare_candidate():
    """Popular candidates are drawn too often: their logits are lowered, so that a rare one weighs more."""
    scores, weights = np.zeros((2, 2), np.float32), np.array([1, 1], np.float32)
    log_q = np.log(np.array([0.9, 0.1], np.float32))
    value = tensors.in_batch_softmax(scores, np.array([3, 4]), log_q, weights)
    # Row 0 has the popular positive against the rare negative: p = (1/.9) / (1/.9 + 1/.1) = .1
    close(float(value), -(np.log(0.1) + np.log(0.9)) / 2)
    rare = tensors.sampled_softmax(
        np.zeros(1, np.float32), np.zeros((1, 1), np.float32), log_q[1:], log_q[:1], np.ones(1, np.float32)
    )
    close(float(rare), -np.log(0.9))


def test_corrected_sampling_estimates_the_full_softmax():
    """With log-q, many popularity-drawn negatives give the gradient direction of the full softmax."""
    items = 50
    p = softmax(RNG.normal(size=items) * 1.5)
    scores = RNG.normal(size=items).astype(np.float32)
    drawn = RNG.choice(items, size=40_000, p=p)
    keep = drawn != 0
    log_q = np.log(p).astype(np.float32)
    # logsumexp over draws, less log N, estimates logsumexp over items.
    estimate = logsumexp((scores - log_q)[drawn[keep]]) - np.log(len(drawn))
    close(estimate, logsumexp(scores[1:]), 0.05)
    value = tensors.sampled_softmax(
        scores[:1] + np.float32(np.log(len(drawn))),
        scores[drawn][None],
        log_q[:1],
        log_q[drawn],
        np.ones(1, np.float32),
        ~keep[None],
    )
    positive = scores[0] + np.log(len(drawn)) - log_q[0]
    close(float(value), np.logaddexp(estimate + np.log(len(drawn)), positive) - positive, 1e-3)


def softmax_reference(hidden, table, labels, weights, bias=None):
    hidden, table = hidden.astype(np.float64), table[NUM_SPECIALS:].astype(np.float64)
    logits = hidden @ table.T + (0 if bias is None else bias[NUM_SPECIALS:])
    share = weights / weights.sum()
    label = np.maximum(labels - NUM_SPECIALS, 0)
    rows = np.arange(len(labels))
    value = -(share * log_softmax(logits, axis=1)[rows, label]).sum()
    residual = softmax(logits, axis=1)
    residual[rows, label] -= 1
    residual *= share[:, None]
    pad = ((NUM_SPECIALS, 0), (0, 0))
    return value, residual @ table, np.pad(residual.T @ hidden, pad), np.pad(residual.sum(0), (NUM_SPECIALS, 0))


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("chunk_rows", [1, 7, 64])  # many chunks, a ragged last one, a single one
def test_softmax_cross_entropy(monkeypatch, biased, chunk_rows):
    monkeypatch.setattr(losses, "CHUNK_BYTES", 1)
    monkeypatch.setattr(losses, "CHUNK_ROWS", chunk_rows)
    rows, items, dim = 17, 29, 6
    hidden, table, bias = normal(rows, dim), normal(items, dim), normal(items)
    labels = RNG.integers(NUM_SPECIALS, items, rows).astype(np.int32)
    weights = RNG.random(rows).astype(np.float32)
    labels[3], weights[3] = 0, 0.0  # padding
    arrays = (hidden, table, bias) if biased else (hidden, table)
    value, gradients = value_and_gradients(
        lambda h, t, b=None: tensors.softmax_cross_entropy(h, t, labels, weights, b), *arrays
    )
    expected, *slopes = softmax_reference(hidden, table, labels, weights, bias if biased else None)
    close(value, expected)
    for actual, slope in zip(gradients, slopes, strict=False):
        close(actual, slope)
    assert np.all(gradients[0][3] == 0), "a row of weight 0 must have no gradient"
    assert np.all(gradients[1][:NUM_SPECIALS] == 0), "special tokens are no candidates"


def test_softmax_cross_entropy_scales_with_what_follows():
    hidden, table = normal(4, 3), normal(9, 3)
    labels, weights = np.array([3, 4, 5, 8], np.int32), np.ones(4, np.float32)
    once = value_and_gradients(lambda h, t: tensors.softmax_cross_entropy(h, t, labels, weights), hidden, table)
    thrice = value_and_gradients(lambda h, t: 3 * tensors.softmax_cross_entropy(h, t, labels, weights), hidden, table)
    for a, b in zip(once[1], thrice[1], strict=True):
        close(3 * a, b)


def test_softmax_cross_entropy_of_large_logits_is_finite():
    hidden, table = 1e3 * np.ones((2, 2), np.float32), np.array([[0, 0]] * 3 + [[1, 1], [-1, -1]], np.float32)
    labels, weights = np.array([3, 4], np.int32), np.ones(2, np.float32)
    value, gradients = value_and_gradients(
        lambda h, t: tensors.softmax_cross_entropy(h, t, labels, weights), hidden, table
    )
    close(value, 2000.0)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_softmax_cross_entropy_takes_half_precision():
    """The kernels that add up thousands of numbers do so in more than their eight bits."""
    hidden, table = normal(300, 4), normal(3003, 4)
    labels, weights = RNG.integers(3, 3003, 300).astype(np.int32), np.ones(300, np.float32)
    half = [keras.ops.cast(array, "bfloat16") for array in (hidden, table)]
    value = tensors.softmax_cross_entropy(*half, labels, weights)
    assert keras.backend.standardize_dtype(value.dtype) == "float32"
    assert abs(float(value) - softmax_reference(hidden, table, labels, weights)[0]) < 0.01
    logits = keras.ops.cast(normal(5, 3000), "bfloat16")
    sums = keras.ops.sum(keras.ops.cast(backends.softmax(logits), "float32"), axis=1)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(sums), 1, atol=2e-3)


@pytest.mark.skipif(keras.config.backend() != "tensorflow", reason="XLA of TensorFlow")
def test_softmax_cross_entropy_under_xla(monkeypatch):
    import tensorflow as tf

    monkeypatch.setattr(losses, "CHUNK_BYTES", 1)
    monkeypatch.setattr(losses, "CHUNK_ROWS", 5)
    hidden, table = tf.constant(normal(12, 4)), tf.constant(normal(11, 4))
    labels, weights = RNG.integers(3, 11, 12).astype(np.int32), np.ones(12, np.float32)

    @tf.function(jit_compile=True, input_signature=[tf.TensorSpec((None, 4)), tf.TensorSpec((11, 4))])
    def both(h, t):
        with tf.GradientTape() as tape:
            tape.watch([h, t])
            value = tensors.softmax_cross_entropy(h, t, labels, weights)
        return value, tape.gradient(value, [h, t])

    value, gradients = both(hidden, table)
    expected = softmax_reference(hidden.numpy(), table.numpy(), labels, weights)
    close(float(value), expected[0])
    for actual, slope in zip(gradients, expected[1:], strict=False):
        close(actual.numpy(), slope)


def buckets_reference(hidden, table, labels, weights, noise, bucket_rows, bucket_items):
    """Loss and gradients of SCE, a bucket at a time, in float64."""
    hidden, items = hidden.astype(np.float64), table[NUM_SPECIALS:].astype(np.float64)
    label = np.maximum(labels - NUM_SPECIALS, 0)
    centres = noise.astype(np.float64) @ np.linalg.cholesky(hidden.T @ hidden + 1e-30 * np.eye(hidden.shape[1])).T
    best = {}
    for centre in centres:
        rows = np.argsort(-np.where(weights > 0, hidden @ centre, -np.inf))[:bucket_rows]
        bucket = np.argsort(-(items @ centre))[:bucket_items]
        for row in rows[weights[rows] > 0].tolist():
            candidates = [label[row], *(item for item in bucket.tolist() if item != label[row])]
            value = -log_softmax(items[candidates] @ hidden[row])[0]
            if value > best.get(row, (-1,))[0]:
                best[row] = value, candidates
    total = sum(weights[row] for row in best)
    slopes = np.zeros_like(hidden), np.zeros((len(table), hidden.shape[1]))
    for row, (_, candidates) in best.items():
        residual = softmax(items[candidates] @ hidden[row]) * weights[row] / total
        residual[0] -= weights[row] / total
        slopes[0][row] += residual @ items[candidates]
        np.add.at(slopes[1], np.array(candidates) + NUM_SPECIALS, residual[:, None] * hidden[row])
    return sum(weights[row] * value for row, (value, _) in best.items()) / total, slopes, len(best)


@pytest.mark.parametrize("num_buckets, bucket_rows, bucket_items", [(1, 17, 26), (4, 5, 6), (3, 16, 9)])
def test_scalable_cross_entropy(num_buckets, bucket_rows, bucket_items):
    rows, items, dim = 17, 29, 6
    hidden, table, noise = normal(rows, dim), normal(items, dim), normal(num_buckets, dim)
    labels = RNG.integers(NUM_SPECIALS, items, rows).astype(np.int32)
    weights = RNG.random(rows).astype(np.float32) + 0.1
    labels[3], weights[3] = 0, 0.0  # padding

    def loss(h, t):
        as_tensors = (keras.ops.convert_to_tensor(array) for array in (labels, weights, noise))
        return losses.scalable_cross_entropy(h, t, *as_tensors, bucket_rows, bucket_items)

    value, gradients = value_and_gradients(loss, hidden, table)
    expected, slopes, reached = buckets_reference(hidden, table, labels, weights, noise, bucket_rows, bucket_items)
    close(value, expected, 1e-5)
    for actual, slope in zip(gradients, slopes, strict=True):
        close(actual, slope, 1e-5)
    assert np.all(gradients[0][3] == 0) and reached > bucket_rows - 2
    if num_buckets == 1:  # one bucket of everything is the whole softmax
        close(value, softmax_reference(hidden, table, labels, weights)[0], 1e-5)
