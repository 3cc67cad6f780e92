"""Features of events and the stacks over them, against NumPy."""

import keras
import numpy as np
import pytest
from keras import ops

from tests import autodiff
from zoo.data.vocabulary import NUM_SPECIALS, PAD, UNKNOWN
from zoo.layers.event_encoder import LATELY, pooled
from zoo.layers.event_features import CodeEmbedding, FamilyFusion, HashEmbedding, ProductFeatures, hashed
from zoo.layers.event_stack import EventStack
from zoo.layers.hstu import HSTUBlock, RelativeBias, time_buckets

RNG = np.random.default_rng(5)


def array(tensor):
    return ops.convert_to_numpy(tensor)


def weights_of(layer):
    """{name within the layer: array}."""
    return {v.path.removeprefix(f"{layer.name}/"): array(v) for v in layer.weights}


def draw_weights(layer, scale=0.5):
    for variable in layer.trainable_variables:
        variable.assign(RNG.normal(0, scale, variable.shape).astype(np.float32))


# ------------------------------------------------------------------------------------------------ hashing


def test_products_never_share_a_vector_however_small_the_table():
    size = 20_000
    layer = HashEmbedding(size, size, 2_000, 3, 8)
    vectors = array(layer(np.arange(size)))[NUM_SPECIALS:]
    assert layer.table.shape == (2_002, 8)
    assert len(np.unique(vectors.round(7), axis=0)) == len(vectors)
    by_remainder = HashEmbedding(size, size, 2_000, 1, 8)
    assert len(np.unique(array(by_remainder(np.arange(size))).round(7), axis=0)) <= 2_002


def test_where_rows_are_enough_each_product_has_one_of_its_own():
    rows = HashEmbedding(500, 400, 4_096, 3, 4).row_of_token
    first = rows[NUM_SPECIALS:400, 0]
    assert len(np.unique(first)) == len(first)


def test_untrained_and_special_tokens():
    layer = HashEmbedding(50, 40, 64, 3, 4)
    vectors = array(layer(np.arange(50)))
    np.testing.assert_array_equal(vectors[40:], np.tile(vectors[UNKNOWN], (10, 1)))
    assert np.abs(vectors[PAD] - vectors[UNKNOWN]).max() > 1e-3 and np.abs(vectors[PAD]).max() > 1e-3


def test_hash_embedding_equals_a_loop():
    layer = HashEmbedding(30, 30, 7, 3, 4)
    layer(np.arange(30))
    draw_weights(layer)
    weights = weights_of(layer)
    table, importance, rows = weights["embeddings"], weights["importance_embeddings"], weights["rows"]
    assert rows.max() == 8 and rows[NUM_SPECIALS:].min() == 2
    for token in range(30):
        expected = sum(importance[rows[token, 3], j] * table[rows[token, j]] for j in range(3))
        np.testing.assert_allclose(array(layer(np.array([token])))[0], expected, rtol=1e-5, atol=1e-6)


def test_hashes_are_even_and_independent():
    rows = hashed(np.arange(50_000), 4, 100)
    for j in range(4):
        counts = np.bincount(rows[:, j], minlength=100)
        assert counts.min() > 380 and counts.max() < 620
    for j in range(1, 4):
        assert abs(np.mean(rows[:, 0] == rows[:, j]) - 0.01) < 0.003
        assert abs(np.mean(rows[:, j] == np.roll(rows[:, j], 1)) - 0.01) < 0.003


# ---------------------------------------------------------------------------------------------- families


def test_code_embedding_is_the_mean_of_what_is_there():
    layer = CodeEmbedding(9, 3)
    rows = np.array([[1, 5, -1], [0, -1, -1], [8, -1, 3]], np.int32)
    found = array(layer(rows))
    table = weights_of(layer)["embeddings"]
    expected = [(table[1] + table[5]) / 2, table[0], (table[8] + table[3]) / 2]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def product_features(name=None):
    category = np.array([0, 0, 2, 3, 4, 3, UNKNOWN], np.int32)
    price = np.array([-1, -1, -1, 0, 5, 5, -1], np.int16)
    name = np.array([[0, -1]] * 3 + [[1, 4], [2, 4], [1, -1], [0, -1]], np.int32) if name is None else name
    return ProductFeatures(category, price, name, 5, 6, 7, 7, 4, 16, 2)


def test_product_features_are_those_of_the_tables():
    layer = product_features()
    item, category, price, name = (array(part) for part in layer(np.arange(7)))
    weights = weights_of(layer)
    np.testing.assert_allclose(category[3], weights["category/embeddings"][3], rtol=1e-6)
    for token in (PAD, 1, UNKNOWN, 6):  # without a category
        np.testing.assert_allclose(category[token], weights["category/embeddings"][PAD], rtol=1e-6)
    np.testing.assert_allclose(price[[3, 4, 6]], weights["price/embeddings"][[1, 6, 0]], rtol=1e-6)
    np.testing.assert_allclose(name[6], weights["name_codes/embeddings"][0], rtol=1e-6)
    assert np.abs(name[3] - name[4]).max() > 1e-3
    np.testing.assert_allclose(array(layer.names(np.arange(7))), name, rtol=1e-6)
    assert item.shape == (7, 4)


