"""Layers against NumPy: padding, untrained tokens, features, recency pooling, towers."""

import builtins

import keras
import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import norm

from config import ConfigError
from tests import autodiff
from zoo import backends
from zoo.data.features import FeatureTable
from zoo.layers.dropout import Dropout
from zoo.layers.embedding import IdEmbedding
from zoo.layers.features import FeatureEncoder
from zoo.layers.gelu import gelu
from zoo.layers.normalize import LayerNorm, l2_normalize
from zoo.layers.pooling import RecencyPooling
from zoo.layers.relative_bias import joined
from zoo.layers.tower import Tower

RNG = np.random.default_rng(3)


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def tensor(array):
    return keras.ops.convert_to_tensor(array)


def array(value):
    return keras.ops.convert_to_numpy(value)


def close(actual, expected):
    np.testing.assert_allclose(array(actual), expected, rtol=1e-5, atol=1e-6)


def test_ids_are_rows_and_untrained_ones_are_zero():
    layer = IdEmbedding(6, 4)
    tokens = np.array([[0, 1, 2], [3, 5, 6], [4, 100, 3]], np.int32)
    vectors = array(layer(tensor(tokens)))
    table = array(layer.table)
    expected = np.where(((tokens >= 3) & (tokens < 6))[..., None], table[np.minimum(tokens, 5)], 0)
    np.testing.assert_array_equal(vectors, expected)


def test_gradients_of_a_repeated_id_are_summed_and_dense():
    layer = IdEmbedding(6, 2)
    tokens = tensor(np.array([3, 4, 3, 0, 9], np.int32))
    layer(tokens)
    (gradient,) = autodiff.gradients(lambda: keras.ops.sum(layer(tokens)), layer.trainable_variables)
    expected = np.zeros((6, 2))
    expected[3], expected[4] = 2, 1
    np.testing.assert_array_equal(np.asarray(array(gradient)), expected)


@pytest.fixture
def features():
    bags = np.array([[0, 0, 0], [0, 0, 0], [0, 0, 0], [1, 0, 0], [1, 2, 3], [0, 0, 0]], np.int32)
    return FeatureTable(bags, ("", "a=x", "b=y", "b=z"), normal(6, 2) * (np.arange(6) > 2)[:, None], ("n", "m"))


def test_features_are_the_mean_of_a_bag_and_a_projection_of_numbers(features):
    layer = FeatureEncoder(features, 5)
    tokens = np.array([2, 3, 4, 5], np.int32)
    vectors = array(layer(tensor(tokens)))
    values, kernel = array(layer.values), array(layer.projection.kernel)
    for row, token in enumerate(tokens):
        bag = [value for value in features.bags[token] if value]
        expected = np.mean(values[bag], axis=0) if bag else np.zeros(5)
        np.testing.assert_allclose(vectors[row], expected + features.numbers[token] @ kernel, rtol=1e-5, atol=1e-6)
    assert not vectors[0].any(), "a token without features is neutral"
    assert {v.path.rsplit("/", 1)[-1] for v in layer.non_trainable_variables} == {"bags", "number_table"}


def test_features_without_numbers(features):
    layer = FeatureEncoder(FeatureTable(features.bags, features.names, np.zeros((6, 0), np.float32), ()), 5)
    assert array(layer(tensor(np.array([[3, 4]], np.int32)))).shape == (1, 2, 5)


