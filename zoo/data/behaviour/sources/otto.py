"""Layout `otto`: sessions as clients; a click visits an article's page, a cart adds it, an order buys it."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from config import DataConfig
from zoo.data.behaviour.ingest import collect
from zoo.data.behaviour.log import ADD, BUY, VISIT, BehaviourLog
from zoo.data.sources import otto
from zoo.data.sources.connection import connect

KIND_OF = {"clicks": VISIT, "carts": ADD, "orders": BUY}


def read(path: str, data: DataConfig) -> BehaviourLog:
    """The log of a file of sessions. Articles have no properties.

    Raises:
        DataError: what `zoo.data.sources.otto` raises.
    """
    dataset = otto.read(path, data)
    events, action = dataset.events, dataset.events.columns["action"]
    connection = connect(data.cache_dir)
    assert events.timestamp is not None  # of this layout
    selects = {}
    for name, kind in KIND_OF.items():
        if name not in dataset.labels["action"]:
            continue
        mine = np.flatnonzero(action == dataset.labels["action"].index(name))
        columns = (dataset.users.ids[events.user[mine]], events.timestamp[mine], dataset.items.ids[events.item[mine]])
        connection.register(name, pa.table(dict(zip(("client", "timestamp", "ref"), columns, strict=True))))
        selects[kind] = f"SELECT * FROM {name}"
    return collect(connection, selects, None, name=dataset.name, notes=dataset.notes)
