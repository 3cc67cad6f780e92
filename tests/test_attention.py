"""Attention and transformer blocks against NumPy, and what a slot may see."""

import keras
import numpy as np
import pytest
from scipy.special import expit, softmax

from tests import autodiff
from zoo.layers.attention import HIDDEN, SelfAttention, visible
from zoo.layers.embedding import IndexEmbedding
from zoo.layers.relative_bias import DistanceBias
from zoo.layers.transformer import TransformerBlock

RNG = np.random.default_rng(5)
SEGMENT = np.array([[1, 1, 1, 2, 2, 0], [1, 1, 1, 1, 1, 1]], np.int32)


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def bias_of(segment, causal=True):
    seen = keras.ops.convert_to_numpy(visible(keras.ops.convert_to_tensor(segment), causal))
    return np.where(seen[:, None], 0.0, HIDDEN).astype(np.float32)


def run(layer, *arrays):
    return keras.ops.convert_to_numpy(layer(*(keras.ops.convert_to_tensor(array) for array in arrays)))


def randomise(layer):
    layer.set_weights([normal(*weight.shape) * 0.5 for weight in layer.get_weights()])
    return {weight.path.split("/", 1)[1]: keras.ops.convert_to_numpy(weight) for weight in layer.weights}


def attention_reference(weights, x, seen, segment, heads, causal=True, prefix=""):
    """One slot at a time."""
    query = dense(weights, prefix + "query", x)
    key, value = np.split(dense(weights, prefix + "key_value", seen), 2, axis=-1)
    dim = x.shape[-1] // heads
    mixed = np.zeros_like(x)
    for r in range(len(x)):
        for i in range(x.shape[1]):
            others = [j for j in range(x.shape[1]) if segment[r, j] == segment[r, i] and (j <= i or not causal)]
            for h in range(heads):
                part = slice(h * dim, (h + 1) * dim)
                logits = key[r, others, part] @ query[r, i, part] / np.sqrt(dim)
                mixed[r, i, part] = softmax(logits) @ value[r, others, part]
    return mixed @ weights[prefix + "output/kernel"] + weights[prefix + "output/bias"]


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("heads", [1, 2])
def test_self_attention(heads, causal):
    x, seen, layer = normal(2, 6, 4), normal(2, 6, 4), SelfAttention(4, heads)
    bias = bias_of(SEGMENT, causal)
    run(layer, x, seen, bias)
    weights = randomise(layer)
    expected = attention_reference(weights, x, seen, SEGMENT, heads, causal)
    np.testing.assert_allclose(run(layer, x, seen, bias), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("two_sided", [False, True])
def test_distances_add_to_the_logits(two_sided):
    """With keys of zero the weights are what the table says, and the first head of a decay weighs all alike."""
    reach, heads = 4, 3
    layer = DistanceBias(reach, heads, two_sided, decay=True)
    distance = np.arange(6)[:, None] - np.arange(6)[None, :]
    found = run(layer, distance.astype(np.int32))
    known = np.clip(distance, -reach + 1 if two_sided else 0, reach - 1)
    np.testing.assert_allclose(found, -np.arange(heads)[:, None, None] / 2 * np.log1p(np.abs(known)), atol=1e-6)
    table = normal(heads, 2 * reach - 1 if two_sided else reach)
    layer.set_weights([table])
    batch = np.stack([distance, distance.T]).astype(np.int32)
    expected = np.stack(
        [
            table[
                :,
                np.clip(d, *((1 - reach, reach - 1) if two_sided else (0, reach - 1)))
                - (1 - reach if two_sided else 0),
            ]
            for d in batch
        ]
    )
    np.testing.assert_array_equal(run(layer, batch), expected)
    attention = SelfAttention(6, heads, by_distance=layer)
    x, bias = normal(2, 6, 6), bias_of(SEGMENT)
    run(attention, x, x, bias)
    weights = randomise(attention)
    attention.key_value.set_weights([weights["key_value/kernel"] * (np.arange(12) >= 6)])
    numbers = keras.ops.convert_to_numpy(layer.table)[:, known - layer.low]
    shares = softmax(numbers[None] + bias, axis=-1)  # (R, H, L, L)
    values = (x @ weights["key_value/kernel"])[..., 6:].reshape(2, 6, heads, 2)
    mixed = np.einsum("rhij,rjhd->rihd", shares, values).reshape(2, 6, 6)
    expected = mixed @ weights["output/kernel"] + weights["output/bias"]
    np.testing.assert_allclose(run(attention, x, x, bias), expected, rtol=1e-4, atol=1e-5)


def norm_reference(weights, name, x):
    centred = x - x.mean(axis=-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-6)
    return scaled * weights[f"{name}/gamma"] + weights[f"{name}/beta"]


def dense(weights, name, x):
    return x @ weights[f"{name}/kernel"] + weights.get(f"{name}/bias", 0)


def block_reference(weights, x, kind):
    def attention(y, seen):
        return attention_reference(weights, y, seen, SEGMENT, 2, prefix="attention/")

    def norm(name, y):
        return norm_reference(weights, name, y)

    if kind == "ligr":

        def network(y):
            gate, linear = np.split(dense(weights, "inner", y), 2, axis=-1)
            return dense(weights, "outer", gate * expit(gate) * linear)

        normed = norm("attention_norm", x)
        x = x + expit(dense(weights, "gate_0", x)) * attention(normed, normed)
        return x + expit(dense(weights, "gate_1", x)) * network(norm("network_norm", x))

    def network(y):
        return dense(weights, "outer", np.maximum(dense(weights, "inner", y), 0))

    if kind == "post_norm":
        x = norm("attention_norm", x + attention(x, x))
        return norm("network_norm", x + network(x))
    normed = norm("attention_norm", x)
    if kind == "original":
        x = norm("network_norm", normed + attention(normed, x))
        return x + network(x)
    x = x + attention(normed, normed)
    return x + network(norm("network_norm", x))


@pytest.mark.parametrize("kind", ["pre_norm", "post_norm", "original", "ligr"])
def test_transformer_block(kind):
    x, layer = normal(2, 6, 4), TransformerBlock(4, 2, expansion=3, kind=kind)
    bias = bias_of(SEGMENT)
    run(layer, x, bias)
    weights = randomise(layer)
    np.testing.assert_allclose(run(layer, x, bias), block_reference(weights, x, kind), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize("kind", ["pre_norm", "post_norm", "original", "ligr"])
def test_the_wanted_slots_alone_are_the_same(kind, gaps, training):
    x, bias = (keras.ops.convert_to_tensor(array) for array in (normal(2, 6, 4), bias_of(SEGMENT)))
    wanted = np.array([2, 4, 5, 11, 4], np.int32)
    place = np.array([[0, 4, 5, 1, 0, 0], [0, 1, 2, 3, 9, 5]], np.int32)
    place = keras.ops.convert_to_tensor(place) if gaps else None
    layer = TransformerBlock(4, 2, kind=kind, by_distance=DistanceBias(6, 2, two_sided=True))
    layer(x, bias, place)
    randomise(layer)

    def of_all():
        return keras.ops.take(keras.ops.reshape(layer(x, bias, place, training=training), (-1, 4)), wanted, axis=0)

    def alone():
        return layer(x, bias, place, keras.ops.convert_to_tensor(wanted), training=training)

    expected, found = (keras.ops.convert_to_numpy(states()) for states in (of_all, alone))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    gradients = [
        autodiff.gradients(lambda states=states: keras.ops.sum(states() ** 3), layer.trainable_variables)
        for states in (of_all, alone)
    ]
    for one, other in zip(*gradients, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", ["pre_norm", "post_norm", "original", "ligr"])
def test_no_slot_sees_the_future_or_a_neighbour(kind):
    layer, bias = TransformerBlock(4, 1, kind=kind), bias_of(SEGMENT)
    x = normal(2, 6, 4)
    before = run(layer, x, bias)
    changed = x.copy()
    changed[0, 2] += 1.0  # the last event of the first sequence in row 0
    after = run(layer, changed, bias)
    same = np.ones((2, 6), bool)
    same[0, 2] = False
    np.testing.assert_array_equal(before[same], after[same])
    assert not np.allclose(before[0, 2], after[0, 2])


def test_indexed_rows_have_a_dense_gradient():
    layer = IndexEmbedding(4, 2)
    index = keras.ops.convert_to_tensor(np.array([[0, 3], [3, 3]], np.int32))
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(layer(index)), keras.ops.convert_to_numpy(layer.table)[[[0, 3], [3, 3]]]
    )
    (gradient,) = autodiff.gradients(lambda: keras.ops.sum(layer(index)), layer.trainable_variables)
    np.testing.assert_array_equal(gradient, [[1, 1], [0, 0], [0, 0], [3, 3]])
