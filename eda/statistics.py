"""Statistics of a log: pure functions of a Dataset, vectorised, with plain results.

Letters: E events, P periods. Times are milliseconds. Events are sorted by user, then time, so whatever concerns two
consecutive events of a user is a difference of neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from eda.units import DAY, HOUR, MINUTE, SECOND
from zoo.data import splits
from zoo.data.dataset import Dataset
from zoo.data.splits import Split

SESSION_GAP = 30 * MINUTE  # a longer silence starts a new session: the convention of web analytics
MIN_EXTREME = 100  # nobody with fewer events is called extreme
MIN_RECURRING = 100  # pairs behind a lift that is more than chance
HISTORY_LENGTH = 50  # the usual window of sequence models


# ------------------------------------------------------------------------------------------------------- counts


def user_counts(dataset: Dataset) -> np.ndarray:
    """Events of every user who has any, in the order of `dataset.users`."""
    counts = np.bincount(dataset.events.user, minlength=len(dataset.users))
    return counts[counts > 0]


def item_counts(dataset: Dataset) -> np.ndarray:
    """Events of every item that has any, in the order of `dataset.items`."""
    counts = np.bincount(dataset.events.item, minlength=len(dataset.items))
    return counts[counts > 0]


def gini(counts: np.ndarray) -> float:
    """Gini coefficient: 0 where all counts are equal, towards 1 where one has everything.

    G = sum_i (2 i - n - 1) x_i / (n sum x), x ascending, i from 1.
    """
    n, total = len(counts), counts.sum()
    if n == 0 or total == 0:
        return 0.0
    return float(np.dot(2 * np.arange(1, n + 1) - n - 1.0, np.sort(counts)) / (n * float(total)))


def top_share(counts: np.ndarray, share: float) -> float:
    """Share of all events that fall on the largest `share` of the counts (at least one of them)."""
    size = max(1, round(len(counts) * share))
    return float(np.sort(counts)[-size:].sum() / counts.sum())


def extreme_users(dataset: Dataset) -> tuple[int, int, float]:
    """Users far outside the others: (limit, how many have more events, their share of all events).

    The limit is two interquartile ranges above the upper quartile of the logarithm of the counts.
    """
    counts = user_counts(dataset)
    low, high = np.quantile(np.log(counts), (0.25, 0.75))
    limit = max(int(np.exp(min(high + 2 * (high - low), 40.0))), MIN_EXTREME)
    extreme = counts[counts > limit]
    return limit, len(extreme), float(extreme.sum() / counts.sum())


# ------------------------------------------------------------------------------------- neighbours in a history


def _continues(dataset: Dataset) -> np.ndarray:
    """(E - 1,) whether event i + 1 is of the same user as event i."""
    user = dataset.events.user
    return user[1:] == user[:-1]


def gaps(dataset: Dataset) -> np.ndarray:
    """Milliseconds between consecutive events of a user; empty where the log has no timestamps."""
    time = dataset.events.timestamp
    return np.zeros(0, np.int64) if time is None else np.diff(time)[_continues(dataset)]


def session_lengths(dataset: Dataset, gap: int = SESSION_GAP) -> np.ndarray:
    """Events of every session; a session ends where its user is silent for more than `gap` milliseconds."""
    time = dataset.events.timestamp
    if time is None or not len(time):
        return np.zeros(0, np.int64)
    ends = np.append(~_continues(dataset) | (np.diff(time) > gap), True)
    return np.diff(np.flatnonzero(ends), prepend=-1)


def position(dataset: Dataset) -> np.ndarray:
    """(E,) place of each event in its user's history, from 1."""
    user = dataset.events.user
    starts = np.flatnonzero(np.append(True, ~_continues(dataset)))
    return np.arange(len(user)) - np.repeat(starts, np.diff(np.append(starts, len(user)))) + 1


def is_repeat(dataset: Dataset) -> np.ndarray:
    """(E,) whether the user had an event with the same item before."""
    return _seen_before(_pair(dataset, dataset.events.item))


def repeat_share(dataset: Dataset) -> float:
    """Share of events with an item that the user had before."""
    return 1 - len(_distinct(_pair(dataset, dataset.events.item))) / len(dataset.events)


def is_immediate_repeat(dataset: Dataset) -> np.ndarray:
    """(E,) whether the user's previous event was with the same item."""
    item = dataset.events.item
    return np.append(False, _continues(dataset) & (item[1:] == item[:-1]))


def _moment(dataset: Dataset) -> np.ndarray:
    """(E,) the same number for the events of one user at one time, growing along the log."""
    time = dataset.events.timestamp
    if time is None:
        return np.arange(len(dataset.events))
    return np.cumsum(np.append(False, ~_continues(dataset) | (time[1:] > time[:-1])))


def num_duplicates(dataset: Dataset) -> int:
    """Events that equal an earlier one in user, item, action and timestamp; 0 without timestamps."""
    events = dataset.events
    key = _moment(dataset) * len(dataset.items) + events.item
    if "action" in events.columns:
        key = key * len(dataset.labels["action"]) + events.columns["action"]
    return len(key) - len(_distinct(key))


