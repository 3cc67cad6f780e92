"""`touched_items`: a step reads and moves the items of its batch alone."""

import tempfile
from pathlib import Path

import keras
import numpy as np
import pytest

from config import ConfigError, override
from tests.test_contract import prepared_sample, tiny
from zoo import artifacts, backends, registry, training
from zoo.data.negatives import touched
from zoo.data.vocabulary import NUM_SPECIALS, PAD
from zoo.layers.embedding import RowEmbedding
from zoo.optimizers import RowAdam

RNG = np.random.default_rng(8)
SAMPLED = "loss=sampled_softmax,dropout=0"
SESSIONS = "training=session_parallel,loss=bpr_max,item_bias=true,optimizer=adagrad,dropout=0"
MODELS = [
    ("sasrec", f"{SAMPLED},item_bias=true"),
    ("gru4rec", f"{SAMPLED},constrained_embedding=false"),
    pytest.param("bert4rec", SAMPLED, marks=pytest.mark.once),
    pytest.param("hstu", "loss=gbce,dropout=0", marks=pytest.mark.once),
]


def array(tensor):
    return keras.ops.convert_to_numpy(tensor)


def lazy_adam(table, steps, rate=0.1, beta_1=0.9, beta_2=0.999, epsilon=1e-7):
    """One row after the other; what a step does not name is not looked at."""
    table = table.astype(np.float64)
    first, second = np.zeros_like(table), np.zeros_like(table)
    for step, (rows, gradient) in enumerate(steps, 1):
        for row, g in zip(rows, gradient.astype(np.float64), strict=True):
            if row == PAD:
                continue
            first[row] = beta_1 * first[row] + (1 - beta_1) * g
            second[row] = beta_2 * second[row] + (1 - beta_2) * g**2
            corrected = rate * np.sqrt(1 - beta_2**step) / (1 - beta_1**step)
            table[row] -= corrected * first[row] / (np.sqrt(second[row]) + epsilon)
    return table


def test_row_adam_is_adam_on_the_rows_of_the_batch():
    layer = RowEmbedding(10, 3, "uniform")
    layer(np.array([3]))
    start = array(layer.table)
    steps = []
    for count in (4, 5, 1, 4, 3):
        rows = np.sort(RNG.choice(np.arange(NUM_SPECIALS, 10), count, replace=False))
        rows = np.concatenate([np.full(5 - count, PAD), rows]).astype(np.int32)
        steps.append((rows, RNG.normal(size=(5, 3)).astype(np.float32) * (rows != PAD)[:, None]))
    layer.touch(steps[0][0])
    optimizer = RowAdam(0.1, [layer])
    variables = layer.trainable_variables
    optimizer.build(variables)
    for rows, gradient in steps:
        gradient = keras.ops.convert_to_tensor(np.concatenate([gradient, rows[:, None]], 1).astype(np.float32))
        optimizer.apply([gradient if variable is layer.batch.step else None for variable in variables], variables)
    np.testing.assert_allclose(array(layer.table), lazy_adam(start, steps), rtol=1e-5, atol=1e-6)
    assert not array(layer.batch.step).any()
    never = np.setdiff1d(np.arange(10), np.concatenate([rows for rows, _ in steps]))
    np.testing.assert_array_equal(array(layer.table)[never], start[never])


@pytest.mark.once
def test_touched_tokens_are_sorted_and_of_one_length():
    catalogue = prepared_sample(tiny("sasrec")).catalogue
    tokens = np.array([[5, PAD, 5], [1, 2, 4]]), np.array([catalogue.items.size - 1, 5])
    last = catalogue.items.trained_size == catalogue.items.size  # else it was never trained on, and has no row
    expected = [4, 5, *([catalogue.items.size - 1] if last else [])]
    found = touched(catalogue, *tokens)
    assert found.dtype == np.int32 and found.tolist() == [PAD] * (8 - len(expected)) + expected


def steps_of(name, knobs, epochs=1):
    """(model after single steps, data, input of the first batch, item table before and after each step)."""
    config = override(tiny(name), ["train.learning_rate=0.01", knobs])
    prepared = prepared_sample(config)
    backends.seed(3)
    model = artifacts.build(name, config, prepared.catalogue)
    loader = registry.get(name).stages[-1].loader(prepared.train, prepared.catalogue, config)
    loader.set_epoch(0)
    model(loader[0][0])
    rows = [layer for layer in model.layers if isinstance(layer, RowEmbedding)]
    model.compile(
        optimizer=training.make_optimizer(config.train, 0.01, model.trainable_variables, rows),
        jit_compile=backends.name() == "jax",
    )
    tables = [array(model.item_id.table)]
    for epoch in range(epochs):
        loader.set_epoch(epoch)
        for i in range(len(loader)):
            model.train_on_batch(*keras.tree.map_structure(keras.ops.convert_to_tensor, loader[i]))
            tables.append(array(model.item_id.table))
    loader.set_epoch(0)
    return model, prepared, loader[0][0], tables


