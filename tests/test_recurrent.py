"""The GRU against a loop in NumPy: values, gradients, resets."""

import keras
import numpy as np
import pytest
from scipy.special import expit

from tests import autodiff
from tests.test_losses import value_and_gradients
from zoo.layers.recurrent import GRU, Memory

RNG = np.random.default_rng(3)
ROWS, LENGTH, DIM, UNITS = 3, 7, 4, 5


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


@pytest.fixture
def weights():
    return [normal(DIM, 3 * UNITS), normal(UNITS, 3 * UNITS), normal(3 * UNITS), normal(3 * UNITS)]


def reference(x, keep, state, kernel, recurrent_kernel, bias, recurrent_bias):
    """The formulas of the layer's docstring, one event at a time, in float64."""
    x, state = x.astype(np.float64), state.astype(np.float64)
    states = np.zeros((*x.shape[:2], UNITS))
    for t in range(x.shape[1]):
        state = state * keep[:, t, None]
        ours, others = x[:, t] @ kernel + bias, state @ recurrent_kernel + recurrent_bias
        reset = expit(ours[:, :UNITS] + others[:, :UNITS])
        update = expit(ours[:, UNITS : 2 * UNITS] + others[:, UNITS : 2 * UNITS])
        new = np.tanh(ours[:, 2 * UNITS :] + reset * others[:, 2 * UNITS :])
        state = (1 - update) * new + update * state
        states[:, t] = state
    return states


def layer(weights):
    gru = GRU(UNITS)
    gru.build((ROWS, LENGTH, DIM))
    gru.set_weights(weights)
    return gru


def test_it_is_the_cell_in_a_loop(weights):
    x, start = normal(ROWS, LENGTH, DIM), normal(ROWS, UNITS)
    keep = (RNG.random((ROWS, LENGTH)) < 0.7).astype(np.float32)
    states = keras.ops.convert_to_numpy(layer(weights)(x, keep, start))
    np.testing.assert_allclose(states, reference(x, keep, start, *weights), rtol=1e-5, atol=1e-6)
    fresh = keras.ops.convert_to_numpy(layer(weights)(x, keep))
    np.testing.assert_allclose(fresh, reference(x, keep, 0 * start, *weights), rtol=1e-5, atol=1e-6)


def test_gradients_are_those_of_the_loop(weights):
    x, start = normal(ROWS, LENGTH, DIM), normal(ROWS, UNITS)
    keep = (RNG.random((ROWS, LENGTH)) < 0.7).astype(np.float32)
    keep[0, 0] = 1.0  # so that the start counts somewhere
    pull = normal(ROWS, LENGTH, UNITS)
    gru = layer(weights)

    def loss(x, start):
        return keras.ops.sum(gru(x, keep, start) * keras.ops.convert_to_tensor(pull))

    _, gradients = value_and_gradients(loss, x, start)
    found = dict(zip(("x", "start"), gradients, strict=True))
    names = [variable.name for variable in gru.trainable_variables]
    tensors = [keras.ops.convert_to_tensor(array) for array in (x, start)]
    found |= dict(zip(names, autodiff.gradients(lambda: loss(*tensors), gru.trainable_variables), strict=True))
    arguments = dict(zip(("x", "keep", "start", *names), (x, keep, start, *weights), strict=True))
    step = 1e-5
    for name, gradient in found.items():
        for _ in range(12):
            place = tuple(RNG.integers(size) for size in gradient.shape)
            ends = []
            for sign in (1, -1):
                moved = {key: np.asarray(value, np.float64).copy() for key, value in arguments.items()}
                moved[name][place] += sign * step
                ends.append((reference(*moved.values()) * pull).sum())
            np.testing.assert_allclose(gradient[place], (ends[0] - ends[1]) / (2 * step), 1e-3, 1e-4, err_msg=name)


def test_sequences_in_one_row_do_not_know_each_other(weights):
    a, b = normal(1, 3, DIM), normal(1, 4, DIM)
    gru = layer(weights)
    together = gru(np.concatenate([a, b], axis=1), np.array([[0, 1, 1, 0, 1, 1, 1]], np.float32))
    apart = [gru(part, np.ones(part.shape[:2], np.float32)) for part in (a, b)]
    together, apart = (keras.ops.convert_to_numpy(a) for a in (together, keras.ops.concatenate(apart, axis=1)))
    np.testing.assert_allclose(together, apart, rtol=1e-5, atol=1e-6)


def test_half_precision_keeps_its_state_in_full(weights):
    half = GRU(UNITS, dtype="mixed_bfloat16")
    half.build((ROWS, LENGTH, DIM))
    half.set_weights(weights)
    x, keep = normal(ROWS, LENGTH, DIM), np.ones((ROWS, LENGTH), np.float32)
    states = half(x, keep)
    assert keras.backend.standardize_dtype(states.dtype) == "bfloat16"
    expected = reference(x, keep, np.zeros((ROWS, UNITS)), *weights)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(keras.ops.cast(states, "float32")), expected, atol=0.05)


@pytest.mark.skipif(keras.config.backend() != "tensorflow", reason="XLA of TensorFlow")
def test_tensorflow_compiles_it_with_its_gradient(weights):
    import tensorflow as tf

    gru, x, keep = layer(weights), tf.constant(normal(ROWS, LENGTH, DIM)), tf.ones((ROWS, LENGTH))

    def both():
        with tf.GradientTape() as tape:
            value = tf.reduce_sum(gru(x, keep) ** 2)
        return value, *tape.gradient(value, [v.value for v in gru.trainable_variables])

    for a, b in zip(tf.function(both, jit_compile=True)(), tf.function(both)(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_a_memory_is_read_as_written_and_never_saved():
    memory = Memory()
    assert np.all(keras.ops.convert_to_numpy(memory.read(2, 3)) == 0)
    memory.write(keras.ops.ones((2, 3)))
    assert np.all(keras.ops.convert_to_numpy(memory.read(2, 3)) == 1)
    assert not memory.trainable_variables
    store = {}
    memory.save_own_variables(store)
    assert not store
