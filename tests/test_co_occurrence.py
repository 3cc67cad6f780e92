"""Pairs that occur together: against a count by brute force, with caps, and as batches."""

from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from config import DataConfig, RunConfig, TrainConfig
from zoo.data.catalogue import Catalogue
from zoo.data.histories import Histories
from zoo.data.loaders.co_occurrence import CoOccurrenceLoader
from zoo.data.vocabulary import NUM_SPECIALS, UNKNOWN, Vocabulary
from zoo.models.item2vec import Item2VecConfig

pytestmark = pytest.mark.once
ITEMS = 12
MINUTE = 60_000


def catalogue():
    items = Vocabulary(np.arange(ITEMS), ITEMS)
    return Catalogue(Vocabulary(np.arange(99), 99), items, np.ones(items.size, np.int64))


def log(users, times=True, weights=None):
    """Histories of lists of (minute, token)."""
    events = [event for user in users for event in user]
    offsets = np.concatenate([[0], np.cumsum([len(user) for user in users])]).astype(np.int64)
    item = np.array([token for _, token in events], np.int32)
    time = np.array([int(minute * MINUTE) for minute, _ in events], np.int64) if times else None
    columns = {} if weights is None else {"weight": np.array(weights, np.float32)}
    return Histories(np.arange(len(users), dtype=np.int32) + NUM_SPECIALS, offsets, item, time, columns)


def loader(histories, batch_size=8, gap=30.0, seed=0, **model):
    config = RunConfig(
        model=Item2VecConfig(**model),
        data=DataConfig(session_gap=gap),
        train=TrainConfig(batch_size=batch_size),
        seed=seed,
    )
    return CoOccurrenceLoader(histories, catalogue(), config)


def met(batches, epoch=0):
    """Counter of unordered pairs of one epoch."""
    batches.set_epoch(epoch)
    pairs = Counter()
    for index in range(len(batches)):
        x, y, weight = batches[index]
        for a, b, w in zip(x["history"][:, 0].tolist(), y.tolist(), weight.tolist(), strict=True):
            if w:
                pairs[min(a, b), max(a, b)] += 1
    return pairs


def cut(user, gap):
    """Runs of a user's events without a silence of over `gap` minutes."""
    runs = []
    for minute, token in user:
        if not runs or minute - runs[-1][-1][0] > gap:
            runs.append([])
        runs[-1].append((minute, token))
    return runs


def pairs_of(run):
    return combinations(sorted({token for _, token in run if token >= NUM_SPECIALS}), 2)


def expected(users, gap, kind):
    pairs = Counter()
    for user in users:
        for run in cut(user, gap) if kind != "baskets" else []:
            pairs.update(pairs_of(run))
        for run in cut(user, 0) if kind != "sessions" else []:
            if kind == "baskets" or run not in cut(user, gap):
                pairs.update(pairs_of(run))
    return pairs


USERS = st.lists(
    st.lists(st.tuples(st.integers(0, 60), st.integers(UNKNOWN, NUM_SPECIALS + ITEMS - 1)), max_size=9).map(
        lambda events: sorted(events, key=lambda event: event[0])
    ),
    max_size=5,
)


@given(users=USERS, gap=st.sampled_from([1.0, 5.0, 30.0]), kind=st.sampled_from(["sessions", "baskets", "both"]))
def test_an_epoch_holds_each_pair_of_each_session_and_basket_once(users, gap, kind):
    assert met(loader(log(users), gap=gap, pairs_from=kind)) == expected(users, gap, kind)


@given(users=USERS, window=st.integers(1, 4))
def test_without_times_neighbours_in_the_history_are_pairs(users, window):
    pairs = Counter()
    for user in users:
        items = [token for _, token in user if token >= NUM_SPECIALS]
        for i, first in enumerate(items):
            for second in items[i + 1 : i + 1 + window]:
                if first != second:
                    pairs[min(first, second), max(first, second)] += 1
    assert met(loader(log(users, times=False), window=window)) == pairs


def test_the_session_gap_is_that_of_the_data():
    users = [[(0, 3), (20, 4), (60, 5)]]
    assert met(loader(log(users), gap=30)) == {(3, 4): 1}
    assert met(loader(log(users), gap=10)) == {}
    assert met(loader(log(users), gap=40)) == {(3, 4): 1, (3, 5): 1, (4, 5): 1}


def test_a_session_above_the_cap_is_drawn_from_anew_in_every_epoch():
    users = [[(0.1 * i, 3 + i) for i in range(ITEMS)], [(0, 3), (1, 4)]]
    batches = loader(log(users), group_pairs=20)
    assert batches.num_examples == 21
    epochs = [met(batches, epoch) for epoch in range(60)]
    assert all(pairs.total() == 21 for pairs in epochs)
    assert epochs[0] != epochs[1]
    total = sum(epochs, Counter())
    assert len(total) == ITEMS * (ITEMS - 1) / 2, "every pair comes, sooner or later"
    mean = 60 * 20 / len(total)
    assert all(abs(count - mean) < 5 * mean**0.5 for pair, count in total.items() if pair != (3, 4)), "and all alike"


