"""Statistics of what clients did before a cut-off: counts, recency, gaps, prices, tastes, hours.

Hand-made columns stood in every leading entry of the RecSys Challenge 2025; these are of the kinds that they name.
Everything is known at the cut-off, and a client without any event has a row like any other.

Legend: n clients, E events of a batch, P of them with a product, D columns, K codes of a text.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from itertools import pairwise

import numpy as np

from zoo.data.behaviour.catalogue import BehaviourCatalogue
from zoo.data.behaviour.log import ADD, BUY, DAY, KINDS, REMOVE, SEARCH, VISIT, WITH_PRODUCT, Snapshot
from zoo.data.vocabulary import NUM_SPECIALS

WINDOWS = (1, 3, 7, 14, 30, 60, 90)  # days before the cut-off; all time comes besides
HALF_LIVES = (1, 4, 14, 45)  # days
NEVER = 365.0  # days since what never happened, and between what happened once
SESSION = 30 * 60_000  # milliseconds of silence that end a session
PRICE_RANGES = 10
WORDS = 16  # numbers that describe names, and as many queries
CLIP = 5.0  # deviations from the mean beyond which a number says no more
BATCH = 300_000  # events that are counted at once, about


@dataclass(frozen=True)
class Reference:
    """What the statistics of all clients share, in the codes of their log: without it columns would not compare.

    Attributes:
        categories, products, urls: the most frequent ones, most frequent first, each with columns of its own.
        events: events of each product, by its row.
        num_prices: price buckets.
    """

    categories: np.ndarray
    products: np.ndarray
    urls: np.ndarray
    events: np.ndarray
    num_prices: int

    @cached_property
    def popularity(self) -> np.ndarray:
        """log(1 + events) of each product."""
        return np.log1p(self.events)

    @classmethod
    def of(cls, snapshot: Snapshot, categories: int = 50, products: int = 50, urls: int = 30) -> Reference:
        """Counted in a log as it was read; for a log in tokens, see `known`."""
        log = snapshot.log
        place, _ = snapshot.events()
        kind, ref = log.kind[place], log.ref[place]
        events = np.bincount(ref[kind <= max(WITH_PRODUCT)], minlength=len(log.products))
        mine = log.products.category >= 0
        by_category = np.bincount(log.products.category[mine], events[mine], minlength=len(log.categories))
        visits = np.bincount(ref[kind == VISIT], minlength=len(log.urls))
        most = (_most(by_category, categories), _most(events, products), _most(visits, urls))
        return cls(*most, events, log.num_prices)

    @classmethod
    def known(
        cls, catalogue: BehaviourCatalogue, categories: int = 50, products: int = 50, urls: int = 30
    ) -> Reference:
        """Of a catalogue, for logs in its tokens."""
        events = catalogue.item_counts
        by_category = np.bincount(catalogue.category, events, minlength=catalogue.categories.size)
        by_category[:NUM_SPECIALS] = 0
        # Products and urls have their tokens in the order of their counts.
        first = np.arange(NUM_SPECIALS, NUM_SPECIALS + min(products, catalogue.items.num_trained))
        visited = np.arange(NUM_SPECIALS, min(NUM_SPECIALS + urls, catalogue.urls.size))
        return cls(_most(by_category, categories), first, visited, events, catalogue.num_prices)


def _most(counts: np.ndarray, number: int) -> np.ndarray:
    """The codes with the largest counts, largest first, of those that occur."""
    best = np.argsort(-counts, kind="stable")[:number]
    return best[counts[best] > 0]


def statistics(snapshot: Snapshot, reference: Reference) -> tuple[np.ndarray, tuple[str, ...]]:
    """((n, D) float32, names of the columns). Counts and days are as log(1 + x).

    Args:
        snapshot: of a log in the codes that the reference is of.
    """
    names = tuple(_columns(snapshot.take(slice(0, 0)), reference))
    result = np.empty((len(snapshot), len(names)), np.float32)
    batch = np.cumsum(snapshot.lengths + 32) // BATCH  # clients without events take room, too
    edges = [0, *(np.flatnonzero(np.diff(batch)) + 1).tolist(), len(snapshot)]
    for start, end in pairwise(edges):
        if end > start:
            columns = _columns(snapshot.take(slice(start, end)), reference)
            result[start:end] = np.stack(list(columns.values()), axis=1)
    return result, names


def moments(vectors: np.ndarray, rows: np.ndarray, chunk: int = 65_536) -> tuple[np.ndarray, np.ndarray]:
    """(mean (D,), deviation (D,)) float64 over the rows (n,) > 0 of vectors; 1 for the deviation of a constant column.

    A mean that is not finite says that a number is not.
    """
    chunks = np.array_split(rows, -(-len(rows) // chunk))
    with np.errstate(invalid="ignore"):
        mean = np.sum([vectors[part].sum(axis=0, dtype=np.float64) for part in chunks], axis=0) / len(rows)
        squares = np.sum([np.square(vectors[part] - mean).sum(axis=0) for part in chunks], axis=0)
    deviation = np.sqrt(squares / len(rows))
    return mean, np.where(deviation > 1e-6 * np.abs(mean) + 1e-12, deviation, 1.0)


class _Batch:
    """The events of n clients, client by client and oldest first.

    Attributes:
        owner, kind, ref, time, age: (E,) whose, what, about what, milliseconds, days before the cut-off.
        goods: (P,) the events with a product, of which `product`, `category`, `price` (P,) are what it is.
    """

    def __init__(self, snapshot: Snapshot):
        log = snapshot.log
        place, self.owner = snapshot.events()
        self.log, self.n = log, len(snapshot)
        self.kind, self.ref, self.time = log.kind[place], log.ref[place].astype(np.int64), log.time[place]
        self.age = (snapshot.cut[self.owner] - self.time) / DAY
        self.day = self.age.astype(np.int64)  # 0: the last 24 hours
        self.goods = np.flatnonzero(self.kind <= max(WITH_PRODUCT))
        self.product = self.ref[self.goods]
        self.category = log.products.category[self.product].astype(np.int64)
        self.price = log.products.price[self.product].astype(np.float64)
        self.totals = np.bincount(self.owner * len(KINDS) + self.kind, minlength=self.n * len(KINDS))
        self.totals = self.totals.reshape(self.n, len(KINDS))

    def count(self, owner: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        """(n,) how many are each client's, or the sum of their weights."""
        return np.bincount(owner, weights, minlength=self.n)

    def mean(self, owner: np.ndarray, values: np.ndarray, nothing: float) -> np.ndarray:
        """(n,) mean of each client's values; `nothing` where there are none."""
        number = self.count(owner)
        return np.where(number > 0, self.count(owner, values) / np.maximum(number, 1), nothing)

    def at(self, owner: np.ndarray, values: np.ndarray, nothing: float) -> np.ndarray:
        """(n,) the value of each owner, who comes once; `nothing` for the others."""
        result = np.full(self.n, nothing)
        result[owner] = values
        return result


