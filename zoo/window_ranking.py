"""How far a recommender's lists hold what clients buy behind the cut-off, beside lists that need no learning.

Products and categories are ranked for each client who bought in the windows of targets; the whole catalogue is ranked,
what a client knows included, for people buy again. Scores that are equal lose. What the catalogue does not know of is
found by nobody and counts.

Legend: C clients who bought, V tokens of a vocabulary, U width of a vector, T targets.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from zoo import metrics
from zoo.data.behaviour.prepared import BehaviourPrepared
from zoo.data.vocabulary import NUM_SPECIALS

METRICS = {"hit_rate@10": metrics.hit_rate, "recall@10": metrics.recall, "ndcg@10": metrics.ndcg}
MOST_POPULAR, REPEAT_LAST = "most_popular", "repeat_last"
_CELLS = 2**24  # scores at once
Scores = Callable[[np.ndarray], np.ndarray]  # of clients, as rows of the snapshot, to (n, V)


def rank(prepared: BehaviourPrepared, title: str, users: np.ndarray, tables: dict[str, np.ndarray]) -> dict[str, Any]:
    """Rows of a table by what is ranked and who ranks it.

    Args:
        prepared: its windows hold the purchases that are to be found.
        title: of the model.
        users: (n, U) vectors of `prepared.everyone()`.
        tables: (V, U) vectors by token, of `product` and of `category`; one of zeros alone was not learned.

    Returns:
        {"clients": how many bought, "rows": {"product": {title: {metric: mean}}}}, with `interval` of ndcg@10; no rows
        where nobody bought.
    """
    assert prepared.windows is not None
    everyone, log = prepared.everyone(), prepared.tokens
    place, product = log.bought(everyone.client, prepared.windows.start, prepared.windows.end)
    buyers, client = np.unique(place, return_inverse=True)
    known, products = everyone.take(buyers).products(), prepared.catalogue
    categories = np.bincount(products.category, products.buy_counts, minlength=products.categories.size)
    rows: dict[str, Any] = {}
    for what, of_product, popular in (
        ("product", np.arange(products.items.size), products.buy_counts),
        ("category", products.category, categories),
    ):
        if not len(buyers) or not tables[what].any():
            continue
        count = len(tables[what])
        owner, target = np.divmod(np.unique(client * count + of_product[product]), count)
        offsets = np.searchsorted(owner, np.arange(len(buyers) + 1))
        rankers: dict[str, Scores] = {
            title: lambda block, what=what: users[buyers[block]] @ tables[what].T,
            MOST_POPULAR: lambda block, popular=popular: np.broadcast_to(popular, (len(block), len(popular))),
            REPEAT_LAST: _last(known.offsets, of_product[known.item], popular),
        }
        size = max(_CELLS // count, 1)
        rows[what] = {
            name: _measure(_ranks(scores, offsets, target, size), offsets) for name, scores in rankers.items()
        }
    return {"clients": len(buyers), "rows": rows}


def markdown(ranked: dict[str, Any]) -> str:
    """The table for people."""
    head = f"what {ranked['clients']:,} clients bought behind the cut-off, ranked before it"
    lines = [f"| {head} | {' | '.join(METRICS)} |", "|---|" + "---|" * len(METRICS)]
    for what, rankers in ranked["rows"].items():
        for name, row in rankers.items():
            low, high = row["interval"]
            numbers = " | ".join(f"{row[metric]:.4f}" for metric in METRICS)
            lines.append(f"| {what}, {name} | {numbers} [{low:.4f}, {high:.4f}] |")
    return "\n".join(lines)


def _last(offsets: np.ndarray, tokens: np.ndarray, popular: np.ndarray) -> Scores:
    """Scores by which a client's own come first, the latest at the top, then all others by how popular they are."""

    others = popular / (popular.max(initial=0) + 1.0)  # below 1

    def scores(block: np.ndarray) -> np.ndarray:
        result = np.tile(others, (len(block), 1))
        for row, client in enumerate(block):
            mine = tokens[offsets[client] : offsets[client + 1]]
            np.maximum.at(result[row], mine, np.arange(1, len(mine) + 1, dtype=float))
        return result

    return scores


def _ranks(scores: Scores, offsets: np.ndarray, target: np.ndarray, size: int) -> np.ndarray:
    """(T,) where the targets stand, found for `size` clients at once; a special token stands nowhere."""
    result = np.full(len(target), metrics.MISS, np.int64)
    for start in range(0, len(offsets) - 1, size):
        block = np.arange(start, min(start + size, len(offsets) - 1))
        found = scores(block)[:, NUM_SPECIALS:]
        for row, client in enumerate(block):
            mine = np.arange(offsets[client], offsets[client + 1])
            mine = mine[target[mine] >= NUM_SPECIALS]
            result[mine] = [np.count_nonzero(found[row] >= found[row, token - NUM_SPECIALS]) for token in target[mine]]
    return result


def _measure(ranks: np.ndarray, offsets: np.ndarray) -> dict[str, Any]:
    values = {name: metric(ranks, offsets, 10) for name, metric in METRICS.items()}
    means: dict[str, Any] = {name: float(value.mean()) for name, value in values.items()}
    return means | {"interval": list(metrics.bootstrap(values["ndcg@10"], 1000))}
