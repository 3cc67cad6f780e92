import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops

from config import TrainConfig
from tests import autodiff
from zoo import backends


class Encoder(keras.Model):
    def __init__(self):
        super().__init__()
        self.embedding = keras.layers.Embedding(20, 4)
        self.dropout = keras.layers.Dropout(0.5)
        self.dense = keras.layers.Dense(3)
        self.traces = 0

    def call(self, x):
        self.traces += 1
        return self.dense(self.dropout(ops.mean(self.embedding(x["history"]), axis=1)))


def inputs(rows):
    return {"history": np.arange(rows * 5, dtype=np.int32).reshape(rows, 5) % 20}


def array(tensor):
    return ops.convert_to_numpy(tensor)


def reference(model, x):
    table, kernel, bias = (array(v) for v in (model.embedding.embeddings, model.dense.kernel, model.dense.bias))
    return table[x["history"]].mean(axis=1) @ kernel + bias


def test_compiled_is_the_function_without_dropout():
    model = Encoder()
    encode = backends.compiled(model.call, model)
    for rows in (3, 3, 4):
        x = inputs(rows)
        np.testing.assert_allclose(array(encode(x)), reference(model, x), rtol=1e-5, atol=1e-7)


def test_compiled_sees_later_weights():
    model = Encoder()
    encode = backends.compiled(model.call, model)
    before = array(encode(inputs(3)))
    model.dense.bias.assign(np.array([1.0, 2.0, 3.0], "float32"))
    np.testing.assert_allclose(array(encode(inputs(3))), before + np.array([1, 2, 3]), rtol=1e-5)


def test_compiled_traces_once_a_shape():
    model = Encoder()
    model(inputs(2))
    encode = backends.compiled(model.call, model)
    counts = []
    for rows in (3, 3, 3, 4, 4, 3):
        encode(inputs(rows))
        counts.append(model.traces)
    if backends.name() != "torch":  # which traces nothing
        assert counts[0] == counts[2] < counts[3] == counts[5]


def test_compiled_keeps_no_gradients():
    model = Encoder()
    result = backends.compiled(model.call, model)(inputs(2))
    assert not getattr(result, "requires_grad", False)


# ------------------------------------------------------------------------------------------------------- gradients


def repeated_rows(table):
    return ops.sum(ops.square(ops.take(table, np.array([1, 1, 2]), axis=0)))


def test_the_gradient_of_a_table_is_dense_and_right():
    table = keras.Variable(np.arange(12, dtype="float32").reshape(6, 2))
    (found,) = autodiff.gradients(lambda: repeated_rows(backends.dense_gradient(table)), [table])
    expected = np.zeros((6, 2), "float32")
    expected[1], expected[2] = 2 * 2 * table.numpy()[1], 2 * table.numpy()[2]
    np.testing.assert_allclose(found, expected)
    np.testing.assert_array_equal(array(backends.dense_gradient(table)), table.numpy())


def test_a_dense_use_beside_a_gather_adds_up():
    table = keras.Variable(np.ones((4, 2), "float32"))

    def loss():
        dense = backends.dense_gradient(table)
        return repeated_rows(dense) + ops.sum(dense * 3.0)

    (found,) = autodiff.gradients(loss, [table])
    np.testing.assert_allclose(found, 3 + np.array([0, 4, 2, 0])[:, None] * np.ones(2))


def test_adam_takes_the_same_step_for_a_row_that_repeats():
    class Table(keras.Model):
        def __init__(self):
            super().__init__()
            self.table = self.add_weight(shape=(6, 2), initializer="ones", name="table")

        def call(self, x):
            return ops.take(backends.dense_gradient(self.table), x["item"], axis=0)

        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            return ops.sum(y_pred * y)

    model = Table()
    model.compile(optimizer=keras.optimizers.Adam(0.1, epsilon=1.0))
    item, factor = np.array([1, 1, 2], "int32"), np.array([[1.0], [2.0], [3.0]], "float32")
    model.fit({"item": item}, factor, batch_size=3, shuffle=False, verbose=0)
    step = 1 - array(model.table)
    np.testing.assert_allclose(step[1], step[2], rtol=1e-6)  # 1 + 2 is 3, squared once
    moment = np.sqrt(1 - 0.999) * 3  # Keras adds its epsilon before it corrects the bias
    np.testing.assert_allclose(step[2], 0.1 * moment / (moment + 1), rtol=1e-4)
    np.testing.assert_array_equal(step[[0, 3, 4, 5]], 0)


def test_gradients_agree_with_finite_differences_and_are_zero_elsewhere():
    a, b, unused = (keras.Variable(np.array(value, "float32")) for value in ([1.0, 2.0], 3.0, [7.0]))
    found = autodiff.gradients(lambda: ops.sum(ops.square(a.value)) * b.value, [a, b, unused])
    np.testing.assert_allclose(found[0], [6, 12])
    np.testing.assert_allclose(found[1], 5)
    np.testing.assert_array_equal(found[2], [0])


# -------------------------------------------------------------------------------------------- seeds, setting, report


def test_a_seed_decides_weights_and_dropout():
    def draw(seed):
        backends.seed(seed)
        model = keras.Sequential([keras.layers.Dense(8), keras.layers.Dropout(0.5)])
        return array(model(np.ones((4, 3), "float32"), training=True))

    np.testing.assert_array_equal(draw(1), draw(1))
    assert not np.array_equal(draw(1), draw(2))


def test_precision_is_set_and_taken_back():
    backends.configure(TrainConfig(precision="mixed_bfloat16", threads=1))
    assert keras.config.dtype_policy().name == "mixed_bfloat16"
    backends.configure(TrainConfig(threads=1))
    assert keras.config.dtype_policy().name == "float32"


def test_reports_name_versions_and_device():
    versions = backends.versions()
    assert {"python", "keras", "numpy", backends.name()} <= set(versions) and versions["keras"] == keras.__version__
    assert backends.device()


PROGRAM = """
import os, sys
from config import TrainConfig
from zoo import backends
import keras
backends.configure(TrainConfig(threads=int(sys.argv[1])))
x = keras.ops.ones((600, 600))
for _ in range(3):
    x = keras.ops.tanh(keras.ops.matmul(x, x))
keras.ops.convert_to_numpy(x)
if backends.name() == "torch":
    import torch
    print(torch.get_num_threads())
elif backends.name() == "tensorflow":
    import tensorflow as tf
    print(tf.config.threading.get_intra_op_parallelism_threads())
else:
    print(len(os.listdir("/proc/self/task")))
print(sorted({"jax", "tensorflow", "torch"} & set(sys.modules)))
"""


def run(threads):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    environment.pop("OMP_NUM_THREADS", None)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(threads)], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
def test_threads_are_what_was_asked_for_and_tensorflow_is_left_alone():
    threads, modules = run(3)
    if backends.name() == "jax":
        assert int(threads) < int(run(9)[0])  # the process has others of its own
    else:
        assert threads == "3"
    if backends.name() != "tensorflow":
        assert "tensorflow" not in modules