def tied(dataset: Dataset) -> np.ndarray:
    """(E,) whether another event of the same user bears the same timestamp; none without timestamps."""
    time = dataset.events.timestamp
    if time is None:
        return np.zeros(len(dataset.events), bool)
    same = _continues(dataset) & (time[1:] == time[:-1])
    return np.append(same, False) | np.append(False, same)


def recency_lift(dataset: Dataset, seed: int = 0) -> float | None:
    """How much more often a pair (the last item, the next item) recurs than a pair (an earlier item, the next item).

    Both pairs are drawn for the same events, so popularity and the length of histories cancel. The next item is one
    that is new to its user, so a pair recurs between users only. Events at the same time are put in random order
    first: the order of the file must not look like knowledge. 1 means that the last item tells no more of the next
    than any other does; None where too few pairs recur.
    """
    random = np.random.default_rng(seed)
    item = dataset.events.item.copy()
    ties = np.flatnonzero(tied(dataset))
    item[ties] = item[ties][np.lexsort((random.random(len(ties)), _moment(dataset)[ties]))]
    place = position(dataset)
    is_new = ~_seen_before(_pair(dataset, item))
    later = np.flatnonzero((place >= 3) & is_new)
    back = 2 + (random.random(len(later)) * (place[later] - 2)).astype(np.int64)  # 2 ... place - 1 events ago
    recurs = []
    for before in (later - 1, later - back):
        pair = np.sort(item[before].astype(np.int64) * len(dataset.items) + item[later])
        same = pair[1:] == pair[:-1]
        recurs.append(np.count_nonzero(np.append(same, False) | np.append(False, same)))
    return float(recurs[0] / recurs[1]) if recurs[1] and sum(recurs) >= MIN_RECURRING else None


def _pair(dataset: Dataset, item: np.ndarray) -> np.ndarray:
    """(E,) one number for each user and item."""
    return dataset.events.user.astype(np.int64) * len(dataset.items) + item


def _seen_before(key: np.ndarray) -> np.ndarray:
    return pd.Series(key).duplicated().to_numpy()


def _distinct(key: np.ndarray) -> np.ndarray:
    """The different values, ascending: by a sort, many times faster than the hash table of `np.unique`."""
    key = np.sort(key)
    return key[np.append(True, key[1:] != key[:-1])] if len(key) else key


# --------------------------------------------------------------------------------------------------------- time


@dataclass(frozen=True)
class Periods:
    """The log cut into equal periods of the calendar (UTC).

    Attributes:
        name: `hour`, `day`, `week`, `month`, `quarter` or `year`.
        index: (E,) period of each event.
        start: (P,) datetime64[ms], when each period starts.
    """

    name: str
    index: np.ndarray
    start: np.ndarray


def periods(timestamp: np.ndarray, most: int = 80) -> Periods:
    """The finest periods of the calendar of which the log spans at most `most`; years where even they are more."""
    span = int(timestamp.max() - timestamp.min())
    for name, size, shift in (
        ("second", SECOND, 0),
        ("minute", MINUTE, 0),
        ("hour", HOUR, 0),
        ("day", DAY, 0),
        ("week", 7 * DAY, 3 * DAY),  # 1970 began on a Thursday, weeks begin on Monday
    ):
        if span // size < most:
            code = (timestamp + shift) // size
            edges = np.arange(code.min(), code.max() + 1) * size - shift
            return Periods(name, code - code.min(), edges.astype("datetime64[ms]"))
    month = timestamp.astype("datetime64[ms]").astype("datetime64[M]").astype(np.int64)
    for name, months in (("month", 1), ("quarter", 3), ("year", 12)):
        code = month // months
        if name == "year" or code.max() - code.min() < most:
            break
    edges = np.arange(code.min(), code.max() + 1) * months
    return Periods(name, code - code.min(), edges.astype("datetime64[M]").astype("datetime64[ms]"))


def active_users(dataset: Dataset, periods: Periods) -> np.ndarray:
    """(P,) users with an event in each period."""
    first = np.append(True, ~_continues(dataset) | (np.diff(periods.index) > 0))  # of its user in its period
    return np.bincount(periods.index[first], minlength=len(periods.start))


def cold_share(rows: np.ndarray, index: np.ndarray) -> np.ndarray:
    """(P,) share of each period's events whose user (or item) in `rows` occurs for the first time in that period."""
    size = int(index.max()) + 1
    first = np.full(int(rows.max()) + 1, size)
    np.minimum.at(first, rows, index)
    events = np.bincount(index, minlength=size)
    cold = np.bincount(index[first[rows] == index], minlength=size)
    return np.where(events > 0, cold / np.maximum(events, 1), np.nan)