def test_words_in_another_place_are_other_words():
    one, two = (np.array([[0, -1]] * 6 + [codes], np.int32) for codes in ([1, 4], [2, 3]))
    names = []
    for name in (one, two):
        layer = product_features(name)
        layer(np.arange(7))
        layer.name_codes.table.assign(np.arange(28, dtype=np.float32).reshape(7, 4) ** 2)
        names.append(array(layer.names(np.array([6]))))
    assert np.abs(names[0] - names[1]).max() > 1


def test_fusion_equals_numpy():
    layer, rows = FamilyFusion(3, 5, 4), RNG.normal(size=(3, 2, 6)).astype(np.float32)
    layer([layer.prepare(i, ops.convert_to_tensor(family)) for i, family in enumerate(rows)])
    draw_weights(layer)
    weights = weights_of(layer)
    found = array(layer([layer.prepare(i, ops.convert_to_tensor(family)) for i, family in enumerate(rows)]))
    unit = rows / np.linalg.norm(rows, axis=-1, keepdims=True)
    hidden = unit @ weights["hidden/kernel"] + weights["hidden/bias"]
    hidden = hidden / (1 + np.exp(-hidden))  # SiLU
    logits = (hidden @ weights["gate/kernel"])[..., 0]  # (3, 2)
    share = 3 * np.exp(logits) / np.exp(logits).sum(axis=0)
    assert share.std() > 0.05
    kernel = np.concatenate([weights[f"part_{i}/kernel"] for i in range(3)])  # W of all families side by side
    joined = np.concatenate([share[i][:, None] * rows[i] for i in range(3)], axis=1)
    np.testing.assert_allclose(found, joined @ kernel + weights["bias"], rtol=1e-4, atol=1e-5)


def test_fusion_of_nothing_has_a_finite_gradient():
    layer = FamilyFusion(2, 3, 4)
    zeros = ops.zeros((1, 3))

    def loss():
        return ops.sum(layer([layer.prepare(i, zeros) for i in range(2)]))

    loss()
    assert all(np.isfinite(g).all() for g in autodiff.gradients(loss, layer.trainable_variables))


# ------------------------------------------------------------------------------------------------- stacks


def silu(x):
    return x / (1 + np.exp(-x))


