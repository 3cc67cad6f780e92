"""Loaders: batches are pure functions, cover every event once, and agree with a plain loop over the histories."""

import numpy as np
import pytest

from config import RunConfig, TrainConfig
from zoo.data.catalogue import Catalogue
from zoo.data.histories import Histories
from zoo.data.loaders.pairs import PairLoader, event_weights, scaled_scores
from zoo.data.negatives import log_popularity
from zoo.data.vocabulary import NUM_SPECIALS, UNKNOWN, Vocabulary
from zoo.models.two_tower import TwoTowerConfig

LISTS = [[0, 1, 2, 3, 4], [5], [2, 2, 7, 8, 9, 10, 11, 0], [3, 6]]
EVENTS = sum(map(len, LISTS))


def make(columns=None, batch_size=4, seed=0, lists=LISTS, **model):
    items = Vocabulary(np.arange(12), 12)
    user = np.arange(len(lists), dtype=np.int32) + NUM_SPECIALS
    plain = Histories.from_lists(lists, items, user)
    histories = Histories(plain.user, plain.offsets, plain.item, None, columns or {})
    counts = np.bincount(histories.item, minlength=items.size)
    catalogue = Catalogue(Vocabulary(np.arange(len(lists)), len(lists)), items, counts)
    config = RunConfig(
        model=TwoTowerConfig(**{"max_length": 3, **model}), train=TrainConfig(batch_size=batch_size), seed=seed
    )
    return PairLoader(histories, catalogue, config)


def leaves(batch):
    x, y, weight = batch
    return {**x, "y": y, "weight": weight}


def same(first, second):
    first, second = leaves(first), leaves(second)
    return first.keys() == second.keys() and all(np.array_equal(first[key], second[key]) for key in first)


def test_an_epoch_holds_every_event_once_with_what_came_before():
    loader = make()
    seen = []
    for index in range(len(loader)):
        x, _, weight = loader[index]
        for row in np.flatnonzero(weight):
            seen.append((x["user"][row], tuple(x["history"][row, : x["length"][row]]), x["item"][row]))
            assert not x["history"][row, x["length"][row] :].any(), "padded on the right"
    expected = [
        (u + NUM_SPECIALS, tuple(i + NUM_SPECIALS for i in items[max(0, e - 3) : e]), items[e] + NUM_SPECIALS)
        for u, items in enumerate(LISTS)
        for e in range(len(items))
    ]
    assert sorted(seen) == sorted(expected)


def test_shapes_are_static_and_the_last_batch_is_filled_with_weight_zero():
    loader = make(batch_size=6)
    batches = [leaves(loader[index]) for index in range(len(loader))]
    for batch in batches[1:]:
        assert {key: value.shape for key, value in batch.items()} == {k: v.shape for k, v in batches[0].items()}
        assert {key: value.dtype for key, value in batch.items()} == {k: v.dtype for k, v in batches[0].items()}
    assert sum(np.count_nonzero(batch["weight"]) for batch in batches) == EVENTS
    assert np.count_nonzero(batches[-1]["weight"]) == EVENTS % 6


@pytest.mark.parametrize("loss", ["softmax", "in_batch", "sampled_softmax", "bpr"])
def test_a_batch_is_a_pure_function_of_seed_epoch_and_index(loss):
    first, second = make(loss=loss), make(loss=loss)
    last = len(second) - 1
    second[last], second[0]  # another order of asking
    assert all(same(first[index], second[index]) for index in range(len(first)))
    first.set_epoch(1)
    assert not all(same(first[index], second[index]) for index in range(len(first)))
    first.set_epoch(0)
    assert same(first[last], second[last])
    assert not all(same(first[index], make(loss=loss, seed=1)[index]) for index in range(len(first)))


def test_fewer_events_than_a_batch():
    loader = make(batch_size=64)
    _, y, weight = loader[0]
    assert len(loader) == 1
    assert len(y) == 64
    assert np.count_nonzero(weight) == EVENTS


def test_share_of_negatives():
    for share, negatives in ((0.5, 4), (0.25, 2), (0.75, 6), (0.0, 0)):
        x, y, _ = make(batch_size=8, loss="bce", negative_share=share)[0]
        assert len(y) == 8 - negatives
        assert len(x.get("negatives", ())) == negatives


def test_negatives_are_unknown_to_the_user_they_are_drawn_for():
    loader = make(batch_size=8, loss="bpr", negative_share=0.75, hard_pool=5)
    for index in range(len(loader)):
        x, _, _ = loader[index]
        assert x["negatives"].shape == x["negatives_log_q"].shape == (6, 5)
        for row, pool in enumerate(x["negatives"]):
            user = x["user"][row % len(x["user"])] - NUM_SPECIALS
            assert not set(pool - NUM_SPECIALS) & set(LISTS[user])


