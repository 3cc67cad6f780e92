"""Statistics of a log: pure functions of a Dataset, vectorised, with plain results.

Letters: E events, P periods. Times are milliseconds. Events are sorted by user, then time, so whatever concerns two
consecutive events of a user is a difference of neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from eda.units import DAY, HOUR, MINUTE, SECOND
from zoo.data import splits
from zoo.data.dataset import Dataset
from zoo.data.splits import Split

SESSION_GAP = 30 * MINUTE  # a longer silence starts a new session: the convention of web analytics
MIN_EXTREME = 100  # nobody with fewer events is called extreme
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
    events = dataset.events
    return _duplicated(events.user.astype(np.int64) * len(dataset.items) + events.item)


def is_immediate_repeat(dataset: Dataset) -> np.ndarray:
    """(E,) whether the user's previous event was with the same item."""
    item = dataset.events.item
    return np.append(False, _continues(dataset) & (item[1:] == item[:-1]))


def is_duplicate(dataset: Dataset) -> np.ndarray:
    """(E,) whether user, item, action and timestamp all equal those of an earlier event; none without timestamps."""
    events = dataset.events
    if events.timestamp is None:
        return np.zeros(len(events), bool)
    moment = np.cumsum(np.append(True, ~_continues(dataset) | (np.diff(events.timestamp) > 0)))  # of a user
    key = moment * len(dataset.items) + events.item
    if "action" in events.columns:
        key = key * len(dataset.labels["action"]) + events.columns["action"]
    return _duplicated(key)


def tied(dataset: Dataset) -> np.ndarray:
    """(E,) whether another event of the same user bears the same timestamp; none without timestamps."""
    time = dataset.events.timestamp
    if time is None:
        return np.zeros(len(dataset.events), bool)
    same = _continues(dataset) & (time[1:] == time[:-1])
    return np.append(same, False) | np.append(False, same)


def order_lift(dataset: Dataset, seed: int = 0) -> float | None:
    """How much more often a step from one item to the next is seen again than when histories are shuffled.

    1 means that the order within histories says nothing; None where no step is seen twice by chance either.
    """
    user, item = dataset.events.user, dataset.events.item
    continues = _continues(dataset)
    shuffled = item[np.lexsort((np.random.default_rng(seed).random(len(user), np.float32), user))]
    seen_again = []
    for items in (item, shuffled):
        step = items[:-1].astype(np.int64) * len(dataset.items) + items[1:]
        step = step[continues & (items[:-1] != items[1:])]
        seen_again.append(_duplicated(step, keep=False).mean() if len(step) else 0.0)
    return float(seen_again[0] / seen_again[1]) if seen_again[1] else None


def _duplicated(key: np.ndarray, keep: str | bool = "first") -> np.ndarray:
    return pd.Series(key).duplicated(keep=keep).to_numpy()  # type: ignore[arg-type]


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
        if not np.any(timestamp % size):
            return name
    return "millisecond"


def returning_share(dataset: Dataset, fraction: float = 0.1) -> float:
    """Of the users with an event in the last `fraction` of the log, the share who had one before."""
    user, time = dataset.events.user, dataset.events.timestamp
    if time is None:
        raise ValueError("needs timestamps")
    border = np.quantile(time, 1 - fraction, method="lower")
    late, early = np.zeros(len(dataset.users), bool), np.zeros(len(dataset.users), bool)
    late[user[time >= border]] = True
    early[user[time < border]] = True
    return float(np.count_nonzero(late & early) / np.count_nonzero(late))


def future_share(dataset: Dataset) -> float:
    """Of a leave-one-out split: the share of training events that happen after the event to predict, on average."""
    time = dataset.events.timestamp
    if time is None:
        raise ValueError("needs timestamps")
    part = splits.leave_one_out(dataset).part
    test, train = time[part == splits.TEST], np.sort(time[part == splits.TRAIN])
    return float(1 - np.searchsorted(train, test, side="right").mean() / len(train)) if len(test) else 0.0


# ------------------------------------------------------------------------------------------- actions and domains


def funnel(dataset: Dataset) -> list[tuple[str, int, int, int, float]]:
    """Per action, most user-item pairs first: (name, events, users, pairs, share of the first one's pairs with it)."""
    events, names = dataset.events, dataset.labels["action"]
    pair = events.user.astype(np.int64) * len(dataset.items) + events.item
    rows = []
    for code, name in enumerate(names):
        mine = events.columns["action"] == code
        if mine.any():
            users = np.count_nonzero(np.bincount(events.user[mine]))
            rows.append((name, int(np.count_nonzero(mine)), int(users), np.unique(pair[mine])))
    rows.sort(key=lambda row: -len(row[3]))
    return [
        (name, size, users, len(pairs), float(np.isin(rows[0][3], pairs, assume_unique=True).mean()))
        for name, size, users, pairs in rows
    ]


def domain_combinations(dataset: Dataset) -> list[tuple[tuple[str, ...], int]]:
    """Users by the exact set of domains that they have events in, largest group first.

    A set is a number with a bit for each domain; from the 62nd on all domains are one, `other`.
    """
    events = dataset.events
    names = (
        (*dataset.labels["domain"][:62], "other") if len(dataset.labels["domain"]) > 62 else dataset.labels["domain"]
    )
    bit = np.int64(1) << np.minimum(events.columns["domain"], 62).astype(np.int64)
    starts = np.flatnonzero(np.append(True, ~_continues(dataset)))
    sets, sizes = np.unique(np.bitwise_or.reduceat(bit, starts), return_counts=True)
    order = np.argsort(-sizes, kind="stable")
    return [(tuple(name for d, name in enumerate(names) if int(sets[row]) >> d & 1), int(sizes[row])) for row in order]


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
    """Popularity of items in the training part against the test part."""
    train, test = split.events(splits.TRAIN), split.events(splits.TEST)
    num_items, num_users = len(split.dataset.items), len(split.dataset.users)
    counts = np.bincount(train.item, minlength=num_items)
    order = np.argsort(-counts, kind="stable")
    before = np.cumsum(counts[order]) - counts[order]
    group = np.empty(num_items, np.int64)
    group[order] = np.minimum(before * groups // max(len(train), 1), groups - 1)
    group[counts == 0] = groups
    occurs = (counts > 0) | (np.bincount(test.item, minlength=num_items) > 0)
    known = np.bincount(train.user, minlength=num_users) > 0
    return Drift(
        np.bincount(group[occurs], minlength=groups + 1),
        np.bincount(group[train.item], minlength=groups + 1) / max(len(train), 1),
        np.bincount(group[test.item], minlength=groups + 1) / max(len(test), 1),
        float(1 - known[test.user].mean()),
        float(np.isin(test.item, order[:10]).mean()),
        split.strategy,
    )
