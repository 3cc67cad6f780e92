"""Windows: logs whose "users" are overlapping pieces of one person's history, cut out by whoever published them.

What one piece is tested on, the next one holds among its training events. Put together again, a person is one user: on
one side of any split, with one last event.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from zoo.data.dataset import Dataset, Events

SHARE = 2  # a piece shares at least one in two of its items with the next one, or the next one with it,
LEAST = 2  # and so many at least
SUSPICIOUS = 0.05  # of users that seem to be pieces of a neighbour's history,
CHANCE = 3  # and so many times as many as seem to be pieces of a stranger's
WIDTH = 20  # items of one piece that the next begins with, at most
REACH = 64  # users between two pieces of a history, at most
LOOKED_AT = 50_000  # users, to tell whether a log has pieces


def continued(events: Events, users: int | None = None, apart: int = 1) -> np.ndarray:
    """(U,) bool: whether the history of each user and that of the next, by number, look like pieces of one.

    Args:
        users: how many to look at, from the first; None: all.
        apart: compare with the user so many further on.
    """
    user, item = events.user, events.item
    if users is not None:
        end = np.searchsorted(user, users)
        user, item = user[:end], item[:end]
    count = int(user[-1]) + 1 if len(user) else 0
    size = int(item.max(initial=0)) + 1
    pairs = np.unique(user.astype(np.int64) * size + item)
    there = np.isin(pairs + apart * size, pairs, assume_unique=True)  # the same item of the next user
    items = np.bincount(pairs // size, minlength=count)
    shared = np.bincount(pairs[there] // size, minlength=count)
    fewer = np.minimum(items, np.append(items[apart:], np.zeros(apart, int)))
    return (shared >= LEAST) & (SHARE * shared >= fewer)


def warning(dataset: Dataset) -> str | None:
    """One line where users seem to be pieces of fewer histories. Logs with dates are believed."""
    if dataset.clock == "global":
        return None
    pieces = continued(dataset.events, LOOKED_AT)
    half = len(pieces) // 2
    if not half:
        return None
    strangers = continued(dataset.events, LOOKED_AT, apart=half)[:half]
    if pieces.mean() < max(SUSPICIOUS, CHANCE * strangers.mean()):
        return None
    return (
        f"{pieces.sum():,} of {len(pieces):,} users share half of their items with the next one, as windows of one "
        "history do: what one is tested on, the next was trained on; data.windows=join makes them one user"
    )


def join(dataset: Dataset) -> Dataset:
    """Users that are pieces of one history become the first of them, with all events in one order.

    A piece is put together with what is known of its history by the items that they share: the piece as it is, and each
    further event after the event that it followed before. Events that had one time in their piece keep one;
    the times of a history that was put together are places in its order, a second apart. Logs with dates are believed,
    and stay as they are.
    """
    if dataset.clock == "global":
        note = "data.windows=join: users stay as they are, for this log has dates"
        return replace(dataset, notes=(*dataset.notes, note))
    events = dataset.events
    begins = np.searchsorted(events.user, np.arange(int(events.user[-1]) + 2))
    order: list[np.ndarray] = []
    user: list[np.ndarray] = []
    time: list[np.ndarray] = []
    before: Piece = (np.zeros(0, np.int64), np.zeros(0, np.int64))
    for pieces in histories(events):
        whole = _whole(events, [_one(events, begins, piece) for piece in pieces])
        first, alone = pieces[0], len(pieces) == 1
        if _meet(events.item[before[0]], events.item[whole[0]]):
            first, alone = int(user.pop()[0]), False
            order.pop(), time.pop()
            whole = _together(events.item, before, whole)
        order.append(whole[0])
        user.append(np.full(len(whole[0]), first, np.int32))
        time.append(events.timestamp[whole[0]] if alone and events.timestamp is not None else whole[1] * 1000)
        before = whole
    joined = events.take(np.concatenate(order))
    timestamp = None if events.timestamp is None else np.concatenate(time)
    after = replace(dataset, events=Events(np.concatenate(user), joined.item, timestamp, joined.columns))
    note = f"data.windows=join: {dataset.num_users:,} pieces of histories became {after.num_users:,} users"
    if timestamp is not None:
        note += ", whose times are places in their order"
    return replace(after, notes=(*dataset.notes, note))


def histories(events: Events) -> list[list[int]]:
    """The users of each history, ascending; two that are no further apart than `REACH` and continue each other are of
    one, if so far apart there are more such pairs than among strangers."""
    count = int(events.user[-1]) + 1
    half = count // 2
    strangers = continued(events, apart=half)[:half].mean() if half > REACH else 0.0
    links = np.zeros((0, 2), np.int64)
    for apart in range(1, min(REACH, count - 1) + 1):
        follows = continued(events, apart=apart)
        if follows.mean() > CHANCE * strangers:
            first = np.flatnonzero(follows)
            links = np.concatenate([links, np.column_stack([first, first + apart])])
    graph = coo_array((np.ones(len(links), bool), (links[:, 0], links[:, 1])), shape=(count, count))
    _, history = connected_components(graph, directed=False)
    here = np.unique(events.user)
    here = here[np.argsort(history[here], kind="stable")]
    groups = np.split(here, np.flatnonzero(np.diff(history[here])) + 1)
    return sorted((group.tolist() for group in groups), key=lambda group: group[0])


Piece = tuple[np.ndarray, np.ndarray]  # rows of the events, and when they happened: 1, 2, ...


def _one(events: Events, begins: np.ndarray, user: int) -> Piece:
    rows = np.arange(begins[user], begins[user + 1])
    if events.timestamp is None:
        return rows, np.arange(1, len(rows) + 1)
    return rows, np.unique(events.timestamp[rows], return_inverse=True)[1] + 1


def _meet(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether one ends with what the other begins with, two items or more; what had one time may be in any order."""
    return any(
        set(one[-k:].tolist()) == set(other[:k].tolist()) and len(set(other[:k].tolist())) >= LEAST
        for one, other in ((a, b), (b, a))
        for k in range(LEAST, min(len(one), len(other), WIDTH) + 1)
    )