@pytest.mark.parametrize("attention", [False, True])
def test_pooling_against_a_loop(attention):
    heads, length, dim = 3, 5, 4
    layer = RecencyPooling(heads, length, attention)
    events, lengths = normal(4, length, dim), np.array([5, 2, 1, 0], np.int32)
    layer(tensor(events), tensor(lengths))
    layer.by_rank.assign(normal(length, heads))
    if attention:
        layer.query.assign(normal(dim, heads))
    pooled = array(layer(tensor(events), tensor(lengths))).reshape(4, heads, dim)
    by_rank = array(layer.by_rank)
    for row, count in enumerate(lengths):
        for head in range(heads):
            weights = np.array([by_rank[count - 1 - place, head] for place in range(count)])
            if attention and count:
                weights = softmax(weights + events[row, :count] @ array(layer.query)[:, head] / np.sqrt(dim))
            expected = weights @ events[row, :count] if count else np.zeros(dim)
            np.testing.assert_allclose(pooled[row, head], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("attention", [False, True])
def test_pooling_ignores_what_lies_in_the_padding(attention):
    layer = RecencyPooling(2, 4, attention)
    events, lengths = normal(3, 4, 2), tensor(np.array([1, 3, 0], np.int32))
    other = events.copy()
    other[0, 1:], other[1, 3:], other[2] = 1e6, -1e6, 1e6
    close(layer(tensor(events), lengths), array(layer(tensor(other), lengths)))


def test_pooling_starts_with_more_weight_on_recent_events():
    layer = RecencyPooling(2, 6)
    layer(tensor(normal(1, 6, 3)), tensor(np.array([6], np.int32)))
    assert (np.diff(array(layer.by_rank), axis=0) < 0).all()


def test_tower_without_a_network_is_the_sum():
    parts = [normal(3, 4), normal(3, 4)]
    close(Tower()([tensor(part) for part in parts]), parts[0] + parts[1])


def test_tower_with_a_network():
    parts = [normal(3, 4), normal(3, 4)]
    tower = Tower((8,))
    result = tower([tensor(part) for part in parts])
    (kernel, bias), (out, out_bias) = [
        (array(layer.kernel), array(layer.bias)) for layer in (tower.hidden[0], tower.output_layer)
    ]
    hidden = np.maximum(np.concatenate(parts, 1) @ kernel + bias, 0)
    np.testing.assert_allclose(array(result), sum(parts) + hidden @ out + out_bias, rtol=1e-4, atol=1e-5)


def test_hidden_parts_are_missing_ones_in_training_only():
    tower = Tower(part_dropout=0.3)
    parts = [tensor(np.full((1000, 2), value, np.float32)) for value in (1.0, 10.0)]
    assert (array(tower(parts)) == 11).all()
    seen = array(tower(parts, training=True))
    assert (seen[:, 0] == seen[:, 1]).all()
    for value, probability in ((0, 0.09), (1, 0.21), (10, 0.21), (11, 0.49)):
        assert abs((seen[:, 0] == value).mean() - probability) < 0.06
    assert (array(tower(parts[:1], training=True)) == 1).all(), "the only part is never hidden"


def test_crosses():
    pytest.importorskip("keras_rs")
    parts = [normal(3, 2), normal(3, 2)]
    tower = Tower((), num_crosses=1)
    result = array(tower([tensor(part) for part in parts]))
    x = np.concatenate(parts, 1)
    kernel, bias = (array(v) for v in tower.crosses[0].trainable_variables)
    crossed = x * (x @ kernel + bias) + x
    out, out_bias = array(tower.output_layer.kernel), array(tower.output_layer.bias)
    np.testing.assert_allclose(result, sum(parts) + crossed @ out + out_bias, rtol=1e-4, atol=1e-5)


def test_crosses_without_keras_rs_say_what_to_install(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "keras_rs":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"num_crosses.*pip install"):
        Tower((), num_crosses=1)


def test_l2_normalize():
    vectors = normal(5, 3)
    close(l2_normalize(tensor(vectors)), vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def test_l2_normalize_has_a_finite_gradient_at_zero():
    zero = keras.Variable(np.zeros((2, 3), np.float32))
    (gradient,) = autodiff.gradients(lambda: keras.ops.sum(l2_normalize(keras.ops.convert_to_tensor(zero))), [zero])
    assert np.isfinite(array(gradient)).all()


@pytest.mark.parametrize("weights", [True, False])
def test_a_layer_norm_is_the_same_compiled_for_inference_and_in_training(weights):
    layer = LayerNorm(center=weights, scale=weights)
    vectors = 3 + normal(7, 5, 16)
    layer.build(vectors.shape)
    if weights:
        layer.gamma.assign(normal(16)), layer.beta.assign(normal(16))
    alone = np.concatenate([array(layer(tensor(vectors))), array(layer(tensor(vectors), training=True))])
    model = keras.Sequential([layer])
    model.build(vectors.shape)
    compiled = array(backends.compiled(lambda inputs: layer(inputs["x"]), model)({"x": vectors}))
    centred = vectors - vectors.mean(-1, keepdims=True)
    expected = centred / np.sqrt(vectors.var(-1, keepdims=True) + 1e-6)
    if weights:
        expected = expected * array(layer.gamma) + array(layer.beta)
    close(alone, np.concatenate([expected, expected]))
    close(compiled, expected)


@pytest.mark.parametrize(("precision", "close_to"), [("float32", 1e-4), ("mixed_bfloat16", 0.1)])
@pytest.mark.parametrize("weights", [True, False])
def test_the_gradient_of_a_layer_norm_is_that_of_its_operations(weights, precision, close_to):
    layer, x = LayerNorm(center=weights, scale=weights, dtype=precision), keras.Variable(normal(7, 5, 16))
    upstream = tensor(normal(7, 5, 16))
    layer.build(x.shape)
    if weights:
        layer.gamma.assign(normal(16)), layer.beta.assign(normal(16))
    variables = [x, *layer.trainable_variables]

    def by_operations():
        centred = x.value - keras.ops.mean(x.value, axis=-1, keepdims=True)
        normed = centred * keras.ops.rsqrt(keras.ops.mean(centred * centred, axis=-1, keepdims=True) + 1e-6)
        normed = normed * layer.gamma + layer.beta if weights else normed
        return keras.ops.sum(upstream * normed)

    expected = autodiff.gradients(by_operations, variables)

    def by_hand():
        return keras.ops.sum(upstream * keras.ops.cast(layer(x.value), "float32"))

    for one, other in zip(autodiff.gradients(by_hand, variables), expected, strict=True):
        np.testing.assert_allclose(array(one), array(other), rtol=close_to, atol=close_to)


def drawn(layer, shape=(60, 40, 50), steps=4):
    """What the layer makes of ones in training, step after step."""
    return np.stack([array(layer(tensor(np.ones(shape, np.float32)), training=True)) for _ in range(steps)])


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.001])
def test_dropout_drops_a_share_and_keeps_the_mean(rate):
    dropped = max(round(256 * rate), 1) / 256
    result = drawn(Dropout(rate))
    assert set(np.unique(result)) == {0, np.float32(1 / (1 - dropped))}
    deviation = np.sqrt(dropped * (1 - dropped) / result.size)
    assert abs((result == 0).mean() - dropped) < 4 * deviation