def test_a_busy_user_gives_no_more_pairs_than_the_cap():
    busy = [(100 * session + place, 3 + (session + place) % ITEMS) for session in range(50) for place in range(3)]
    batches = loader(log([busy, [(0, 3), (1, 4), (2, 5)]]), user_pairs=40)
    assert batches.num_examples == 43
    busy_pairs = sum((met(batches, epoch) for epoch in range(40)), Counter())
    assert busy_pairs.total() == 43 * 40
    assert len(busy_pairs) == len(expected([busy], 30, "both")), "all of his sessions come, sooner or later"


def test_events_of_weight_zero_are_in_no_pair_and_others_weigh():
    users = [[(0, 3), (1, 4), (2, 5)]]
    batches = loader(log(users, weights=[4.0, 0.0, 1.0]), batch_size=3)
    _, _, weight = batches[0]
    assert met(batches) == {(3, 5): 1} and sorted(weight.tolist()) == [0, 0, 2]


def test_what_occurred_in_the_session_is_known():
    users = [[(0, 3), (1, 4), (2, 5)], [(0, 5), (1, 6)], [(0, 7), (1, 8)]]
    batches = loader(log(users), batch_size=5)
    x, y, _ = batches[0]
    candidates = np.concatenate([x["history"][:, 0], y])
    sessions = [{token for _, token in user} for user in users]
    for row, pair in enumerate(zip(x["history"][:, 0].tolist(), y.tolist(), strict=True)):
        session = next(one for one in sessions if set(pair) <= one)
        assert x["known"][row].tolist() == [token in session for token in candidates.tolist()]
    assert "known" not in loader(log(users), mask_known=False)[0][0]


def test_of_a_basket_in_a_session_the_whole_session_is_known():
    users = [[(0, 3), (0, 4), (10, 5), (10, 6), (20, 7)], [(0, 3), (500, 8), (500, 9), (510, 3)]]
    sessions = [{3, 4, 5, 6, 7}, {3, 8, 9}]
    batches = loader(log(users), batch_size=32)
    assert batches.num_examples == 10 + 2 + 3 + 1  # of two sessions, and of the baskets in them
    x, y, weight = batches[0]
    candidates = np.concatenate([x["history"][:, 0], y])
    for row in np.flatnonzero(weight):
        (session,) = [one for one in sessions if {candidates[row], y[row]} <= one]
        assert x["known"][row].tolist() == [token in session for token in candidates.tolist()]
    alone = loader(log(users), batch_size=32, pairs_from="baskets")
    x, y, weight = alone[0]
    candidates = np.concatenate([x["history"][:, 0], y])
    for row in np.flatnonzero(weight):
        assert set(candidates[x["known"][row]].tolist()) == {candidates[row], y[row]}


def test_a_batch_is_a_pure_function_of_seed_epoch_and_index_and_its_shape_is_static():
    rng = np.random.default_rng(0)
    users = [[(7 * i, int(rng.integers(3, 3 + ITEMS))) for i in range(30)] for _ in range(4)]
    first, second = (loader(log(users), group_pairs=9, user_pairs=50) for _ in range(2))
    second[len(second) - 1]  # another order of asking
    for index in range(len(first)):
        (x, y, weight), (x2, y2, weight2) = first[index], second[index]
        assert all(np.array_equal(x[key], x2[key]) for key in x)
        assert np.array_equal(y, y2) and np.array_equal(weight, weight2)
        assert x["history"].shape == (8, 1) and x["known"].shape == (8, 16) and y.shape == weight.shape == (8,)
        assert (x["history"].dtype, y.dtype, weight.dtype) == (np.int32, np.int32, np.float32)


def test_either_item_of_a_pair_is_the_anchor():
    batches = loader(log([[(0, 3), (1, 4)]] * 64), batch_size=64)
    x, _, _ = batches[0]
    assert 16 < np.count_nonzero(x["history"] == 3) < 48


def test_items_without_company_are_counted(capsys):
    assert loader(log([[(0, 3), (1, 4), (90, 5)], [(0, 6)]])).pairs.paired_items.tolist() == [3, 4]
    assert capsys.readouterr().out == "10 of 12 items occur with no other; nothing is learned of them\n"


def test_a_user_of_fifty_thousand_events_is_drawn_from_at_once():
    events = [(0.001 * i, NUM_SPECIALS + i % ITEMS) for i in range(50_000)]
    batches = loader(log([events]), group_pairs=30)
    assert batches.num_examples == 30 and met(batches).total() == 30


def test_an_empty_log_gives_no_example():
    for times in (True, False):
        assert loader(log([], times)).num_examples == 0
        assert loader(log([[(0, 3)], []], times)).num_examples == 0
