"""What clients do in the window behind a cut-off, as the labels of a batch.

Legend: n examples, M examples of a batch, P positives of an example, C candidates, S names drawn, T labels, K codes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from zoo.data.behaviour.catalogue import BehaviourCatalogue
from zoo.data.behaviour.log import ADD, BUY, DAY, BehaviourLog, Snapshot
from zoo.data.vocabulary import NUM_SPECIALS, PAD

PART = 200_000  # examples whose windows are looked at together
TOP = 10  # labels whose popularity sums to one, as in the challenge's novelty
NO_CANDIDATE = 1e9  # log-probability of what only fills a batch up: no score outweighs it


@dataclass(frozen=True)
class Futures:
    """What each of n examples takes in its window; of its input nothing.

    Attributes:
        offsets: (n + 1,) int64; example r takes `product[offsets[r]:offsets[r + 1]]`.
        product: (m,) int32 tokens, each once an example.
        bought: (m,) bool: a purchase; else a cart alone.
        active: (n,) bool: whether he bought something before the cut-off.
    """

    offsets: np.ndarray
    product: np.ndarray
    bought: np.ndarray
    active: np.ndarray

    def of(self, examples: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of M examples: place (m,) int64 among them, ascending, product and whether it was bought."""
        counts = self.offsets[examples + 1] - self.offsets[examples]
        place = np.repeat(np.arange(len(examples)), counts)
        index = np.arange(len(place)) - np.repeat(np.cumsum(counts) - counts, counts) + self.offsets[examples][place]
        return place, self.product[index], self.bought[index]


def futures(examples: Snapshot, days: int, carts: bool) -> Futures:
    """What the examples' clients take in the `days` days from each cut-off on.

    Args:
        examples: in tokens.
        carts: whether products put into carts count, besides those bought.
    """
    log = examples.log
    parts = []
    for start in range(0, len(examples), PART):
        now = examples.take(slice(start, start + PART))
        index, owner = replace(log.at(now.cut + days * DAY, now.client), first=now.last).events()
        kind = log.kind[index]
        taken = (kind == BUY) | ((kind == ADD) & carts)
        index, owner, kind = index[taken], owner[taken] + start, kind[taken]
        product = log.ref[index]
        order = np.lexsort((kind, product, owner))  # a purchase comes before a cart of the same product
        product, owner, kind = product[order], owner[order], kind[order]
        new = np.ones(len(order), bool)
        new[1:] = (np.diff(product) != 0) | (np.diff(owner) != 0)
        parts.append((owner[new], product[new], kind[new] == BUY))
    parts = parts or [(np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0, bool))]
    owner, product, bought = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    offsets = np.zeros(len(examples) + 1, np.int64)
    np.cumsum(np.bincount(owner, minlength=len(examples)), out=offsets[1:])
    return Futures(offsets, product, bought, first_purchases(log)[examples.client] < examples.cut)


def first_purchases(log: BehaviourLog) -> np.ndarray:
    """(C,) int64 time of each client's first purchase; the end of time where there is none."""
    index = np.flatnonzero(log.kind == BUY)
    owner = np.searchsorted(log.offsets, index, "right") - 1
    result = np.full(len(log.clients), np.iinfo(np.int64).max)
    result[owner[::-1]] = log.time[index[::-1]]  # the last assignment to a client is his first purchase's
    return result