def fitted(name, knobs):
    """(model after `training.fit`, data)."""
    config = override(tiny(name), ["epochs=2,monitor=loss,train.learning_rate=0.01", knobs])
    prepared = prepared_sample(config)
    backends.seed(3)
    model = artifacts.build(name, config, prepared.catalogue)
    with tempfile.TemporaryDirectory() as folder:
        training.fit(model, registry.get(name), prepared, config, Path(folder))
    return model, prepared


def test_a_whole_training_is_one_step_after_the_other():
    """Compiled as `fit` compiles it, a step knows which items its own batch touches."""
    knobs = f"{SAMPLED},num_negatives=4,batch_size=8,touched_items=true"
    found, _ = fitted("sasrec", knobs)
    expected, _, _, tables = steps_of("sasrec", knobs, epochs=2)
    assert np.abs(tables[-1] - tables[0]).max() > 0.02
    np.testing.assert_allclose(array(found.item_id.table), array(expected.item_id.table), rtol=1e-3, atol=1e-4)


def test_adagrad_by_rows_is_adagrad():
    """What has no gradient stands still anyway."""
    knobs = f"{SESSIONS},momentum=0.15,num_negatives=16"
    (found, prepared), (expected, _) = fitted("gru4rec", f"{knobs},touched_items=true"), fitted("gru4rec", knobs)
    histories = prepared.cases("test")[0]
    np.testing.assert_allclose(found.score(histories), expected.score(histories), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name, knobs", MODELS)
def test_where_every_item_is_touched_it_is_adam(name, knobs):
    """So many negatives that each batch touches all items: nothing is left for the two to differ in."""
    knobs += ",num_negatives=2000"
    theirs, prepared, _, _ = steps_of(name, knobs)
    ours, _, x, tables = steps_of(name, f"{knobs},touched_items=true")
    assert set(range(NUM_SPECIALS, prepared.catalogue.items.trained_size)) <= set(x["touched"].tolist())
    assert np.abs(tables[-1] - tables[0]).max() > 0.02
    histories = prepared.cases("test")[0]
    expected = theirs.score(histories)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(ours.score(histories), expected, rtol=1e-3, atol=1e-3 * scale)


def test_what_a_batch_does_not_touch_stands_still(tmp_path):
    model, prepared, x, tables = steps_of("sasrec", f"{SAMPLED},num_negatives=4,batch_size=2,touched_items=true")
    moved = np.flatnonzero((tables[0] != tables[1]).any(axis=1))
    assert set(moved) == set(x["touched"].tolist()) - {PAD} and len(moved) < len(tables[0]) / 2
    # The file of weights is that of any other run.
    path = tmp_path / "a.weights.h5"
    artifacts.save_weights(model, path)
    plain = artifacts.build("sasrec", override(tiny("sasrec"), [SAMPLED]), prepared.catalogue)
    plain.load_weights(path)
    histories = prepared.cases("test")[0]
    np.testing.assert_allclose(plain.score(histories), model.score(histories), rtol=1e-5, atol=1e-6)


@pytest.mark.once
@pytest.mark.parametrize(
    "knob, remedy",
    [
        ("train.ema=0.9", "train.ema=null"),
        ("accumulate=2", "accumulate=1"),
        ("optimizer=lion", "optimizer=adam or adagrad"),
    ],
)
def test_what_does_not_go_with_it_is_refused_with_a_remedy(knob, remedy, tmp_path):
    config = override(tiny("sasrec"), [SAMPLED, "touched_items=true,train.monitor=loss", knob])
    prepared = prepared_sample(config)
    model = artifacts.build("sasrec", config, prepared.catalogue)
    with pytest.raises(ConfigError, match=remedy):
        training.fit(model, registry.get("sasrec"), prepared, config, tmp_path)


@pytest.mark.once
@pytest.mark.parametrize("name, loss", [("sasrec", "softmax"), ("hstu", "sce")])
def test_losses_that_touch_everything_are_refused(name, loss):
    with pytest.raises(ConfigError, match="touched_items"):
        override(tiny(name), [f"touched_items=true,loss={loss}"])