def _columns(snapshot: Snapshot, reference: Reference) -> dict[str, np.ndarray]:
    """(n,) columns by name."""
    batch = _Batch(snapshot)
    columns = _counts(batch) | _recency(batch) | _rhythm(batch) | _prices(batch, reference.num_prices)
    columns |= _tastes(batch, reference) | _variety(batch) | _shares(batch) | _life(batch) | _clock(batch)
    return columns | _words(batch)


def _counts(batch: _Batch) -> dict[str, np.ndarray]:
    """Events of each kind in windows, and decayed."""
    kinds, bins = len(KINDS), len(WINDOWS) + 1
    cell = batch.owner * kinds + batch.kind
    when = np.searchsorted(WINDOWS, batch.age)
    table = np.bincount(cell * bins + when, minlength=batch.n * kinds * bins).reshape(batch.n, kinds, bins)
    table = np.log1p(np.cumsum(table, axis=2))
    labels = [*(f"{days} days" for days in WINDOWS), "all time"]
    columns = {f"{kind}, {label}": table[:, k, w] for k, kind in enumerate(KINDS) for w, label in enumerate(labels)}
    for half in HALF_LIVES:
        decayed = np.bincount(cell, np.exp2(-batch.age / half), minlength=batch.n * kinds).reshape(batch.n, kinds)
        columns |= {f"{kind}, half-life {half} days": np.log1p(decayed[:, k]) for k, kind in enumerate(KINDS)}
    return columns


