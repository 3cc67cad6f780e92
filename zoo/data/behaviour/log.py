"""BehaviourLog: what clients bought, put into carts, took out, visited and searched for, as one packed table.

Legend: C clients, E events, P products, G categories, U urls, Q distinct queries, K codes of a text, n examples.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from zoo.data.dataset import DataError
from zoo.data.histories import Histories
from zoo.data.vocabulary import NUM_SPECIALS, UNKNOWN, Vocabulary

KINDS = ("product_buy", "add_to_cart", "remove_from_cart", "page_visit", "search_query")
BUY, ADD, REMOVE, VISIT, SEARCH = range(5)
WITH_PRODUCT = (BUY, ADD, REMOVE)
NO_CODE = -1  # of a product without category, price or further words
DAY = 86_400_000  # milliseconds


@dataclass(frozen=True)
class Products:
    """What is known of products.

    Attributes:
        ids: (P,) int64 or object array of str, ascending.
        category: (P,) int32 rows of `BehaviourLog.categories`, or NO_CODE.
        price: (P,) int16 price bucket, or NO_CODE.
        name: (P, K) int16 codes of the words of the name, NO_CODE behind the last.
    """

    ids: np.ndarray
    category: np.ndarray
    price: np.ndarray
    name: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class BehaviourLog:
    """Events of all clients, sorted by (client, time, kind, order in the file).

    Attributes:
        clients: (C,) int64 or object array of str, ascending: ids, also of clients without any event.
        offsets: (C + 1,) int64; the events of client c are `offsets[c]:offsets[c + 1]`.
        kind: (E,) int8 code of `KINDS`.
        time: (E,) int64 milliseconds since 1970.
        ref: (E,) int32 what the event is about: a row of `products`, of `urls` (visits) or of `queries` (searches).
        products: a row a product, also of those that properties do not know.
        categories: (G,) ids of categories, ascending.
        urls: (U,) ids of urls, ascending.
        queries: (Q, K) int16 codes of the distinct queries, NO_CODE behind the last.
        asked: what the log's owner says of its evaluation, by the names of his files: `relevant_clients`,
            `active_clients`, `propensity_category`, `popularity_propensity_category` and so on.
        name: what to call it in reports.
        notes: what reading did, a line each.
    """

    clients: np.ndarray
    offsets: np.ndarray
    kind: np.ndarray
    time: np.ndarray
    ref: np.ndarray
    products: Products
    categories: np.ndarray
    urls: np.ndarray
    queries: np.ndarray
    asked: dict[str, np.ndarray] = field(default_factory=dict)
    name: str = "log"
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.kind)

    @property
    def num_prices(self) -> int:
        """Price buckets."""
        return int(self.products.price.max(initial=NO_CODE)) + 1

    @cached_property
    def end(self) -> int:
        """Milliseconds: just after the last event."""
        return int(self.time.max()) + 1

    def relevant(self) -> np.ndarray:
        """(n,) int64 rows of the clients whom the owner asks for, in his order; all of them where he does not say.

        Raises:
            DataError: one of them is no client of the log.
        """
        if "relevant_clients" not in self.asked:
            return np.arange(len(self.clients))
        return self.rows(self.asked["relevant_clients"], "relevant_clients")

    def rows(self, ids: np.ndarray, what: str) -> np.ndarray:
        """(n,) int64 rows of the clients with these ids.

        Raises:
            DataError: there is no such client; the message starts with `what`.
        """
        tokens = self._client_tokens.encode(ids)
        if (missing := tokens == UNKNOWN).any():
            raise DataError(f"{what}: {self.name} has no client {ids[missing].tolist()[0]!r}")
        return tokens.astype(np.int64) - NUM_SPECIALS

    @cached_property
    def _client_tokens(self) -> Vocabulary:
        return Vocabulary(self.clients, len(self.clients))

    def at(self, cut: int | np.ndarray, rows: np.ndarray | None = None) -> Snapshot:
        """What was known of the clients `rows` (all) before the time `cut`, one for all or (n,) one for each."""
        rows = np.arange(len(self.clients)) if rows is None else np.asarray(rows, np.int64)
        cut = np.broadcast_to(np.asarray(cut, np.int64), rows.shape)
        first, end = self.offsets[rows], self.offsets[rows + 1]
        return Snapshot(self, rows, cut, first, lower_bound(self.time, cut, first, end))

    def bought(self, rows: np.ndarray, start: int | np.ndarray, end: int | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Purchases of clients in [start, end), oldest first of each.

        Args:
            rows: (n,) clients.
            start, end: milliseconds, one for all or (n,) one for each.

        Returns:
            place (m,) int64 in `rows`, ascending, and ref (m,) int32 the product, of each purchase.
        """
        window = replace(self.at(end, rows), first=self.at(start, rows).last)
        index, owner = window.events()
        mine = self.kind[index] == BUY
        return owner[mine], self.ref[index[mine]]

    def sha256(self) -> str:
        """Fingerprint of the events, of all that is known of products, and of what the owner asks for."""
        ids = (self.clients, self.products.ids, self.categories, self.urls)
        asked = {name: array.tolist() for name, array in sorted(self.asked.items())}
        digest = hashlib.sha256(json.dumps([*(each.tolist() for each in ids), asked], default=str).encode())
        product = (self.products.category, self.products.price, self.products.name)
        for array in (self.offsets, self.kind, self.time, self.ref, *product, self.queries):
            digest.update(f"{array.dtype} {array.shape} ".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def summary(self) -> str:
        """One line for people."""
        counts = np.bincount(self.kind, minlength=len(KINDS))
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in zip(KINDS, counts, strict=True))
        known = f"{len(self.clients):,} clients, {len(self.products):,} products, {len(self.categories):,} categories"
        return f"{self.name}: {known}, {len(self):,} events ({kinds})"


