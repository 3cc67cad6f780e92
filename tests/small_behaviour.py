"""Small logs of behaviour, written by hand or drawn."""

import numpy as np

from zoo.data.behaviour.log import DAY, NO_CODE, SEARCH, VISIT, BehaviourLog, Products

START = 20_000 * DAY  # milliseconds: 2024-10-04, a Friday


def log_of(events, num_clients, *, category, price, names=None, queries=None, num_urls=5, **more):
    """A log of (client, kind, day, ref), days counted from START."""
    events = sorted(events, key=lambda event: (event[0], event[2], event[1]))
    client = np.array([event[0] for event in events], np.int64)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(client, minlength=num_clients))]).astype(np.int64)
    category, price = np.array(category, np.int32), np.array(price, np.int16)
    names = np.full((len(category), 2), NO_CODE, np.int16) if names is None else np.array(names, np.int16)
    queries = np.zeros((0, 2), np.int16) if queries is None else np.array(queries, np.int16)
    return BehaviourLog(
        more.pop("clients", 100 + np.arange(num_clients, dtype=np.int64)),
        offsets,
        np.array([event[1] for event in events], np.int8),
        np.array([START + round(event[2] * DAY) for event in events], np.int64),
        np.array([event[3] for event in events], np.int32),
        Products(1000 + np.arange(len(category)), category, price, names),
        50 + np.arange(int(category.max(initial=0)) + 1),
        7 + np.arange(num_urls),
        queries,
        **more,
    )


def drawn(seed=0, num_clients=12, num_events=400, days=100, num_products=9):
    """A random log: ties in time, products without category or price, the last client without events."""
    rng = np.random.default_rng(seed)
    category = rng.integers(-1, 4, num_products)
    price = rng.integers(-1, 20, num_products)
    names = rng.integers(-1, 256, (num_products, 4))
    queries = rng.integers(0, 256, (6, 3))
    events = []
    for _ in range(num_events):
        kind = int(rng.integers(0, 5))
        ref = int(rng.integers(0, {VISIT: 5, SEARCH: 6}.get(kind, num_products)))
        client = int(rng.integers(0, num_clients - 1)) % max(1, int(rng.integers(1, num_clients)))
        events.append((client, kind, float(np.round(rng.uniform(0, days), 1)), ref))
    return log_of(events, num_clients, category=category, price=price, names=names, queries=queries)