def _recency(batch: _Batch) -> dict[str, np.ndarray]:
    """Days since the last event of each kind, and since the last and the first of all."""
    columns = {f"{kind}, since the last": _days(_since(batch, batch.kind == k)) for k, kind in enumerate(KINDS)}
    columns["any, since the last"] = _days(_since(batch, slice(None)))
    first = _firsts(batch.owner)
    return columns | {"any, since the first": _days(batch.at(batch.owner[first], batch.age[first], NEVER))}


def _since(batch: _Batch, events: slice | np.ndarray) -> np.ndarray:
    """(n,) days since the last of these events of each client."""
    owner, age = batch.owner[events], batch.age[events]
    last = _lasts(owner)
    return batch.at(owner[last], age[last], NEVER)


def _rhythm(batch: _Batch) -> dict[str, np.ndarray]:
    """Days with events, the gaps between them, sessions."""
    columns: dict[str, np.ndarray] = {}
    for name, events in (("any", slice(None)), (KINDS[BUY], batch.kind == BUY)):
        owner, day = batch.owner[events], batch.day[events]
        new = (np.diff(owner, prepend=-1) != 0) | (np.diff(day, prepend=-1) != 0)
        owner, day = owner[new], day[new]
        for most in (7, 30, None):
            mine = owner if most is None else owner[day < most]
            columns[f"{name}, days of {most or 'all time'}"] = np.log1p(batch.count(mine))
        same = owner[1:] == owner[:-1]
        gap, owner = (day[:-1] - day[1:])[same], owner[1:][same]
        last = _lasts(owner)
        mean = batch.mean(owner, gap, NEVER)
        columns[f"{name}, mean gap"] = _days(mean)
        columns[f"{name}, median gap"] = _days(_medians(batch, owner, gap))
        columns[f"{name}, last gap"] = _days(batch.at(owner[last], gap[last], NEVER))
        columns[f"{name}, since the last by mean gap"] = np.log1p(_since(batch, events) / np.maximum(mean, 0.5))
    opens = (np.diff(batch.owner, prepend=-1) != 0) | (np.diff(batch.time, prepend=0) > SESSION)
    sessions = batch.count(batch.owner[opens])
    columns["sessions"] = np.log1p(sessions)
    columns["events by session"] = np.log1p(batch.totals.sum(axis=1) / np.maximum(sessions, 1))
    return columns


