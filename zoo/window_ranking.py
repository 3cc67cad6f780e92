"""How far a recommender's lists hold what clients buy behind the cut-off, beside lists that need no learning.

Products and categories are ranked for each client who bought in the windows of targets; the whole catalogue is ranked,
what a client knows included, for people buy again. What the catalogue does not know of is found by nobody and counts.

Legend: C clients who bought, V tokens of a vocabulary, U width of a vector.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from config import EvaluateConfig
from zoo import artifacts, registry
from zoo.data.behaviour.prepared import BehaviourPrepared
from zoo.data.catalogue import Catalogue
from zoo.data.histories import Histories
from zoo.data.vocabulary import Vocabulary
from zoo.evaluation import evaluate
from zoo.recommender import Baseline, Scorer

METRICS = ("hit_rate@10", "recall@10", "ndcg@10")
BASELINES = ("most_popular", "repeat_last")
_NOBODY = Vocabulary(np.zeros(0, np.int64), 0)  # users have no tokens: a history's `user` is a place among the buyers


class _Vectors(Scorer):
    """score(user, item) = <user, item>."""

    def __init__(self, catalogue: Catalogue, users: np.ndarray, items: np.ndarray):
        self.catalogue, self.users, self.items = catalogue, users, items

    def score(self, histories: Histories) -> np.ndarray:
        return self.users[histories.user] @ self.items.T


def rank(prepared: BehaviourPrepared, title: str, users: np.ndarray, tables: dict[str, np.ndarray]) -> dict[str, Any]:
    """Rows of a table by what is ranked and who ranks it.

    Args:
        prepared: its windows hold the purchases that are to be found.
        title: of the model.
        users: (n, U) vectors of `prepared.everyone()`.
        tables: (V, U) vectors by token, of `product` and of `category`; one of zeros alone was not learned.

    Returns:
        {"clients": C, "rows": {"product": {title: {metric: mean}}}}, with `interval` of ndcg@10; no rows where nobody
        bought.
    """
    assert prepared.windows is not None
    everyone, log = prepared.everyone(), prepared.tokens
    place, product = log.bought(everyone.client, prepared.windows.start, prepared.windows.end)
    buyers, client = np.unique(place, return_inverse=True)
    known, products = everyone.take(buyers).products(), prepared.catalogue
    categories = np.bincount(products.category, products.buy_counts, minlength=products.categories.size)
    config = EvaluateConfig(top_k=(10,), exclude_seen=False)
    rows: dict[str, Any] = {}
    for what, vocabulary, of_product, popular in (
        ("product", products.items, np.arange(products.items.size), products.buy_counts),
        ("category", products.categories, products.category, categories.astype(np.int64)),
    ):
        if not len(buyers) or not tables[what].any():
            continue
        target = np.unique(client * vocabulary.size + of_product[product])  # each once, also what has no token
        offsets = np.searchsorted(target, np.arange(len(buyers) + 1) * vocabulary.size)
        place = np.arange(len(buyers))
        targets = Histories(place, offsets, target % vocabulary.size)
        histories = Histories(place, known.offsets, of_product[known.item])
        catalogue = Catalogue(_NOBODY, vocabulary, popular)
        rankers: dict[str, Scorer] = {title: _Vectors(catalogue, users[buyers], tables[what])}
        rankers |= {name: _counted(name, catalogue) for name in BASELINES}
        rows[what] = {}
        for name, ranker in rankers.items():
            found = evaluate(ranker, histories, targets, catalogue, config)
            rows[what][name] = found.metrics | {"interval": found.intervals["ndcg@10"]}
    return {"clients": len(buyers), "rows": rows}


def _counted(name: str, catalogue: Catalogue) -> Baseline:
    """A baseline that counts purchases; of most events, which are visits, it would make another list."""
    model: Any = artifacts.build(name, registry.get(name).preset("base"), catalogue)
    model.set_arrays({"counts": catalogue.item_counts.astype(np.float32)})
    return model


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