def resolution(timestamp: np.ndarray) -> str:
    """The coarsest of day, hour, minute, second, millisecond that all timestamps are multiples of."""
    for name, size in (("day", DAY), ("hour", HOUR), ("minute", MINUTE), ("second", SECOND)):
        if not np.any(timestamp[:1000] % size) and not np.any(timestamp % size):  # the first few mostly tell
            return name
    return "millisecond"


def returning_share(dataset: Dataset, fraction: float = 0.1) -> tuple[float, float]:
    """Of the last `fraction` of the log: the share of users who have an earlier event, and of events by them."""
    user, time = dataset.events.user, dataset.events.timestamp
    if time is None:
        raise ValueError("needs timestamps")
    late = time >= np.quantile(time, 1 - fraction, method="lower")
    late_events = np.bincount(user[late], minlength=len(dataset.users))
    known = np.bincount(user[~late], minlength=len(dataset.users)) > 0
    users = np.count_nonzero(known & (late_events > 0)) / np.count_nonzero(late_events)
    return float(users), float(late_events[known].sum() / late_events.sum())


def future_share(dataset: Dataset) -> float:
    """Of a leave-one-out split: the share of training events that happen after the event to predict, on average."""
    time = dataset.events.timestamp
    if time is None:
        raise ValueError("needs timestamps")
    part = splits.leave_one_out(dataset).part
    test, train = time[part == splits.TEST], np.sort(time[part == splits.TRAIN])
    return float(1 - np.searchsorted(train, test, side="right").mean() / len(train)) if len(test) else 0.0


# ------------------------------------------------------------------------------------------- actions and domains


class Step(NamedTuple):
    """One action: events, users and user-item pairs that have it, and the share of the first step's pairs with it."""

    action: str
    events: int
    users: int
    pairs: int
    also: float


def funnel(dataset: Dataset) -> list[Step]:
    """The actions of the log, that with the most user-item pairs first."""
    events, pair = dataset.events, _pair(dataset, dataset.events.item)
    rows = []
    for code, name in enumerate(dataset.labels["action"]):
        mine = events.columns["action"] == code
        if mine.any():
            users = int(np.count_nonzero(np.bincount(events.user[mine])))
            rows.append((name, int(np.count_nonzero(mine)), users, _distinct(pair[mine])))
    rows.sort(key=lambda row: -len(row[3]))
    return [
        Step(name, size, users, len(pairs), float(np.isin(rows[0][3], pairs, assume_unique=True).mean()))
        for name, size, users, pairs in rows
    ]


def domain_combinations(dataset: Dataset) -> list[tuple[tuple[str, ...], int]]:
    """Users by the exact set of domains that they have events in, largest group first.

    A set is a number with a bit for each domain, so of more than 63 domains all after the 62nd are one, `other`.
    """
    events, names = dataset.events, dataset.labels["domain"]
    if len(names) > 63:
        names = (*names[:62], "other")
    bit = np.int64(1) << np.minimum(events.columns["domain"], len(names) - 1).astype(np.int64)
    starts = np.flatnonzero(np.append(True, ~_continues(dataset)))
    sets, sizes = np.unique(np.bitwise_or.reduceat(bit, starts), return_counts=True)
    order = np.argsort(-sizes, kind="stable")
    return [
        (tuple(name for place, name in enumerate(names) if int(sets[row]) >> place & 1), int(sizes[row]))
        for row in order
    ]


# -------------------------------------------------------------------------------------------------------- drift


@dataclass(frozen=True)
class Drift:
    """How the test part differs from the training part.

    Attributes:
        items: (G,) items in each group: the most popular that make a fifth of training, the next fifth ..., and
            last the items that training has never seen.
        train, test: (G,) share of each part's events on each group.
        new_users: share of test events by users without a training event.
        top10: share of test events on the ten items most popular in training.
        strategy: name of the split.
    """

    items: np.ndarray
    train: np.ndarray
    test: np.ndarray
    new_users: float
    top10: float
    strategy: str


def drift(split: Split, groups: int = 5) -> Drift:
    """Popularity of items in the training part against the test part; neither is empty."""
    train, test = split.events(splits.TRAIN), split.events(splits.TEST)
    num_items, num_users = len(split.dataset.items), len(split.dataset.users)
    counts = np.bincount(train.item, minlength=num_items)
    order = np.argsort(-counts, kind="stable")
    before = np.cumsum(counts[order]) - counts[order]
    group = np.empty(num_items, np.int64)
    group[order] = np.minimum(before * groups // len(train), groups - 1)
    group[counts == 0] = groups
    occurs = (counts > 0) | (np.bincount(test.item, minlength=num_items) > 0)
    known = np.bincount(train.user, minlength=num_users) > 0
    top = order[: min(10, np.count_nonzero(counts))]
    return Drift(
        items=np.bincount(group[occurs], minlength=groups + 1),
        train=np.bincount(group[train.item], minlength=groups + 1) / len(train),
        test=np.bincount(group[test.item], minlength=groups + 1) / len(test),
        new_users=float(1 - known[test.user].mean()),
        top10=float(np.isin(test.item, top).mean()),
        strategy=split.strategy,
    )