def test_dropout_draws_each_number_and_each_step_on_its_own():
    zero = (drawn(Dropout(0.25)) == 0) - 0.25
    limit = 4 * 0.1875 / np.sqrt(zero[0].size)
    flat = zero.reshape(len(zero), -1)
    for i in range(len(zero) - 1):
        assert abs((flat[i] * flat[i + 1]).mean()) < limit, "steps"
    for apart in (1, 2, 4, 8, 50, 2000):
        assert abs((flat[0, apart:] * flat[0, :-apart]).mean()) < limit, f"places {apart} apart"
    other = (drawn(Dropout(0.25), steps=1) == 0) - 0.25
    assert abs((zero[0] * other[0]).mean()) < limit, "layers"


def test_dropout_is_nothing_outside_of_training_and_without_a_rate():
    x = tensor(normal(3, 4))
    np.testing.assert_array_equal(array(Dropout(0.5)(x)), array(x))
    np.testing.assert_array_equal(array(Dropout(0.0)(x, training=True)), array(x))
    with pytest.raises(ValueError, match="rate=1"):
        Dropout(1)


def test_what_is_dropped_has_no_gradient(monkeypatch):
    layer, x = Dropout(0.5), keras.Variable(normal(5, 6), trainable=True)
    kept = RNG.integers(0, 256, (5, 6)).astype(np.uint8)
    monkeypatch.setattr(backends, "random_bytes", lambda shape, seed: tensor(kept))
    (gradient,) = autodiff.gradients(lambda: keras.ops.sum(layer(x.value, training=True)), [x])
    np.testing.assert_array_equal(gradient, np.where(kept >= 128, 2.0, 0.0))


def test_a_softmax_that_loses_weights_and_its_gradient(monkeypatch):
    layer, logits, upstream = Dropout(0.5), keras.Variable(normal(5, 6)), normal(5, 6)
    kept = RNG.integers(0, 256, (5, 6)).astype(np.uint8)
    monkeypatch.setattr(backends, "random_bytes", lambda shape, seed: tensor(kept))
    weights, factor = softmax(array(logits), axis=-1), np.where(kept >= 128, 2.0, 0.0)
    close(layer.softmax(logits.value, training=True), weights * factor)
    close(layer.softmax(logits.value), weights)
    (gradient,) = autodiff.gradients(
        lambda: keras.ops.sum(tensor(upstream) * layer.softmax(logits.value, training=True)), [logits]
    )
    arriving = upstream * factor
    close(gradient, weights * (arriving - (weights * arriving).sum(-1, keepdims=True)))


def test_gelu_and_its_gradient():
    x, upstream = keras.Variable(3 * normal(7, 5)), normal(7, 5)
    close(gelu(x.value), array(x) * norm.cdf(array(x)))
    (gradient,) = autodiff.gradients(lambda: keras.ops.sum(tensor(upstream) * gelu(x.value)), [x])
    close(gradient, upstream * (norm.cdf(array(x)) + array(x) * norm.pdf(array(x))))


@pytest.mark.parametrize("heads", [1, 2])
def test_what_all_rows_share_has_the_gradient_of_their_sum(heads):
    bias, numbers = keras.Variable(normal(3, heads, 4, 5)), keras.Variable(normal(2, 4, 5))
    upstream = normal(3, 2, 4, 5)
    close(joined(bias.value, numbers.value), array(bias) + array(numbers))
    close(joined(bias.value, tensor(upstream)), array(bias) + upstream)
    found = autodiff.gradients(
        lambda: keras.ops.sum(tensor(upstream) * joined(bias.value, numbers.value)), [bias, numbers]
    )
    close(found[0], upstream.sum(1, keepdims=True) if heads == 1 else upstream)
    close(found[1], upstream.sum(0))