def _medians(batch: _Batch, owner: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(n,) median of each client's values; NEVER where there are none."""
    ordered = values[np.lexsort((values, owner))]
    number = batch.count(owner)
    there = np.flatnonzero(number)
    start = (np.cumsum(number) - number)[there]
    low, high = ordered[start + (number[there] - 1) // 2], ordered[start + number[there] // 2]
    return batch.at(there, (low + high) / 2, NEVER)


def _prices(batch: _Batch, num_prices: int) -> dict[str, np.ndarray]:
    """Prices, as shares of the highest, of what was bought and put into carts; .5 where nothing was."""
    columns: dict[str, np.ndarray] = {}
    for kind in (BUY, ADD):
        mine = (batch.kind[batch.goods] == kind) & (batch.price >= 0)
        owner = batch.owner[batch.goods[mine]]
        price = np.minimum((batch.price[mine] + 0.5) / max(num_prices, 1), 1.0)
        first, last = _firsts(owner), _lasts(owner)
        mean = batch.mean(owner, price, 0.5)
        spread = batch.mean(owner, np.square(price - mean[owner]), 0.0)
        found = {"mean": mean, "deviation": np.sqrt(spread), "last": batch.at(owner[last], price[last], 0.5)}
        if len(first):
            found["lowest"] = batch.at(owner[first], np.minimum.reduceat(price, first), 0.5)
            found["highest"] = batch.at(owner[first], np.maximum.reduceat(price, first), 0.5)
        else:
            found |= dict.fromkeys(("lowest", "highest"), np.full(batch.n, 0.5))
        columns |= {f"{KINDS[kind]}, {name} price": values for name, values in found.items()}
        ranges = np.minimum((price * PRICE_RANGES).astype(np.int64), PRICE_RANGES - 1)
        table = _histogram(batch, owner, ranges, np.arange(PRICE_RANGES))
        columns |= {f"{KINDS[kind]}, price range {i}": table[:, i] for i in range(PRICE_RANGES)}
    return columns


def _tastes(batch: _Batch, reference: Reference) -> dict[str, np.ndarray]:
    """Counts of the most frequent categories, products and urls, by their rank, and how popular what is touched is."""
    goods, visits = batch.goods, np.flatnonzero(batch.kind == VISIT)
    age, bought = batch.age[goods], batch.kind[goods] == BUY
    tables = []
    for label, part in (("14 days", age <= 14), ("60 days", age <= 60), ("all time", age >= 0), ("bought", bought)):
        tables.append(("category", label, goods[part], batch.category[part], reference.categories))
    for label, part in (("14 days", age <= 14), ("all time", age >= 0), ("bought", bought)):
        tables.append(("product", label, goods[part], batch.product[part], reference.products))
    for label, part in (("14 days", visits[batch.age[visits] <= 14]), ("all time", visits)):
        tables.append(("url", label, part, batch.ref[part], reference.urls))
    columns: dict[str, np.ndarray] = {}
    for what, label, events, values, codes in tables:
        table = _histogram(batch, batch.owner[events], values, codes)
        columns |= {f"{what} {rank}, {label}": table[:, rank] for rank in range(len(codes))}
    owner, popular = batch.owner[goods], reference.popularity[batch.product]
    average = float(reference.popularity.mean()) if len(reference.popularity) else 0.0
    columns["popularity of products"] = batch.mean(owner, popular, average)
    columns["popularity of purchases"] = batch.mean(owner[bought], popular[bought], average)
    return columns


def _histogram(batch: _Batch, owner: np.ndarray, values: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """(n, len(codes)) log(1 + count) of each client's values among `codes`, in their order."""
    if not len(codes):
        return np.zeros((batch.n, 0))
    order = np.argsort(codes)
    place = order[np.minimum(np.searchsorted(codes, values, sorter=order), len(codes) - 1)]
    hit = codes[place] == values
    cell = owner[hit] * len(codes) + place[hit]
    return np.log1p(np.bincount(cell, minlength=batch.n * len(codes)).reshape(batch.n, len(codes)))


def _variety(batch: _Batch) -> dict[str, np.ndarray]:
    """How many different products, categories, urls and queries, and the entropy in bits over them."""
    goods = batch.goods
    columns: dict[str, np.ndarray] = {}
    parts = {
        "product": (goods, batch.product),
        "category": (goods, batch.category),
        "url": (np.flatnonzero(batch.kind == VISIT), None),
        "query": (np.flatnonzero(batch.kind == SEARCH), None),
    }
    for name, (events, values) in parts.items():
        owner, values = batch.owner[events], batch.ref[events] if values is None else values
        low = int(values.min(initial=0))
        size = int(values.max(initial=0)) - low + 1
        pairs, counts = np.unique(owner * size + (values - low), return_counts=True)
        of = pairs // size
        total = np.maximum(batch.count(owner), 1)
        entropy = np.log2(total) - batch.count(of, counts * np.log2(counts)) / total
        columns |= {f"different, {name}": np.log1p(batch.count(of)), f"entropy, {name}": entropy}
    return columns


def _shares(batch: _Batch) -> dict[str, np.ndarray]:
    """Of two counts a and b: (a + .5) / (a + b + 1)."""
    pairs = ((BUY, ADD), (REMOVE, ADD), (ADD, VISIT), (BUY, VISIT), (SEARCH, VISIT))
    return {
        f"{KINDS[a]} against {KINDS[b]}": (batch.totals[:, a] + 0.5) / (batch.totals[:, a] + batch.totals[:, b] + 1)
        for a, b in pairs
    }


def _life(batch: _Batch) -> dict[str, np.ndarray]:
    """How long a client has been here, and in which part of that time most happened."""
    first, last = _firsts(batch.owner), _lasts(batch.owner)
    oldest = batch.at(batch.owner[first], batch.age[first], 0.0)
    late = batch.count(batch.owner[batch.age <= oldest[batch.owner] / 3])
    total = batch.totals.sum(axis=1)
    recent, before = (batch.count(batch.owner[(batch.age > low) & (batch.age <= low + 30)]) for low in (0, 30))
    return {
        "span": _days(oldest - batch.at(batch.owner[last], batch.age[last], 0.0)),
        "share in the last third": (late + 1 / 3) / (total + 1),
        "trend of 30 days": np.log((recent + 1) / (before + 1)),
        "mean age": _days(batch.mean(batch.owner, batch.age, NEVER)),
    }


def _clock(batch: _Batch) -> dict[str, np.ndarray]:
    """Shares of the hours of the day, three at a time, and of the days of the week; in UTC, with one event all over."""
    total = batch.totals.sum(axis=1)
    columns: dict[str, np.ndarray] = {}
    hour, week = batch.time // 3_600_000 % 24 // 3, (batch.time // DAY + 3) % 7  # 1970 began on a Thursday
    for name, value, size in (("hours", hour, 8), ("weekday", week, 7)):
        table = np.bincount(batch.owner * size + value, minlength=batch.n * size).reshape(batch.n, size)
        columns |= {f"{name} {i}": (table[:, i] + 1 / size) / (total + 1) for i in range(size)}
    return columns


def _words(batch: _Batch) -> dict[str, np.ndarray]:
    """Means of the words of the products bought or put into carts, and of the queries, randomly projected."""
    wanted = batch.goods[batch.kind[batch.goods] != REMOVE]
    asked = np.flatnonzero(batch.kind == SEARCH)
    texts = {
        "names": (wanted, batch.log.products.name[batch.ref[wanted]]),
        "queries": (asked, batch.log.queries[batch.ref[asked]]),
    }
    columns: dict[str, np.ndarray] = {}
    for name, (events, codes) in texts.items():
        owner = batch.owner[events]
        projected = np.zeros((len(events), WORDS), np.float32)
        for position in range(codes.shape[1]):
            real = codes[:, position] >= 0
            rows = _signs()[position % len(_signs()), np.maximum(codes[:, position], 0) % _signs().shape[1]]
            projected += np.where(real[:, None], rows, 0)
        length = np.sqrt(np.maximum((codes >= 0).sum(axis=1), 1))
        for i in range(WORDS):
            columns[f"{name} {i}"] = batch.mean(owner, projected[:, i] / length, 0.0)
    return columns


@cache
def _signs() -> np.ndarray:
    """(32, 1024, WORDS) float32, -1 or 1 of each position and code: feature hashing (Weinberger et al., ICML 2009)."""
    return np.random.default_rng(0).choice(np.array([-1, 1], np.float32), (32, 1024, WORDS))


def _days(days: np.ndarray) -> np.ndarray:
    """log(1 + days), of at most NEVER."""
    return np.log1p(np.minimum(days, NEVER))


def _firsts(owner: np.ndarray) -> np.ndarray:
    """Places of the first event of each owner, of an ascending array."""
    return np.flatnonzero(np.diff(owner, prepend=-1))


def _lasts(owner: np.ndarray) -> np.ndarray:
    """Places of the last event of each owner, of an ascending array."""
    return np.flatnonzero(np.diff(owner, append=-1))