@dataclass(frozen=True)
class Snapshot:
    """What was known of n clients at a moment, which may differ from one to the next.

    Attributes:
        client: (n,) int64 rows of the log's clients.
        cut: (n,) int64 milliseconds: nothing at or after it is known.
        first, last: (n,) int64; the known events of row r are `first[r]:last[r]` of the log.
    """

    log: BehaviourLog
    client: np.ndarray
    cut: np.ndarray
    first: np.ndarray
    last: np.ndarray

    def __len__(self) -> int:
        return len(self.client)

    @property
    def lengths(self) -> np.ndarray:
        """(n,) known events of each."""
        return self.last - self.first

    def take(self, rows: np.ndarray | slice) -> Snapshot:
        """The examples at `rows`, in that order."""
        return Snapshot(self.log, self.client[rows], self.cut[rows], self.first[rows], self.last[rows])

    def batches(self, size: int):
        """Consecutive slices of at most `size` examples."""
        for start in range(0, len(self), size):
            yield self.take(slice(start, start + size))

    def recent(self, most: int) -> Snapshot:
        """The last `most` events of each alone."""
        return replace(self, first=np.maximum(self.first, self.last - most))

    def products(self) -> Histories:
        """The products of all known events that have one, oldest first, as histories; of a log in tokens."""
        index, owner = self.events()
        mine = self.log.kind[index] <= max(WITH_PRODUCT)
        offsets = np.zeros(len(self) + 1, np.int64)
        np.cumsum(np.bincount(owner[mine], minlength=len(self)), out=offsets[1:])
        return Histories(np.full(len(self), UNKNOWN, np.int32), offsets, self.log.ref[index[mine]])

    def events(self) -> tuple[np.ndarray, np.ndarray]:
        """(m,) int64 places of all known events in the log, row by row and oldest first, and (m,) int64 their rows."""
        lengths = self.lengths
        owner = np.repeat(np.arange(len(self)), lengths)
        starts = np.cumsum(lengths) - lengths
        return np.arange(len(owner)) + (self.first - starts)[owner], owner


def without_events() -> Snapshot:
    """What is known of one client without events, in a log that fits every catalogue."""
    none, no_texts = np.zeros(0, np.int64), np.zeros((0, 1), np.int16)
    products = Products(none, none.astype(np.int32), none.astype(np.int16), no_texts)
    kind, ref = none.astype(np.int8), none.astype(np.int32)
    log = BehaviourLog(np.zeros(1, np.int64), np.zeros(2, np.int64), kind, none, ref, products, none, none, no_texts)
    return log.at(0)


def lower_bound(values: np.ndarray, wanted: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """(n,) the first place in each [low, high) whose value is not below `wanted`; `high` where there is none.

    Args:
        values: (E,), ascending within each of the ranges.
        wanted, low, high: (n,).
    """
    low, high = low.copy(), high.copy()
    while (open_ := low < high).any():
        middle = (low + high) // 2
        below = open_.copy()
        below[open_] = values[middle[open_]] < wanted[open_]
        low = np.where(below, middle + 1, low)
        high = np.where(open_ & ~below, middle, high)
    return low
