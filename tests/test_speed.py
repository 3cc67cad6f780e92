"""Guards of speed: ratios within one process, with generous bounds, so that what was gained cannot be lost unseen."""

import time

import keras
import numpy as np
from keras import ops

from config import RunConfig, TrainConfig, override
from zoo import artifacts, backends, losses, registry, training
from zoo.data.catalogue import Catalogue
from zoo.data.histories import Histories
from zoo.data.loaders import packing, sequences
from zoo.data.loaders.sequences import NextItemLoader
from zoo.data.vocabulary import NUM_SPECIALS, Vocabulary
from zoo.streaming import Stream


def times_faster(quick, slow, wanted, rounds=12):
    """How many times faster `quick` is than `slow`, the best run of each, in turns, until `wanted` is reached.

    Each runs once before, which compiles. Busy neighbours slow down one run or another, of all hardly the best.
    """
    best = {quick: np.inf, slow: np.inf}
    quick(), slow()
    for _ in range(rounds):
        for run in best:
            started = time.perf_counter()
            run()
            best[run] = min(best[run], time.perf_counter() - started)
        if best[slow] > wanted * best[quick]:
            break
    return best[slow] / best[quick]


def one_to_a_row(lengths, row_length, closely=False):
    """Each sequence in a row of its own, padded."""
    rows = np.arange(len(lengths))
    return packing.Packing(row_length, lengths, rows, 0 * rows, len(rows), rows, np.arange(len(rows) + 1))


def log(lengths, num_items=300):
    rng = np.random.default_rng(0)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    item = rng.integers(NUM_SPECIALS, NUM_SPECIALS + num_items, offsets[-1]).astype(np.int32)
    users = np.arange(NUM_SPECIALS, NUM_SPECIALS + len(lengths), dtype=np.int32)
    counts = np.bincount(item, minlength=NUM_SPECIALS + num_items)
    catalogue = Catalogue(
        Vocabulary(np.arange(len(lengths)), len(lengths)), Vocabulary(np.arange(num_items), num_items), counts
    )
    return Histories(users, offsets, item), catalogue


def sasrec(catalogue, *knobs):
    spec = registry.get("sasrec")
    config = override(spec.preset("base"), ["embedding_dim=32,num_heads=1,relative_bias=false,dropout=0", *knobs])
    backends.configure(config.train)
    return config, artifacts.build("sasrec", config, catalogue)


class Scores(keras.Model):
    """An output layer alone."""

    def __init__(self, items, dim, plain):
        super().__init__()
        self.table = self.add_weight(shape=(items, dim), initializer="random_normal")
        self.plain = plain
        self.built = True

    def call(self, x, training=False):
        return 1.0 * x

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        if self.plain:
            logits = ops.matmul(y_pred, ops.transpose(self.table))
            lost = ops.logsumexp(logits, axis=-1) - ops.take_along_axis(logits, y[:, None], axis=-1)[:, 0]
            return losses.weighted_mean(lost, sample_weight)
        return losses.softmax_cross_entropy(y_pred, self.table, y, sample_weight)


def test_the_output_layer_in_chunks_costs_no_more_than_all_at_once():
    rows, items, dim = 2_000, 10_000, 32
    rng = np.random.default_rng(0)
    batch = (
        rng.normal(size=(rows, dim)).astype(np.float32),
        rng.integers(0, items, rows).astype(np.int32),
        np.ones(rows, np.float32),
    )
    steps = []
    for plain in (False, True):
        model = Scores(items, dim, plain)
        model.compile(optimizer=keras.optimizers.SGD(0.1), jit_compile=backends.name() == "jax")
        steps.append(lambda model=model: model.train_on_batch(*batch))
    assert times_faster(*steps, wanted=1 / 1.5) > 1 / 1.5


def test_packed_rows_cost_their_events(monkeypatch):
    """A few long histories among many short ones: one to a row they are ten times as many slots."""
    lengths = np.where(np.arange(200) % 20 == 0, 50, 4)
    histories, catalogue = log(lengths)
    steps, slots = [], []
    for make in (packing.pack, one_to_a_row):
        monkeypatch.setattr(sequences, "pack", make)
        config, model = sasrec(catalogue, "num_blocks=1,train.batch_size=200")
        loader = NextItemLoader(histories, catalogue, config)
        slots.append(len(loader) * loader.rows_per_batch * loader.packing.row_length)
        batch = keras.tree.map_structure(ops.convert_to_tensor, loader[0])
        model.compile(optimizer=keras.optimizers.SGD(0.1), jit_compile=backends.name() == "jax")
        steps.append(lambda model=model, batch=batch: model.train_on_batch(*batch))
    assert slots[0] < 1.5 * (lengths - 1).sum() and slots[1] == 200 * 50
    assert times_faster(*steps, wanted=2) > 2


def test_batches_are_made_without_a_loop_over_users():
    histories, catalogue = log(np.random.default_rng(1).integers(5, 60, 4_000))
    config = RunConfig(model=registry.get("sasrec").preset("base").model, train=TrainConfig(batch_size=4_000))
    loader = NextItemLoader(histories, catalogue, config)

    def loop():
        rows = []
        for row in range(len(histories)):
            history = histories.item[histories.offsets[row] : histories.offsets[row + 1]][-51:]
            item, target = np.zeros(50, np.int32), np.zeros(50, np.int32)
            item[: len(history) - 1], target[: len(history) - 1] = history[:-1], history[1:]
            rows.append((item, target, np.arange(50)))
        return [np.stack(column) for column in zip(*rows, strict=True)]

    assert times_faster(lambda: loader[0], loop, wanted=2) > 2


def test_an_appended_event_costs_less_than_its_history():
    histories, catalogue = log(np.full(64, 180))
    _, model = sasrec(catalogue, "max_length=200", "embedding_dim=64")
    stream = Stream(model, histories)
    append, read = lambda: stream.append(np.full(64, NUM_SPECIALS)), lambda: model.vectors(histories, batch_size=64)
    assert times_faster(append, read, wanted=2) > 2


def test_a_step_of_touched_items_does_not_grow_with_the_catalogue():
    steps = []
    for items in (400_000, 2_000):
        histories, catalogue = log(np.full(32, 20), items)
        knobs = ("max_length=20", "loss=sampled_softmax,num_negatives=64,touched_items=true", "train.batch_size=32")
        config, model = sasrec(catalogue, *knobs)
        loader = NextItemLoader(histories, catalogue, config)
        loader.set_epoch(0)
        batch = keras.tree.map_structure(ops.convert_to_tensor, loader[0])
        model(batch[0])
        optimizer = training.make_optimizer(config.train, 1e-3, model.trainable_variables, [model.item_id])
        model.compile(optimizer=optimizer, jit_compile=backends.name() == "jax")
        steps.append(lambda model=model, batch=batch: model.train_on_batch(*batch))
    assert times_faster(*steps, wanted=1 / 3) > 1 / 3