class Candidates:
    """The labels among which a batch finds its positives: all of them where they are few, else its own and a sample.

    Args:
        tokens: (T,) int32, ascending.
        counts: (T,) how often each was bought.
        most: C, where there are more labels than that.
        power: labels are drawn as (count + 1) ** power.
    """

    def __init__(self, tokens: np.ndarray, counts: np.ndarray, most: int, power: float):
        if not len(tokens):  # a row of logits has a column at least
            tokens, counts = np.full(1, PAD, np.int32), np.zeros(1)
        self.tokens = tokens
        self.most = most
        self.popularity = (counts / max(np.sort(counts)[-TOP:].sum(), 1)).astype(np.float32)
        share = (counts + 1.0) ** power
        self._mass = np.cumsum(share / max(share.sum(), 1e-12))
        self._log_q = np.log(share / max(share.sum(), 1e-12)).astype(np.float32)

    @property
    def few(self) -> bool:
        """Whether all labels are candidates of every batch."""
        return len(self.tokens) <= self.most

    def of(self, wanted: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """(m,) column of each wanted token among the batch's candidates, -1 where it is none, and, by name,

        candidates  (C,) int32 tokens; PAD fills them up
        log_q       (C,) float32 log of how likely each is drawn, to be taken off its score; zeros where all are there
        popularity  (C,) float32 purchases, over those of the ten most bought labels

        Nothing is drawn until it fits: draws that repeat are dropped, and positives beyond half of C are left out.
        """
        place = np.minimum(np.searchsorted(self.tokens, wanted), len(self.tokens) - 1)
        known = (self.tokens[place] == wanted) & (wanted != PAD)
        if self.few:
            zeros = np.zeros(len(self.tokens), np.float32)
            return np.where(known, place, -1), {
                "candidates": self.tokens,
                "log_q": zeros,
                "popularity": self.popularity,
            }
        own = np.unique(place[known])
        if len(own) > self.most // 2:
            own = rng.choice(own, self.most // 2, replace=False)
        drawn = draw(self._mass, self.most - len(own), rng)
        chosen = np.union1d(own, drawn)
        extra = self.most - len(chosen)
        column = np.minimum(np.searchsorted(chosen, place), len(chosen) - 1)
        column = np.where(known & (chosen[column] == place), column, -1)
        return column, {
            "candidates": np.concatenate([self.tokens[chosen], np.full(extra, PAD, np.int32)]),
            "log_q": np.concatenate([self._log_q[chosen], np.full(extra, NO_CANDIDATE, np.float32)]),
            "popularity": np.concatenate([self.popularity[chosen], np.zeros(extra, np.float32)]),
        }


class Labels:
    """Labels and weights of the tasks, of any examples.

    Args:
        examples: (client, cut-off) pairs, in tokens.
        days: length of the windows behind the cut-offs.
        model: knobs `cart_weight`, `inactive_weight`, `max_positives`, `num_candidates`, `name_negatives` and
            `popularity_power`.
    """

    def __init__(self, examples: Snapshot, catalogue: BehaviourCatalogue, days: int, model: Any):
        self.catalogue = catalogue
        self.model = model
        self.futures = futures(examples, days, model.cart_weight > 0)
        products = np.arange(NUM_SPECIALS, catalogue.items.trained_size, dtype=np.int32)
        categories = np.arange(NUM_SPECIALS, catalogue.categories.size, dtype=np.int32)
        bought = np.bincount(catalogue.category, catalogue.buy_counts, catalogue.categories.size)
        rules = (model.num_candidates, model.popularity_power)
        self.candidates = {
            "category": Candidates(categories, bought[categories], *rules),
            "sku": Candidates(products, catalogue.buy_counts[products], *rules),
        }
        self._named = catalogue.name[:, 0] >= 0
        self._fingerprint = fingerprints(catalogue.name)
        share = np.where(self._named, (catalogue.buy_counts + 1.0) ** model.popularity_power, 0.0)
        share[:NUM_SPECIALS] = share[catalogue.items.trained_size :] = 0.0
        self._name_mass = np.cumsum(share / max(share.sum(), 1e-12))

    def batch(
        self, examples: np.ndarray, size: int, rng: np.random.Generator
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """(y, weight) of at most M = `size` examples; the rest weighs nothing.

        y["churn"]               (M,) float32 1 where nothing is bought
        y["category"], y["sku"]  (M, P) int32 columns of the positives among the candidates
        y["price"]               (M, P) int32 price buckets of what is taken
        y["..._share"]           (M, P) float32 of these three: 1 of a purchase, `cart_weight` of a cart, 0: none
        y["category_..."], y["sku_..."]  what `Candidates.of` gives
        y["mean_price"]          (M,) float32 mean bucket of what is bought, over the number of buckets
        y["name"]                (M,) int32 a product with a name that is bought
        y["name_negatives"]      (S,) int32 products with names, drawn
        y["name_excluded"]       (M, M + S) bool: neither the name of row m's column m nor a negative of it: what has
                                 the same name, and what fills the batch up
        weight                   (M,) float32 by task: churn counts active clients fully and others by
                                 `inactive_weight`; the others count where there is a positive, by the largest share
        """
        model, price = self.model, self.catalogue.price
        owner, product, bought = self.futures.of(examples)
        share = np.where(bought, 1.0, model.cart_weight).astype(np.float32)
        none = np.ones(size, np.float32)
        none[owner[bought]] = 0.0
        y: dict[str, np.ndarray] = {"churn": none}
        weight = {"churn": np.zeros(size, np.float32)}
        weight["churn"][: len(examples)] = np.where(self.futures.active[examples], 1.0, model.inactive_weight)

        def add(task: str, value: np.ndarray) -> None:
            real = value >= 0
            y[task], y[f"{task}_share"] = padded(
                owner[real], value[real], share[real], (size, model.max_positives), rng
            )
            weight[task] = y[f"{task}_share"].max(axis=1)

        for task, value in (("category", self.catalogue.category[product]), ("sku", product)):
            column, told = self.candidates[task].of(value, rng)
            add(task, column)
            y |= {f"{task}_{name}": array for name, array in told.items()}
        add("price", price[product].astype(np.int64))
        paid = bought & (price[product] >= 0)
        count = np.maximum(np.bincount(owner[paid], minlength=size), 1)
        total = np.bincount(owner[paid], price[product[paid]], size)
        y["mean_price"] = (total / count / max(self.catalogue.num_prices, 1)).astype(np.float32)
        weight["mean_price"] = (np.bincount(owner[paid], minlength=size) > 0).astype(np.float32)
        y["name"], weight["name"], y["name_negatives"], y["name_excluded"] = self._names(
            owner[bought], product[bought], size, rng
        )
        return y, weight

    def _names(
        self, owner: np.ndarray, product: np.ndarray, size: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        named = self._named[product]
        owner, product = owner[named], product[named]
        order = rng.permutation(len(owner))
        name, weight = np.full(size, PAD, np.int32), np.zeros(size, np.float32)
        name[owner[order]], weight[owner] = product[order], 1.0
        count, nothing = self.model.name_negatives, not self._name_mass[-1] > 0
        drawn = np.full(count, PAD) if nothing else draw(self._name_mass, count, rng)
        column = self._fingerprint[np.concatenate([name, drawn])]
        excluded = column[:size, None] == column[None, :]
        excluded[:, :size] |= (weight == 0)[None, :]
        excluded[:, size:] |= nothing
        np.fill_diagonal(excluded, False)
        return name, weight, drawn.astype(np.int32), excluded


def draw(mass: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """(count,) int64 places, each as likely as its step of the summed shares `mass` (T,)."""
    return np.minimum(np.searchsorted(mass, rng.random(count) * mass[-1], "right"), len(mass) - 1)


def padded(
    owner: np.ndarray, value: np.ndarray, share: np.ndarray, shape: tuple[int, int], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Distinct values of each row, with the largest share of each; where there are too many, those of the largest
    shares, among equal ones any.

    Args:
        owner, value, share: (m,) the row of each value, and how much it counts.
        shape: (M, P).

    Returns:
        (M, P) int32 values, 0 where there is none, and (M, P) float32 shares, 0 where there is none.
    """
    order = np.lexsort((-share, value, owner))
    new = np.ones(len(order), bool)
    new[1:] = (np.diff(owner[order]) != 0) | (np.diff(value[order]) != 0)
    owner, value, share = owner[order][new], value[order][new], share[order][new]
    order = np.lexsort((rng.random(len(owner)), -share, owner))
    owner, value, share = owner[order], value[order], share[order]
    rank = np.arange(len(owner)) - np.searchsorted(owner, owner)
    fits = rank < shape[1]
    values, shares = np.zeros(shape, np.int32), np.zeros(shape, np.float32)
    values[owner[fits], rank[fits]], shares[owner[fits], rank[fits]] = value[fits], share[fits]
    return values, shares


def fingerprints(codes: np.ndarray) -> np.ndarray:
    """(T,) uint64 of texts (T, K): practically never equal where the codes are not."""
    factors = 2 * np.random.default_rng(0).integers(1, 2**63, (codes.shape[1],), dtype=np.uint64) + 1
    result = np.zeros(len(codes), np.uint64)
    for k in range(codes.shape[1]):
        result = (result ^ (codes[:, k].astype(np.int64).astype(np.uint64) + np.uint64(2))) * factors[k]
        result ^= result >> np.uint64(29)
    return result