def normalise(x):
    return (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(x.var(axis=-1, keepdims=True) + 1e-6)


@pytest.mark.parametrize("use_time", [True, False])
def test_hstu_with_a_bias_per_head_equals_a_loop(use_time):
    length, dim, heads, width = 6, 8, 2, 3
    block = HSTUBlock(dim, heads, width, width, length, use_time, per_head=True)
    x = RNG.normal(size=(1, length, dim)).astype(np.float32)
    seconds = np.sort(RNG.integers(0, 10**6, (1, length))).astype(np.int32)
    place = np.arange(length, dtype=np.int32)
    seen = (place[:, None] >= place[None, :])[None]
    bucket = time_buckets(seconds, seconds) if use_time else None

    def call():
        return array(block(x, ops.convert_to_tensor(seen), ops.convert_to_tensor(place[:, None] - place), bucket))

    call()
    draw_weights(block)
    weights = weights_of(block)
    assert weights["bias/by_distance/table"].shape == (heads, length)
    gate, value, query, key = np.split(silu(normalise(x[0]) @ weights["gate_value_query_key/kernel"]), 4, axis=1)
    mixed = np.zeros_like(value)
    for h in range(heads):
        mine = slice(h * width, (h + 1) * width)
        for i in range(length):
            for j in range(i + 1):
                bias = weights["bias/by_distance/table"][h, i - j]
                if use_time:
                    apart = max(abs(int(seconds[0, i]) - int(seconds[0, j])), 1)
                    bias = bias + weights["bias/by_time"][h, int(np.log(apart) / 0.301)]
                mixed[i, mine] += silu(query[i, mine] @ key[j, mine] + bias) / length * value[j, mine]
    expected = x[0] + (normalise(mixed) * gate) @ weights["output/kernel"] + weights["output/bias"]
    np.testing.assert_allclose(call()[0], expected, rtol=1e-4, atol=1e-4)


def test_one_bias_for_all_heads_is_what_it_was():
    """The default has the weights that it had, and those of a bias per head, all alike, give the same."""
    shared, own = RelativeBias(5, True), RelativeBias(5, True, num_heads=3)
    place = np.arange(5, dtype=np.int32)
    seen = ops.convert_to_tensor((place[:, None] >= place)[None])
    bucket = ops.convert_to_tensor(RNG.integers(0, 60, (1, 5, 5)).astype(np.int32))
    given = (seen, ops.convert_to_tensor(place[:, None] - place), bucket)
    assert array(shared(*given)).shape == (1, 1, 5, 5) and array(own(*given)).shape == (1, 3, 5, 5)
    assert {name: w.shape for name, w in weights_of(shared).items()} == {
        "by_distance/table": (1, 5),
        "by_time": (1, 129),
    }
    for mine, theirs in zip(own.weights, shared.weights, strict=True):
        mine.assign(np.repeat(array(theirs), 3, axis=0))
    np.testing.assert_array_equal(array(own(*given)), np.repeat(array(shared(*given)), 3, axis=1))


@pytest.mark.parametrize("kind", ["hstu", "transformer"])
def test_a_stack_keeps_to_its_sequence_and_its_past(kind):
    stack = EventStack(kind, 8, 2, 2, 10, 2)
    x = RNG.normal(size=(1, 10, 8)).astype(np.float32)
    segment = np.array([[1] * 4 + [2] * 5 + [0]], np.int32)
    time = np.sort(RNG.integers(0, 10**6, (1, 10))).astype(np.int32)[:, ::-1].copy()

    def call(x, segment, time):
        return array(stack(*(ops.convert_to_tensor(a) for a in (x, segment, time))))

    call(x, segment, time)
    draw_weights(stack, 0.3)
    states = call(x, segment, time)
    alone = call(x[:, 4:9], np.ones((1, 5), np.int32), time[:, 4:9] + 77)
    np.testing.assert_allclose(states[:, 4:9], alone, rtol=1e-4, atol=1e-5)
    other, later = x.copy(), time.copy()
    other[0, 6], later[0, 6] = 3.0, 5
    changed = call(other, segment, later)
    np.testing.assert_array_equal(changed[0, :6], states[0, :6])
    assert np.abs(changed[0, 6:9] - states[0, 6:9]).max() > 1e-2
    slower = call(x, segment, time * 40)
    assert np.abs(slower - states).max() > 1e-2
    # Each head has a bias of its own.
    by_time = next(v for v in stack.weights if v.path.endswith("by_time"))
    assert by_time.shape == (2, 129)
    gradient = autodiff.gradients(
        lambda: ops.sum(ops.sin(stack(*(ops.convert_to_tensor(a) for a in (x, segment, time))))), [by_time]
    )[0]
    assert np.abs(gradient[0] - gradient[1]).max() > 1e-6


def test_layers_are_keras_layers_with_names_of_their_own():
    stack = EventStack("hstu", 8, 2, 2, 10, 2)
    stack(ops.zeros((1, 3, 8)), ops.ones((1, 3), "int32"), ops.zeros((1, 3), "int32"))
    paths = [variable.path for variable in stack.weights]
    assert len(set(paths)) == len(paths) and isinstance(stack, keras.layers.Layer)


def test_what_is_pooled_of_a_client_equals_numpy():
    rows, slots, dim, kinds = 2, 8, 3, 2
    states = RNG.normal(size=(rows, slots, dim)).astype(np.float32)
    segment = np.array([[1, 1, 1, 2, 3, 3, 0, 0], [4, 4, 4, 4, 4, 4, 4, 0]], np.int32)
    kind = np.array([[1, 2, 1, 3, 2, 2, 0, 0], [1, 1, 1, 2, 2, 1, 2, 0]], np.int32)  # the second client has no history
    time = RNG.integers(0, 200 * 86_400, (rows, slots)).astype(np.int32)
    slot = np.array([2, 3, 5, 14, 0], np.int32)  # the fifth fills the batch up
    found = array(
        pooled(ops.convert_to_tensor(states), {"segment": segment, "kind": kind, "time": time, "slot": slot}, kinds)
    )
    assert found.shape == (5, dim + (1 + kinds) * (dim + 1 + len(LATELY))) and np.isfinite(found).all()
    for client in range(4):
        mine = segment.reshape(-1) == client + 1
        expected = [states.reshape(-1, dim)[slot[client]]]
        for wanted in (None, 1, 2):
            chosen = mine if wanted is None else mine & (kind.reshape(-1) == wanted)
            own = states.reshape(-1, dim)[chosen]
            expected.append(own.mean(axis=0) if len(own) else np.zeros(dim))
            age = time.reshape(-1)[chosen & (kind.reshape(-1) <= kinds)]  # to have no history is no event
            expected.append(np.log1p([len(age), *(np.sum(age < days * 86_400) for days in LATELY)]))
        np.testing.assert_allclose(found[client], np.concatenate(expected), rtol=1e-4, atol=1e-5)