@pytest.mark.parametrize("loss", ["in_batch", "sampled_softmax"])
def test_known_items_among_the_candidates(loss):
    x, _, _ = make(batch_size=8, loss=loss, mask_known=True)[0]
    candidates = x["item"] if loss == "in_batch" else x["negatives"][:, 0]
    for row, user in enumerate(x["user"]):
        expected = np.isin(candidates - NUM_SPECIALS, LISTS[user - NUM_SPECIALS])
        np.testing.assert_array_equal(x["known"][row], expected)


def test_log_q():
    loader = make(loss="in_batch")
    x, _, _ = loader[0]
    np.testing.assert_array_equal(x["log_q"], log_popularity(loader.catalogue)[x["item"]])
    x, _, _ = make(loss="sampled_softmax")[0]
    np.testing.assert_allclose(np.exp(x["log_q"]), 1 / 12, rtol=1e-6)
    np.testing.assert_allclose(np.exp(x["negatives_log_q"]), 1 / 12, rtol=1e-6)


def test_fractional_scores_reach_the_batch():
    """Targets are float32 in [0, 1]; an event without a score says 1."""
    score = np.linspace(1, 5, EVENTS).astype(np.float32)
    score[3] = np.nan
    loader = make({"score": score}, batch_size=EVENTS)
    _, y, _ = loader[0]
    assert y.dtype == np.float32
    expected = (score - 1) / 4
    expected[3] = 1
    np.testing.assert_allclose(np.sort(y), np.sort(expected), rtol=1e-6)
    assert 0.1 < np.median(y) < 0.9


def test_scaled_scores():
    histories = make().histories
    score = np.array([1, 1, 2, 5] * 4, np.float32)
    histories = Histories(histories.user, histories.offsets, histories.item, None, {"score": score})
    np.testing.assert_allclose(scaled_scores(histories, "minmax")[:4], [0, 0, 0.25, 1])
    np.testing.assert_allclose(scaled_scores(histories, "quantile")[:4], [0.5, 0.5, 0.75, 1])
    np.testing.assert_array_equal(scaled_scores(histories, "none"), 1)
    for constant in (3.0, np.nan):
        flat = Histories(histories.user, histories.offsets, histories.item, None, {"score": score * 0 + constant})
        np.testing.assert_array_equal(scaled_scores(flat, "minmax"), 1)


def test_event_weights():
    histories = make({"weight": np.full(EVENTS, 2.0)}).histories
    np.testing.assert_array_equal(event_weights(histories, None), 2)
    weights = event_weights(histories, 2.0)
    assert weights.dtype == np.float32
    for start, end in zip(histories.offsets[:-1], histories.offsets[1:], strict=True):
        np.testing.assert_allclose(weights[start:end], 2 * 0.5 ** (np.arange(end - start)[::-1] / 2))


def test_an_item_outside_the_catalogue_is_history_but_no_target():
    loader = make(lists=[[0, 99, 1]], batch_size=2)
    assert loader.histories.item[1] == UNKNOWN
    x, _, weight = loader[0]
    assert set(x["item"][weight > 0] - NUM_SPECIALS) == {0, 1}
    assert [3, UNKNOWN, 0] in x["history"].tolist()


def test_inputs_are_the_same_in_training_and_serving():
    loader = make(batch_size=EVENTS)
    x, _, _ = loader[0]
    served = PairLoader.inputs(loader.histories, loader.catalogue, loader.config.model)
    assert served.keys() == {"user", "history", "length"}
    row = np.flatnonzero((x["user"] == 2 + NUM_SPECIALS) & (x["item"] == 0 + NUM_SPECIALS))[0]
    # The last training example of user 2 saw all his events but the last.
    head = loader.histories.take(slice(2, 3))
    head = Histories(head.user, head.offsets - [0, 1], head.item[:-1])
    again = PairLoader.inputs(head, loader.catalogue, loader.config.model)
    for key in again:
        np.testing.assert_array_equal(x[key][row], again[key][0])
    assert PairLoader.inputs(loader.histories, loader.catalogue, TwoTowerConfig(max_length=0)).keys() == {"user"}


def test_people_without_any_event_can_be_served():
    loader = make()
    empty = Histories.from_lists([[], []], loader.catalogue.items)
    x = PairLoader.inputs(empty, loader.catalogue, loader.config.model)
    assert not x["history"].any()
    assert not x["length"].any()
    assert (x["user"] == UNKNOWN).all()
