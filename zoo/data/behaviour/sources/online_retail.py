"""Layout `online_retail`: purchases, and cancellations as removals, with price buckets, categories and words.

The log knows no categories; here a product's is the last word of its description (HOLDER, BAG, MUG, ...), which in
English is often its noun. Its words become codes by a hash. Charges (postage, fees) are left out.
"""

from __future__ import annotations

import hashlib
import re

import numpy as np
import pyarrow as pa

from config import DataConfig
from zoo.data.behaviour.ingest import collect
from zoo.data.behaviour.log import BUY, REMOVE, BehaviourLog
from zoo.data.sources import online_retail
from zoo.data.sources.connection import connect

KIND_OF = {"buy": BUY, "cancel": REMOVE}
WORDS, BUCKETS = 16, 100


def read(path: str, data: DataConfig) -> BehaviourLog:
    """The log of the invoice lines.

    Raises:
        DataError: what `zoo.data.sources.online_retail` raises.
    """
    dataset = online_retail.read(path, data.model_copy(update={"actions": tuple(KIND_OF)}))
    events, action = dataset.events, dataset.events.columns["action"]
    connection = connect(data.cache_dir)
    assert events.timestamp is not None  # of this layout
    selects = {}
    goods = np.zeros(len(dataset.items), bool)
    for name, kind in KIND_OF.items():
        mine = np.flatnonzero(action == dataset.labels["action"].index(name))
        goods[events.item[mine]] |= kind == BUY
        mine = mine[goods[events.item[mine]]]  # a cancelled charge is none either
        columns = (dataset.users.ids[events.user[mine]], events.timestamp[mine], dataset.items.ids[events.item[mine]])
        connection.register(name, pa.table(dict(zip(("client", "timestamp", "ref"), columns, strict=True))))
        selects[kind] = f"SELECT * FROM {name}"
    rows = np.flatnonzero(goods)
    words = [re.findall(r"[A-Z][A-Z'-]*", str(title).upper()) for title in dataset.items.columns["title"][rows]]
    table = {
        "product": dataset.items.ids[rows],
        "category": [text[-1] if text else None for text in words],
        "price": _buckets(events.item, events.columns["price"], len(dataset.items))[rows],
        "name": [str([_code(word) for word in text[:WORDS]]) for text in words],
    }
    connection.register("properties_told", pa.table(table))
    return collect(connection, selects, "SELECT * FROM properties_told", name=dataset.name, notes=dataset.notes)


def _buckets(item: np.ndarray, price: np.ndarray, count: int) -> np.ndarray:
    """(count,) the hundredth of the products, by their first price, that each belongs to."""
    first = np.zeros(count)
    first[item[::-1]] = np.nan_to_num(price[::-1])  # the last assignment to an item is its first event's
    order = np.argsort(first, kind="stable")
    result = np.empty(count, np.int64)
    result[order] = np.arange(count) * BUCKETS // count
    # Equal prices share a bucket.
    _, group = np.unique(first, return_inverse=True)
    lowest = np.full(group.max() + 1, BUCKETS)
    np.minimum.at(lowest, group, result)
    return lowest[group]


def _code(word: str) -> int:
    return hashlib.blake2b(word.encode(), digest_size=1).digest()[0]
