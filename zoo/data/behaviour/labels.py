"""What clients do in a window, as labels of the challenge's six tasks.

Legend: n clients, T labels of a task.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from zoo.data.behaviour.log import BehaviourLog
from zoo.data.behaviour.windows import Windows
from zoo.data.dataset import DataError
from zoo.data.vocabulary import NUM_SPECIALS, UNKNOWN, Vocabulary

PROPENSITIES = ("propensity_category", "propensity_sku", "propensity_new_sku", "propensity_price")
TASKS = ("churn", "conversion", *PROPENSITIES)


@dataclass(frozen=True)
class Asked:
    """The labels of a propensity task.

    Attributes:
        rows: (T,) int64 rows of categories or products, or price buckets; -1 for one that the log does not have.
        popularity: (T,) float64 weight of each in the novelty score; only ratios matter.
    """

    rows: np.ndarray
    popularity: np.ndarray


@dataclass(frozen=True)
class Task:
    """One task of the judge.

    Attributes:
        name: one of `TASKS`.
        clients: (n,) bool: who counts, among the clients that were asked for.
        train, validation: (n, T) float32 labels of the two windows, a row for each client asked for.
        popularity: (T,) of a propensity's labels; None for churn and conversion.
    """

    name: str
    clients: np.ndarray
    train: np.ndarray
    validation: np.ndarray
    popularity: np.ndarray | None = None


def tasks(log: BehaviourLog, clients: np.ndarray, windows: Windows, size: int) -> dict[str, Task]:
    """The six tasks, for the clients (n,) with these rows.

    Where the owner does not say which labels a propensity has, they are the `size` most bought ones before the
    targets; new products are the most bought in the first window among those never bought before it. Churn counts
    clients with a purchase before the targets, or those whom the owner calls active. A price bucket that nobody knows,
    or a label that the log does not have, has no positives.

    Args:
        size: labels of each propensity.
    """
    everyone = np.ones(len(clients), bool)
    bought = [_none_bought(log, clients, *window) for window in (windows.train, windows.validation)]
    result = {
        "churn": Task("churn", _active(log, clients, windows), bought[0], bought[1]),
        "conversion": Task("conversion", everyone, bought[0], bought[1]),
    }
    purchases = [log.bought(clients, *window) for window in (windows.train, windows.validation)]
    for name, asked in labels_asked(log, windows, size).items():
        columns = [multi_hot(owner, of(log, name, ref), len(clients), asked.rows) for owner, ref in purchases]
        result[name] = Task(name, everyone, columns[0], columns[1], asked.popularity)
    return result


def of(log: BehaviourLog, task: str, product: np.ndarray) -> np.ndarray:
    """The category, price bucket or product itself, by the propensity task, of each product (m,); -1: none."""
    if task == "propensity_category":
        return log.products.category[product]
    if task == "propensity_price":
        return log.products.price[product]
    return product


def labels_asked(log: BehaviourLog, windows: Windows, size: int) -> dict[str, Asked]:
    """The labels of each propensity task: the owner's, or the most bought.

    Raises:
        DataError: the owner's labels and their popularities do not fit each other.
    """
    everyone = np.arange(len(log.clients))
    _, past = log.bought(everyone, log.time.min(), windows.start)
    _, soon = log.bought(everyone, *windows.train)
    known = np.zeros(len(log.products), bool)
    known[past] = True
    result = {}
    for name in PROPENSITIES:
        if name in log.asked:
            result[name] = _owners(log, name)
            continue
        bought = soon[~known[soon]] if name == "propensity_new_sku" else past
        values = of(log, name, bought)
        counts = np.bincount(values[values >= 0])
        best = np.argsort(-counts, kind="stable")[:size]
        best = best[counts[best] > 0].astype(np.int64)
        result[name] = Asked(best, counts[best].astype(np.float64))
    return {name: asked for name, asked in result.items() if len(asked.rows)}


def multi_hot(owner: np.ndarray, value: np.ndarray, n: int, labels: np.ndarray) -> np.ndarray:
    """(n, T) float32: 1 where a client has a value (m,) that is one of `labels` (T,).

    Args:
        owner: (m,) the client of each value.
    """
    column = np.full(max(int(value.max(initial=0)), int(labels.max(initial=0))) + 1, -1, np.int64)
    real = labels >= 0
    column[labels[real]] = np.flatnonzero(real)
    result = np.zeros((n, len(labels)), np.float32)
    found = np.where(value >= 0, column[np.maximum(value, 0)], -1)
    result[owner[found >= 0], found[found >= 0]] = 1.0
    return result


def _none_bought(log: BehaviourLog, clients: np.ndarray, start: int, end: int) -> np.ndarray:
    """(n, 1) float32: 1 where a client buys nothing in the window."""
    result = np.ones((len(clients), 1), np.float32)
    result[log.bought(clients, start, end)[0]] = 0.0
    return result


def _active(log: BehaviourLog, clients: np.ndarray, windows: Windows) -> np.ndarray:
    """(n,) bool: the owner's active clients, or who bought something before the targets."""
    if "active_clients" in log.asked:
        return np.isin(log.clients[clients], log.asked["active_clients"])
    result = np.zeros(len(clients), bool)
    result[log.bought(clients, int(log.time.min()), windows.start)[0]] = True
    return result


def _owners(log: BehaviourLog, name: str) -> Asked:
    """The labels that the log's owner asks for."""
    ids = log.asked[name]
    popularity = log.asked.get(f"popularity_{name}", np.ones(len(ids)))
    if len(popularity) != len(ids):
        raise DataError(f"{log.name}: {name} has {len(ids)} labels and {len(popularity)} popularities; wanted as many")
    if name == "propensity_price":
        return Asked(ids.astype(np.int64), popularity.astype(np.float64))
    known = log.categories if name == "propensity_category" else log.products.ids
    tokens = Vocabulary(known, len(known)).encode(ids).astype(np.int64)
    return Asked(np.where(tokens == UNKNOWN, -1, tokens - NUM_SPECIALS), popularity.astype(np.float64))
