"""Packed loaders: what each slot sees, what it is to predict, and that serving sees the same."""

import numpy as np
import pytest

from config import RunConfig, TrainConfig
from zoo.data.catalogue import Catalogue
from zoo.data.histories import Histories
from zoo.data.loaders.sequences import NextItemLoader
from zoo.data.vocabulary import NUM_SPECIALS, PAD, UNKNOWN, Vocabulary
from zoo.sequential import SequentialConfig

pytestmark = pytest.mark.once
ITEMS = 20


def catalogue():
    items = Vocabulary(np.arange(ITEMS), ITEMS)
    counts = np.r_[np.zeros(NUM_SPECIALS, np.int64), np.arange(1, ITEMS + 1)]
    return Catalogue(Vocabulary(np.arange(9), 9), items, counts)


def histories(lengths, seed=0, unknown=True):
    rng = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    item = rng.integers(UNKNOWN if unknown else NUM_SPECIALS, NUM_SPECIALS + ITEMS, offsets[-1]).astype(np.int32)
    columns = {"weight": rng.random(offsets[-1]).astype(np.float32)}
    return Histories(np.arange(len(lengths), dtype=np.int32), offsets, item, None, columns)


def loader(log, batch_size=4, seed=3, **model):
    config = RunConfig(
        model=SequentialConfig(max_length=6, **model), train=TrainConfig(batch_size=batch_size), seed=seed
    )
    return NextItemLoader(log, catalogue(), config)


def sequences_of(x, *arrays):
    """Each sequence of a batch as a tuple of tuples, in any order."""
    found = []
    for row in range(len(x["item"])):
        for segment in range(1, x["segment"][row].max(initial=0) + 1):
            slots = np.flatnonzero(x["segment"][row] == segment)
            assert (np.diff(slots) == 1).all()
            assert x["position"][row, slots].tolist() == list(range(len(slots)))
            found.append(tuple(tuple(array[row, slots].tolist()) for array in (x["item"], *arrays)))
    return found


def test_an_epoch_holds_the_last_events_of_every_history_once():
    lengths = [0, 1, 2, 3, 7, 8, 30, 2, 5]
    log = histories(lengths)
    batches = loader(log)
    batches.set_epoch(0)
    met = [pair for i in range(len(batches)) for pair in sequences_of(batches[i][0], *batches[i][1:])]
    expected = []
    for start, stop in zip(log.offsets[:-1], log.offsets[1:], strict=True):
        items, weights = log.item[start:stop], log.columns["weight"][start:stop]
        if len(items) > 1:
            weights = np.where(items >= NUM_SPECIALS, weights, 0)
            expected.append((tuple(items[:-1][-6:]), tuple(items[1:][-6:]), tuple(weights[1:][-6:].tolist())))
    assert sorted(met) == sorted(expected)


def test_with_all_events_each_is_to_be_predicted_once():
    lengths = [0, 1, 2, 13, 7, 6, 14, 30]
    log = histories(lengths, unknown=False)
    batches = loader(log, all_events=True)
    batches.set_epoch(0)
    met = [pair for i in range(len(batches)) for pair in sequences_of(batches[i][0], batches[i][1])]
    expected = []
    for start, stop in zip(log.offsets[:-1], log.offsets[1:], strict=True):
        items = log.item[start:stop].tolist()
        for end in range(len(items) - 1, 0, -6):
            first = max(end - 6, 0)
            expected.append((tuple(items[first:end]), tuple(items[first + 1 : end + 1])))
    assert sorted(met) == sorted(expected)


def test_empty_slots_weigh_nothing():
    batches = loader(histories([9, 4, 3]), batch_size=3)
    for i in range(len(batches)):
        x, y, weight = batches[i]
        empty = x["segment"] == 0
        assert (weight[empty] == 0).all() and (y[empty] == PAD).all() and (x["item"][empty] == PAD).all()


def test_batches_are_a_pure_function_of_seed_epoch_and_index():
    log = histories(np.random.default_rng(1).integers(1, 12, 60))
    options = {"loss": "bpr", "num_negatives": 5}
    one, other = loader(log, **options), loader(log, **options)
    one.set_epoch(2)
    for i in range(len(one)):
        one[i]
    other.set_epoch(0)
    other.set_epoch(2)
    for i in reversed(range(len(one))):
        for key, value in one[i][0].items():
            np.testing.assert_array_equal(value, other[i][0][key])
    one.set_epoch(3)
    assert not np.array_equal(one[0][0]["item"], other[0][0]["item"])


def test_every_batch_has_the_same_shape():
    batches = loader(histories(np.random.default_rng(2).integers(0, 15, 100)), batch_size=16)
    shapes = {batches[i][0]["item"].shape for i in range(len(batches))}
    assert len(shapes) == 1 and 0 < shapes.pop()[0] < 16


@pytest.mark.parametrize("share", [True, False])
def test_negatives_are_trained_items_with_their_probability(share):
    batches = loader(
        histories([5, 6, 9]), loss="sampled_softmax", num_negatives=400, share_negatives=share, popularity_power=1.0
    )
    x, y, _ = batches[0]
    shape = (400,) if share else (*y.shape, 400)
    assert x["negatives"].shape == x["negatives_log_q"].shape == shape
    assert x["negatives"].min() >= NUM_SPECIALS
    p = np.arange(1, ITEMS + 1) / np.arange(1, ITEMS + 1).sum()
    np.testing.assert_allclose(np.exp(x["negatives_log_q"]), p[x["negatives"] - NUM_SPECIALS], rtol=1e-5)
    real = y >= NUM_SPECIALS
    np.testing.assert_allclose(np.exp(x["log_q"][real]), p[y[real] - NUM_SPECIALS], rtol=1e-5)
    assert np.isfinite(x["log_q"]).all()


@pytest.mark.parametrize("lengths", [[3], [0], [0, 0, 5, 40, 1, 6, 7], list(range(30))])
def test_inputs_show_the_last_events_and_where_each_history_ends(lengths):
    log = histories(lengths)
    x = NextItemLoader.inputs(log, catalogue(), SequentialConfig(max_length=6))
    assert x["slot"].shape == (len(lengths),)
    for i, slot in enumerate(x["slot"]):
        row, column = divmod(int(slot), 6)
        items = log.item[log.offsets[i] : log.offsets[i + 1]][-6:]
        first = column + 1 - max(len(items), 1)
        shown = x["item"][row, first : column + 1].tolist()
        assert shown == (items.tolist() or [PAD])
        assert len(set(x["segment"][row, first : column + 1])) == 1 and x["segment"][row, column] > 0
        assert (x["segment"][row] == x["segment"][row, column]).sum() == len(shown)


def test_inputs_have_few_shapes_and_few_empty_rows():
    rng, shapes = np.random.default_rng(0), set()
    for s in range(30):
        x = NextItemLoader.inputs(histories(rng.integers(0, 9, 64), s), catalogue(), SequentialConfig(max_length=6))
        shapes.add(x["item"].shape)
        assert len(x["item"]) <= 9 / 8 * (x["segment"] > 0).any(axis=1).sum()
    assert len(shapes) <= 4
