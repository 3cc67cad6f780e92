"""Layout `synerise`: the RecSys Challenge 2025 as interactions: purchases, carts and removals of products.

What else clients did (visits, searches) is for models of behaviour, which read the whole folder.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from config import DataConfig
from zoo.data.behaviour.log import NO_CODE, WITH_PRODUCT
from zoo.data.behaviour.sources import synerise
from zoo.data.dataset import Dataset, Entities, Events

ACTIONS = ("buy", "cart", "remove")  # of the kinds WITH_PRODUCT


def inputs(path: str, data: DataConfig) -> list[Path]:
    """All files that are read."""
    return synerise.inputs(path)


def read(path: str, data: DataConfig) -> Dataset:
    """Events with actions, and products with category, price bucket and the codes of their names.

    Raises:
        DataError: a column that is missing, a time or code that cannot be read.
    """
    log = synerise.read(path, data, WITH_PRODUCT)
    user = np.repeat(np.arange(len(log.clients), dtype=np.int32), np.diff(log.offsets))
    there = np.flatnonzero(np.bincount(user, minlength=len(log.clients)))
    row = np.zeros(len(log.clients), np.int32)
    row[there] = np.arange(len(there))
    products = log.products
    category = np.where(products.category == NO_CODE, None, log.categories.astype(object)[products.category])
    columns = {
        "category": np.array([None if value is None else str(value) for value in category], object),
        "price_bucket": np.where(products.price == NO_CODE, np.nan, products.price.astype(float)),
    }
    return Dataset(
        Events(row[user], log.ref, log.time, {"action": log.kind.astype(np.int16)}),
        Entities(log.clients[there]),
        Entities(products.ids, columns),
        labels={"action": ACTIONS},
        name=log.name,
        notes=log.notes,
    )
