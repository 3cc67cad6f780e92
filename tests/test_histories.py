"""Flat arrays with offsets against lists of lists."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_datasets import datasets, objects

from zoo.data.dataset import Events
from zoo.data.histories import Histories, Prefixes
from zoo.data.vocabulary import NUM_SPECIALS, PAD, UNKNOWN, Vocabulary

lists_of_items = st.lists(st.lists(st.integers(3, 20), max_size=7), max_size=8)


def of(lists: list[list[int]]) -> Histories:
    """Histories of tokens, with a timestamp and a column that tell each event apart."""
    flat = np.array([item for history in lists for item in history], np.int32)
    offsets = np.cumsum([0, *map(len, lists)]).astype(np.int64)
    number = np.arange(len(flat))
    user = np.arange(len(lists), dtype=np.int32) + NUM_SPECIALS
    return Histories(user, offsets, flat, number * 1000, {"score": number.astype(np.float32)})


def lists_in(histories: Histories) -> list[list[int]]:
    ends = histories.offsets.tolist()
    return [histories.item[a:b].tolist() for a, b in pairwise(ends)]


def check(histories: Histories) -> None:
    assert histories.offsets.dtype == np.int64
    assert histories.offsets[0] == 0
    assert histories.offsets[-1] == len(histories.item)
    assert len(histories.offsets) == len(histories) + 1
    assert histories.item.dtype == histories.user.dtype == np.int32


@given(lists_of_items, st.data())
def test_take_is_indexing(lists, data):
    histories = of(lists)
    rows = data.draw(st.lists(st.integers(0, len(lists) - 1), max_size=10)) if lists else []
    taken = histories.take(np.array(rows, np.int64))
    check(taken)
    assert lists_in(taken) == [lists[row] for row in rows]
    assert taken.user.tolist() == [row + NUM_SPECIALS for row in rows]
    starts = histories.offsets
    numbers = [number for row in rows for number in range(starts[row], starts[row + 1])]
    assert taken.timestamp.tolist() == [number * 1000 for number in numbers]
    assert taken.columns["score"].tolist() == numbers


@given(lists_of_items, st.integers(0, 9), st.integers(0, 9))
def test_take_accepts_slices_and_masks(lists, start, stop):
    histories = of(lists)
    assert lists_in(histories.take(slice(start, stop))) == lists[start:stop]
    mask = np.arange(len(lists)) % 2 == 0
    assert lists_in(histories.take(mask)) == lists[::2]


def test_a_contiguous_take_copies_nothing():
    histories = of([[3], [4, 5], [6]])
    assert np.shares_memory(histories.take(slice(1, 3)).item, histories.item)


@given(lists_of_items, st.integers(1, 5))
def test_batches_are_all_of_it_in_order(lists, size):
    parts = list(of(lists).batches(size))
    assert [history for part in parts for history in lists_in(part)] == lists
    assert all(len(part) == size for part in parts[:-1])


@given(lists_of_items, st.integers(1, 4), st.data())
def test_prefixes_are_beginnings(lists, size, data):
    histories = of(lists)
    every = [(row, length) for row, history in enumerate(lists) for length in range(len(history) + 1)]
    chosen = sorted(data.draw(st.lists(st.sampled_from(every), max_size=12))) if every else []
    owner, lengths = (np.array([pair[side] for pair in chosen], np.int64) for side in (0, 1))
    prefixes = Prefixes(histories, owner, lengths)
    parts = list(prefixes.batches(size))
    assert len(prefixes) == len(chosen) and all(len(part) == size for part in parts[:-1])
    assert [one for part in parts for one in lists_in(part)] == [lists[row][:length] for row, length in chosen]
    for part in parts:
        check(part)
        assert (part.timestamp == part.columns["score"] * 1000).all()
    assert [user for part in parts for user in part.user.tolist()] == [row + NUM_SPECIALS for row, _ in chosen]


@given(lists_of_items)
def test_lengths_and_rows(lists):
    histories = of(lists)
    assert histories.lengths.tolist() == [len(history) for history in lists]
    assert histories.row_of_event.tolist() == [row for row, history in enumerate(lists) for _ in history]


@given(lists_of_items, st.integers(1, 9))
def test_padded_keeps_the_most_recent_on_the_left(lists, width):
    padded = of(lists).padded(width)
    assert padded.dtype == np.int32
    assert padded.shape == (len(lists), width)
    assert padded.tolist() == [history[-width:] + [PAD] * (width - len(history[-width:])) for history in lists]


@given(lists_of_items, st.integers(1, 6), st.data())
def test_windows_end_where_asked(lists, width, data):
    histories = of(lists)
    rows = [row for row, history in enumerate(lists) if history]
    chosen = data.draw(st.lists(st.sampled_from(rows), max_size=6)) if rows else []
    starts = histories.offsets[np.array(chosen, np.int64)]
    lengths = [data.draw(st.integers(0, len(lists[row]))) for row in chosen]
    index, real = histories.windows(starts, starts + np.array(lengths, np.int64), width)
    assert index.shape == real.shape == (len(chosen), width)
    for row, length, places, mask in zip(chosen, lengths, index, real, strict=True):
        assert histories.item[places[mask]].tolist() == lists[row][:length][-width:]
        assert mask.tolist() == sorted(mask.tolist(), reverse=True)  # padding on the right
        assert not places[~mask].any()


def test_a_very_long_history():
    histories = of([[3], list(range(3, 1_000_003)), []])
    assert histories.padded(4).tolist() == [[3, 0, 0, 0], [999_999, 1_000_000, 1_000_001, 1_000_002], [0, 0, 0, 0]]
    assert len(histories.take(np.array([1, 1])).item) == 2_000_000


def test_nobody_and_nothing():
    nobody, nothing = of([]), of([[], []])
    assert nobody.padded(3).shape == (0, 3)
    assert nothing.padded(2).tolist() == [[0, 0], [0, 0]]
    assert list(nobody.batches(4)) == []
    assert len(nobody.take(np.array([], np.int64))) == 0
    assert lists_in(nothing.take(np.array([1, 0]))) == [[], []]


@given(datasets())
def test_from_events_agrees_with_grouping(dataset):
    events = dataset.events
    user_token = np.arange(len(dataset.users), dtype=np.int32) + 7
    item_token = np.arange(len(dataset.items), dtype=np.int32)[::-1] + 3
    rows = np.arange(len(dataset.users))
    histories = Histories.from_events(events, rows, user_token, item_token)
    check(histories)
    pairs = list(zip(events.user.tolist(), events.item.tolist(), strict=True))
    assert lists_in(histories) == [[int(item_token[i]) for u, i in pairs if u == row] for row in rows.tolist()]
    assert histories.user.tolist() == user_token.tolist()
    assert histories.columns["position"].tolist() == list(range(len(events)))


def test_from_events_refuses_events_of_others():
    events = Events(np.array([0, 1, 2], np.int32), np.array([0, 0, 0], np.int32))
    tokens = np.array([3, 4, 5], np.int32)
    for rows in ([0, 2], [0, 1], [1, 2], []):
        with pytest.raises(ValueError, match="outside"):
            Histories.from_events(events, np.array(rows, np.int64), tokens, tokens)


def test_from_lists():
    vocabulary = Vocabulary(objects(["a", "b", "7"]), 3)
    histories = Histories.from_lists([["b", "a"], [], ["x", 7]], vocabulary)
    check(histories)
    assert lists_in(histories) == [[4, 3], [], [UNKNOWN, 5]]
    assert histories.user.tolist() == [UNKNOWN] * 3
    assert lists_in(Histories.from_lists([[9], [8, 1]], Vocabulary(np.array([8, 9]), 2))) == [[4], [3, UNKNOWN]]
    for empty in ([], [[]], [[], []]):
        check(Histories.from_lists(empty, vocabulary))
        assert lists_in(Histories.from_lists(empty, vocabulary)) == empty
    assert Histories.from_lists([["a"]], vocabulary, np.array([5], np.int32)).user.tolist() == [5]
