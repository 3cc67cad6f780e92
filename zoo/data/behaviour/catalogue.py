"""What of a behaviour log is saved with a model, and the log in its tokens.

Legend: V product tokens, G category tokens, U url tokens, K codes of a name; the first NUM_SPECIALS are special.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any
from zlib import crc32

import numpy as np

from zoo.data.behaviour.log import BUY, NO_CODE, VISIT, WITH_PRODUCT, BehaviourLog, Products, Snapshot
from zoo.data.packed_text import pack_ids, unpack_ids
from zoo.data.vocabulary import NUM_SPECIALS, UNKNOWN, Vocabulary


@dataclass(frozen=True)
class BehaviourCatalogue:
    """Products, categories and urls that a model knows, counted before the cut-off that it was trained at.

    A url is known where it was visited often enough; the others are told apart by their hash alone (`url_hash`).

    Attributes:
        items: products with an event, most frequent first; then those of the properties alone.
        category: (V,) int32 token of each product's category, UNKNOWN where it has none.
        price: (V,) int16 price bucket of each product, NO_CODE where it has none.
        name: (V, K) int16 codes of its name, NO_CODE behind the last.
        item_counts: (V,) int64 events of each product.
        buy_counts: (V,) int64 purchases of each product.
        categories: of products.
        urls: visited at least `min_visits` times, most frequent first.
        num_prices: price buckets.
        num_codes: codes of words are below this.
        query_length: codes of the longest query.
        span: milliseconds from the log's first event to the cut-off.
    """

    items: Vocabulary
    category: np.ndarray
    price: np.ndarray
    name: np.ndarray
    item_counts: np.ndarray
    buy_counts: np.ndarray
    categories: Vocabulary
    urls: Vocabulary
    num_prices: int
    num_codes: int
    query_length: int
    span: int

    candidates = None  # all items may be recommended

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it as plain arrays by name, for a file without pickles."""
        result = {name: np.asarray(getattr(self, name)) for name in (*_TABLES, *_NUMBERS)}
        for name in _VOCABULARIES:
            vocabulary = getattr(self, name)
            result |= {f"{name}.num_trained": np.asarray(vocabulary.num_trained)} | pack_ids(name, vocabulary.ids)
        return result

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> BehaviourCatalogue:
        """Takes back what `arrays` gave.

        Raises:
            KeyError: an array is missing.
        """
        known: dict[str, Any] = {
            name: Vocabulary(unpack_ids(name, arrays), int(arrays[f"{name}.num_trained"])) for name in _VOCABULARIES
        }
        known |= {name: arrays[name] for name in _TABLES}
        known |= {name: int(arrays[name]) for name in _NUMBERS}
        return cls(**known)

    def adapt(self, log: BehaviourLog) -> BehaviourLog:
        """The log in the tokens of this catalogue: `ref` of an event with a product is its token, of a visit the
        url's token or, of an unknown one, -1 - its hash; of a search it stays the row of its query.
        """
        product = self.items.encode(log.products.ids)
        url = self.urls.encode(log.urls)
        url = np.where(url == UNKNOWN, -1 - url_hash(log.urls), url).astype(np.int32)
        ref = log.ref.copy()
        visits = log.kind == VISIT
        if len(url):
            ref[visits] = url[log.ref[visits]]
        mine = log.kind <= max(WITH_PRODUCT)
        if len(product):
            ref[mine] = product[log.ref[mine]]
        ids = np.concatenate([np.full(NUM_SPECIALS, None, object), self.items.ids.astype(object)])
        table = Products(ids, self.category, self.price, self.name)
        categories = np.concatenate([np.full(NUM_SPECIALS, None, object), self.categories.ids.astype(object)])
        return replace(log, ref=ref, products=table, categories=categories)


_TABLES = ("category", "price", "name", "item_counts", "buy_counts")
_NUMBERS = ("num_prices", "num_codes", "query_length", "span")
_VOCABULARIES = ("items", "categories", "urls")
_CLIENTS_AT_ONCE = 2_000_000


def url_hash(ids: np.ndarray) -> np.ndarray:
    """(n,) int64 below 2**30: a number of each id that is the same on every machine."""
    if ids.dtype.kind == "i":
        mixed = ids.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        return (mixed >> np.uint64(34)).astype(np.int64)
    return np.array([crc32(str(value).encode()) >> 2 for value in ids], np.int64)


def count(snapshot: Snapshot, min_visits: int) -> BehaviourCatalogue:
    """The catalogue of what was known at a cut-off.

    Args:
        snapshot: of the clients that are trained on, all at one cut-off.
        min_visits: a url with fewer visits is not known.
    """
    log = snapshot.log
    counts, buys = (np.zeros(len(log.products), np.int64) for _ in range(2))
    visits = np.zeros(len(log.urls), np.int64)
    for batch in snapshot.batches(_CLIENTS_AT_ONCE):  # places of all events take several times their own memory
        index, _ = batch.events()
        kind, ref = log.kind[index], log.ref[index]
        counts += np.bincount(ref[kind <= max(WITH_PRODUCT)], minlength=len(counts))
        buys += np.bincount(ref[kind == BUY], minlength=len(buys))
        visits += np.bincount(ref[kind == VISIT], minlength=len(visits))
    order = np.argsort(-counts, kind="stable")
    categories = Vocabulary(log.categories, len(log.categories))
    urls = np.argsort(-visits, kind="stable")
    urls = urls[visits[urls] >= min_visits]

    def table(values: np.ndarray, special: int) -> np.ndarray:
        top = np.full((NUM_SPECIALS, *values.shape[1:]), special, values.dtype)
        return np.concatenate([top, values[order]])

    category = np.where(log.products.category == NO_CODE, UNKNOWN, log.products.category + NUM_SPECIALS)
    codes = max(int(log.products.name.max(initial=0)), int(log.queries.max(initial=0))) + 1
    return BehaviourCatalogue(
        Vocabulary(log.products.ids[order], int(np.count_nonzero(counts))),
        table(category.astype(np.int32), UNKNOWN),
        table(log.products.price, NO_CODE),
        table(log.products.name, NO_CODE),
        table(counts, 0),
        table(buys, 0),
        categories,
        Vocabulary(log.urls[urls], len(urls)),
        log.num_prices,
        codes,
        log.queries.shape[1],
        int(snapshot.cut.max(initial=0) - log.time.min()),
    )
