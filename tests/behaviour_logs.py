"""Random logs of behaviour, with everything that a real one may lack."""

from dataclasses import replace

import numpy as np

from config import BehaviourConfig
from zoo.data.behaviour import catalogue as catalogues
from zoo.data.behaviour.log import BUY, DAY, NO_CODE, SEARCH, VISIT, BehaviourLog, Products
from zoo.data.behaviour.prepared import prepare, prepare_as

CODES = 8  # of words, from 0
SECTION = BehaviourConfig(min_visits=4)


def texts(rng, count, length):
    """(count, length) codes; some texts are shorter, some empty."""
    codes = rng.integers(0, CODES, (count, length)).astype(np.int16)
    codes[np.arange(length)[None, :] >= rng.integers(0, length + 3, count)[:, None]] = NO_CODE
    return codes


def random_log(seed=0, clients=40, products=12, categories=4, urls=30, queries=9, days=80, counts=None):
    """Clients without events, products without category, price or name, times that tie."""
    rng = np.random.default_rng(seed)
    if counts is None:
        counts = rng.poisson(rng.gamma(1.5, 13.0, clients))
        counts[:2] = 0, 90
    clients = len(counts)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    owner = np.repeat(np.arange(clients), counts)
    time = (rng.integers(0, days * 24, len(owner)) * (DAY // 24)).astype(np.int64) + 1_600_000_000_000 // DAY * DAY
    kind = rng.choice(5, len(owner), p=[0.2, 0.2, 0.1, 0.4, 0.1]).astype(np.int8)
    last = np.flatnonzero(owner == 1)[-1]
    time[last], kind[last] = 1_600_000_000_000 // DAY * DAY + days * DAY, BUY  # the windows' end
    order = np.lexsort((kind, time, owner))
    kind, time = kind[order], time[order]
    size = np.select([kind == VISIT, kind == SEARCH], [urls, queries], products)
    ref = (rng.random(len(kind)) ** 2 * size).astype(np.int32)
    category = rng.integers(0, categories, products).astype(np.int32)
    price = rng.integers(0, 10, products).astype(np.int16)
    category[:1], price[1:2] = NO_CODE, NO_CODE
    table = Products(100 + np.arange(products), category, price, texts(rng, products, 5))
    return BehaviourLog(
        1_000 + np.arange(clients),
        offsets,
        kind,
        time,
        ref,
        table,
        50 + np.arange(categories),
        7 * np.arange(urls),
        texts(rng, queries, 6),
        name="random",
    )


def faithful_log(seed=0, clients=60, categories=4, days=80):
    """Every other client buys twice a week, mostly one product of a category of his own; the others visit as often."""
    rng = np.random.default_rng(seed)
    log = random_log(seed, products=8 * categories, categories=categories, counts=np.full(clients, 2 * days // 7))
    owner = np.repeat(np.arange(clients), np.diff(log.offsets))
    time = rng.integers(0, days * 24, len(owner)) * (DAY // 24) + 1_600_000_000_000 // DAY * DAY
    time = time[np.lexsort((time, owner))]
    kind = np.where(owner % 2, BUY, VISIT).astype(np.int8)
    place = np.where(rng.random(len(owner)) < 0.8, owner // (2 * categories) % 8, rng.integers(0, 8, len(owner)))
    product = owner // 2 % categories * 8 + place
    category = (np.arange(8 * categories) // 8).astype(np.int32)
    return replace(
        log,
        time=time,
        kind=kind,
        ref=np.where(kind == BUY, product, rng.integers(0, len(log.urls), len(owner))).astype(np.int32),
        products=replace(log.products, category=category),
    )


def prepared(log=None, section=SECTION):
    """A log cut before its official windows."""
    return prepare(random_log() if log is None else log, section)


def prepared_alike(log, other):
    """`log` in the tokens, and at the cut-off, of an earlier preparation."""
    return prepare_as(log, other.catalogue, other.cut, other.windows)


__all__ = ["CODES", "SECTION", "catalogues", "faithful_log", "prepared", "prepared_alike", "random_log", "texts"]