def _whole(events: Events, pieces: list[Piece]) -> Piece:
    """All pieces in one: next always the one that shares most with what is there."""
    whole, *rest = pieces
    items = [set(events.item[rows].tolist()) for rows, _ in rest]
    known = set(events.item[whole[0]].tolist())
    while rest:
        best = max(range(len(rest)), key=lambda i: len(items[i] & known))
        whole = _together(events.item, whole, rest.pop(best))
        known |= items.pop(best)
    return whole


def _together(item: np.ndarray, early: Piece, late: Piece) -> Piece:
    """Both pieces in one; see `join`."""
    places = defaultdict(list)  # of each item in the later piece
    for i, row in enumerate(late[0]):
        places[int(item[row])].append(i)
    left = Counter(item[early[0]].tolist())
    # (row, piece, time there) of the later piece, and after which of its events each further one goes.
    whole = [(row, 1, tick) for row, tick in zip(*late, strict=True)]
    added: list[list[tuple[int, int, int]]] = [[] for _ in range(len(whole) + 1)]
    after = 0
    for row, tick in zip(*early, strict=True):
        here = places[int(item[row])]
        if left[int(item[row])] <= len(here):  # what comes again is there again: the last are the same events
            after = here.pop(0) + 1
        else:
            added[after].append((row, 0, tick))
        left[int(item[row])] -= 1
    merged = [*added[0]]
    for event, more in zip(whole, added[1:], strict=True):
        merged += [event, *more]
    same = [a[1:] == b[1:] for a, b in itertools.pairwise(merged)]
    tick = np.cumsum(np.append(1, 1 - np.array(same, dtype=np.int64)))
    return np.array([row for row, _, _ in merged]), tick
