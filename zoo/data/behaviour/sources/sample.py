"""The built-in shop as a log of behaviour, and as files of the official layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from config import SampleConfig
from zoo.data.behaviour.ingest import collect
from zoo.data.behaviour.log import ADD, BUY, KINDS, REMOVE, SEARCH, VISIT, BehaviourLog
from zoo.data.sources import synthetic
from zoo.data.sources.connection import connect

KIND_OF = {synthetic.BUY: BUY, synthetic.CART: ADD, synthetic.REMOVE: REMOVE}  # a view is the visit of an item's page
BUCKETS = 100


def read(config: SampleConfig, seed: int = 0) -> BehaviourLog:
    """The shop's purchases, carts, removals, visits and searches; every user is a client, also one without events."""
    shop = synthetic.shop(config, seed)
    connection = connect()
    for name, table in {**_events(shop), "properties_told": _properties(shop)}.items():
        connection.register(name, table)
    return collect(
        connection,
        {
            kind: f"SELECT client_id AS client, timestamp, {ref} AS ref FROM {KINDS[kind]}"
            for kind, ref in enumerate(("sku", "sku", "sku", "url", "query"))
        },
        "SELECT sku AS product, category, price, name FROM properties_told",
        name="sample",
        asked={"relevant_clients": shop.users.ids},
        notes=(f"generated with noise {config.noise:g}, seed {seed}",),
    )


def write(config: SampleConfig, folder: Path, seed: int = 0) -> None:
    """Writes the shop as files of the official layout (`synerise`), with its times as text and its rows unsorted."""
    shop = synthetic.shop(config, seed)
    rng = np.random.default_rng([seed, 0xF11E])
    (folder / "input").mkdir(parents=True, exist_ok=True)
    for name, table in _events(shop).items():
        text = np.datetime_as_string(table["timestamp"].to_numpy().astype("datetime64[ms]"), unit="s")
        stamped = table.set_column(1, "timestamp", pa.array(np.char.replace(text, "T", " ")))
        pq.write_table(stamped.take(rng.permutation(len(table))), folder / f"{name}.parquet")
    pq.write_table(_properties(shop), folder / "product_properties.parquet")
    np.save(folder / "input" / "relevant_clients.npy", rng.permutation(shop.users.ids))


def _events(shop: synthetic.Shop) -> dict[str, pa.Table]:
    """A table of each kind, by the official names and columns."""
    events, tables = shop.events, {}
    assert events.timestamp is not None
    action = events.columns["action"]
    for shops, kind in KIND_OF.items():
        mine = action == shops
        tables[KINDS[kind]] = _table(
            shop, events.user[mine], events.timestamp[mine], "sku", shop.items.ids[events.item[mine]]
        )
    tables[KINDS[VISIT]] = _table(shop, shop.visits["user"], shop.visits["timestamp"], "url", shop.visits["url"])
    queries = _texts(shop.searches["codes"])
    tables[KINDS[SEARCH]] = _table(shop, shop.searches["user"], shop.searches["timestamp"], "query", queries)
    return tables


def _table(
    shop: synthetic.Shop, user: np.ndarray, time: np.ndarray, column: str, values: np.ndarray | list
) -> pa.Table:
    return pa.table({"client_id": shop.users.ids[user], "timestamp": time, column: values})


def _properties(shop: synthetic.Shop) -> pa.Table:
    """Category and price bucket of each product, and its words."""
    items = shop.items
    order = np.argsort(np.argsort(items.columns["price"], kind="stable"))
    return pa.table(
        {
            "sku": items.ids,
            "category": shop.plan.category,
            "price": order * BUCKETS // len(items),
            "name": _texts(items.columns["codes"]),
        }
    )


def _texts(codes: np.ndarray) -> list[str]:
    """Codes as the challenge writes them: `[167  24 193]`."""
    return [np.array2string(row, max_line_width=10_000) for row in codes]
