"""Logs whose users are pieces of one history: found, and put together again."""

import numpy as np
import pytest

from config import DataConfig, SplitConfig
from zoo.data import cleaning, splits, windows
from zoo.data.dataset import DataError, Dataset, Entities, Events

pytestmark = pytest.mark.once

HISTORIES = [[1, 2, 3, 4, 5, 6, 7], [9, 8, 20, 21], [30, 31, 32, 33, 34]]


def dataset(pieces, times=None, clock="order"):
    user = np.repeat(np.arange(len(pieces)), [len(piece) for piece in pieces]).astype(np.int32)
    item = np.concatenate(pieces).astype(np.int32)
    timestamp = None if times is None else np.concatenate(times).astype(np.int64)
    users, items = Entities(np.arange(len(pieces)) + 100), Entities(np.arange(40))
    return Dataset(Events(user, item, timestamp), users, items, clock=clock)


def lists(data):
    return [data.events.item[data.events.user == user].tolist() for user in np.unique(data.events.user)]


def test_pieces_become_their_history():
    whole, other, last = HISTORIES
    pieces = [whole[:4], whole[1:5], whole[2:], other, last[1:4], last[:5]]
    joined = windows.join(dataset(pieces))
    assert lists(joined) == HISTORIES
    assert np.unique(joined.events.user).tolist() == [0, 3, 4]
    assert joined.notes == ("data.windows=join: 6 pieces of histories became 3 users",)


def test_pieces_need_not_be_neighbours():
    """Two ends of a history, cut out in turns, and two parts that share only where one ends and the other begins."""
    whole = np.arange(30).tolist()
    early, late = [whole[i : i + 8] for i in range(0, 12, 2)], [whole[i : i + 8] for i in range(8, 18, 2)]
    turns = [piece for pair in zip(late, early, strict=False) for piece in pair]
    assert lists(windows.join(dataset([*turns, [38, 39]]))) == [whole[:24], [38, 39]]
    assert lists(windows.join(dataset([whole[:9], whole[7:20], [38, 39]]))) == [whole[:20], [38, 39]]


def test_an_event_that_the_later_piece_lacks_stays_where_it_was():
    joined = windows.join(dataset([[1, 2, 30, 3, 4, 31], [2, 3, 4, 5], [10, 11]]))
    assert lists(joined)[0] == [1, 2, 30, 3, 4, 31, 5]


def test_what_comes_again_is_kept():
    assert lists(windows.join(dataset([[1, 2, 1, 3], [2, 1, 3, 4], [10, 11]])))[0] == [1, 2, 1, 3, 4]


def test_strangers_stay_apart():
    """Short histories of popular items share many."""
    rng = np.random.default_rng(0)
    pieces = [np.unique((40 * rng.random(rng.integers(4, 12)) ** 3).astype(int)) for _ in range(400)]
    joined = windows.join(dataset(pieces))
    assert len(np.unique(joined.events.user)) > 380


def test_what_had_one_time_keeps_one():
    times = [[1000, 2000, 2000, 3000], [5000, 5000, 6000, 7000], [70_000, 95_000]]
    joined = windows.join(dataset([[1, 2, 3, 4], [2, 3, 4, 5], [10, 11]], times, "relative"))
    assert lists(joined)[0] == [1, 2, 3, 4, 5]
    assert joined.events.timestamp.tolist() == [1000, 2000, 2000, 3000, 4000, 70_000, 95_000]


def test_chance_neighbours_are_left_alone():
    rng = np.random.default_rng(0)
    pieces = [rng.permutation(40)[:4] for _ in range(400)]
    data = dataset(pieces)
    assert windows.continued(data.events).mean() > windows.SUSPICIOUS, "a small catalogue has many"
    assert windows.warning(data) is None


def test_pieces_are_told_of():
    rng = np.random.default_rng(0)
    long = rng.permutation(38)
    data = dataset([long[i : i + 6] for i in range(20)])
    kept = cleaning.clean(data, DataConfig())
    assert "19 of 20 users share half of their items with the next one" in kept.notes[-1]
    assert kept.notes[-1].startswith("warning: ") and "data.windows=join" in kept.notes[-1]
    again = cleaning.clean(dataset([*([long[i : i + 6] for i in range(20)]), [38, 39]]), DataConfig(windows="join"))
    assert lists(again)[0] == long[:25].tolist() and "21 pieces of histories became 2 users" in again.notes[-1]


def test_a_history_is_on_one_side_of_a_split():
    """Of pieces, one is tested on what its neighbour is trained on; of the history they are, nobody is."""
    rng = np.random.default_rng(1)
    longs = [rng.permutation(400) for _ in range(5)]
    pieces = [long[i : i + 8] for long in longs for i in range(12)]

    def leaks(data):
        split = splits.split(data, SplitConfig(), 0)
        train, test = split.events(splits.TRAIN), split.events(splits.TEST)
        trained = {(int(u) // 12, int(i)) for u, i in zip(train.user, train.item, strict=True)}  # (person, item)
        return len(trained & {(int(u) // 12, int(i)) for u, i in zip(test.user, test.item, strict=True)})

    data = dataset(pieces)
    data = Dataset(data.events, data.users, Entities(np.arange(400)), clock="order")
    assert leaks(data) > 0
    assert leaks(windows.join(data)) == 0


def test_pieces_are_not_split_by_user():
    whole = np.random.default_rng(0).permutation(30)
    data = dataset([*(whole[i : i + 6] for i in range(20)), [30, 31], [33, 34], [36, 37]])
    config = SplitConfig(strategy="by_user")
    with pytest.raises(DataError, match=r"by_user keeps people apart, but 19 of 23 users .* data.windows=join makes"):
        splits.split(data, config)
    assert splits.split(windows.join(data), config).count(splits.TEST) == 1


def test_logs_with_dates_are_believed():
    data = dataset([[1, 2, 3], [2, 3, 4]], [[1, 2, 3], [2, 3, 4]], "global")
    assert windows.warning(data) is None
    joined = windows.join(data)
    assert joined.events is data.events and "users stay as they are" in joined.notes[-1]
