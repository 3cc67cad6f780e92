"""Profiles: what is known of a client as arrays of fixed widths, one row a client, whatever the number of events.

    actions      (n, 5)        share of each kind among the events
    activity     (n, 11)       log(1 + events) of each kind; how fresh each is: 1 just before the cut-off, 0 a whole
                               period ago or never, in the logarithm of the days; and 1 where there is any event
    times        (n, 5, X)     kernel density of the times of each kind over the period, see `kde`
    sku, category, price       (n, 3, S) ids of the bags of purchases, carts and removals, see `bag`
    url          (n, 1, S)     the same of page visits
    query        (n, M, K)     codes of the last distinct queries
    ..._weight   (n, ., S)     share of each id among the events of its bag, (n, M) of each query; 0: padding

The period ends at the cut-off and is as long as the catalogue's. A client without events is a row of zeros.

Legend: n clients, m events, S ids of a bag, M queries, K codes of a query, X points in time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.special import ndtr

from zoo.data.behaviour.catalogue import BehaviourCatalogue
from zoo.data.behaviour.log import DAY, KINDS, NO_CODE, SEARCH, VISIT, WITH_PRODUCT, BehaviourLog, Snapshot
from zoo.data.vocabulary import NUM_SPECIALS, PAD, UNKNOWN

# What is seen of a client, in parts, and the arrays by which each is told.
PARTS = {
    "actions": "actions",
    "activity": "activity",
    "times": "times",
    "skus": "sku_weight",
    "categories": "category_weight",
    "prices": "price_weight",
    "urls": "url_weight",
    "queries": "query_weight",
}


@dataclass(frozen=True)
class Bag:
    """The most recent distinct values of each client.

    Attributes:
        ids: (n, S) int64, most recent first, PAD behind the last.
        event: (e,) int64 events that the bag is of.
        place: (e,) int64 flat place of each in `ids`, or -1 where its value was left out.
    """

    ids: np.ndarray
    event: np.ndarray
    place: np.ndarray

    def weights(self, kept: np.ndarray) -> np.ndarray:
        """(n, S) float32 share of each id among those events in the bag that are `kept`, (m,) bool of all events."""
        place = self.place[kept[self.event] & (self.place >= 0)]
        counts = np.bincount(place, minlength=self.ids.size).reshape(self.ids.shape)
        return (counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)).astype(np.float32)


def bag(event: np.ndarray, owner: np.ndarray, value: np.ndarray, n: int, size: int) -> Bag:
    """The last `size` distinct values of each of n clients.

    Args:
        event: (e,) numbers of the events.
        owner: (e,) int64 the client of each, ascending, his oldest event first.
        value: (e,) not negative.
    """
    ids = np.full((n, size), PAD, np.int64)
    if not len(event):
        return Bag(ids, event, np.zeros(0, np.int64))
    key = owner * (int(value.max()) + 1) + value
    order = np.argsort(key, kind="stable")
    ends = np.flatnonzero(np.diff(key[order], append=-1))
    latest = order[ends]  # of each pair of client and value
    # Latest first: clients come in turn, for events are sorted by them.
    turn = np.argsort(-latest)
    mine = owner[latest[turn]]
    starts = np.flatnonzero(np.diff(mine, prepend=-1))
    rank = np.arange(len(mine)) - np.repeat(starts, np.diff(starts, append=len(mine)))
    kept = rank < size
    slot = np.where(kept, mine * size + rank, -1)
    ids.reshape(-1)[slot[kept]] = value[latest[turn]][kept]
    by_pair = np.empty(len(turn), np.int64)
    by_pair[turn] = slot
    place = np.empty(len(event), np.int64)
    place[order] = np.repeat(by_pair, np.diff(ends, prepend=-1))
    return Bag(ids, event, place)


def kde(
    time: np.ndarray, group: np.ndarray, num_groups: int, points: int, bandwidth: float, boundary: str
) -> np.ndarray:
    """(num_groups, points) float32 density of times at evenly spaced points from 0 to 1: the mean of normal kernels,
    1 / (n h) sum_i phi((x - t_i) / h); zeros without events.

    Args:
        time: (m,) in [0, 1].
        group: (m,) what each is of.
        points: at least 2.
        bandwidth: h, the standard deviation of a kernel.
        boundary: `none`: what a kernel has outside of [0, 1] is lost; `reflect`: it is folded back in at both ends;
            `renormalise`: each kernel is divided by what it has inside.
    """
    time = time.astype(np.float32)
    h = np.float32(bandwidth)
    height = np.float32(1 / (math.sqrt(2 * math.pi) * bandwidth)) / np.maximum(
        np.bincount(group, minlength=num_groups), 1
    )
    inside = ndtr((1 - time) / h) - ndtr(-time / h) if boundary == "renormalise" else None
    result = np.empty((num_groups, points), np.float32)
    centres = [time, -time, 2 - time] if boundary == "reflect" else [time]
    for column, x in enumerate(np.linspace(0, 1, points, dtype=np.float32)):
        value = sum(np.exp(-0.5 * np.square((x - centre) / h)) for centre in centres)
        value = value if inside is None else value / inside
        result[:, column] = np.bincount(group, value, num_groups) * height
    return result


def text_tokens(codes: np.ndarray, length: int, num_codes: int) -> np.ndarray:
    """(q, length) int32 tokens of the codes (q, K) of texts: PAD behind the last, UNKNOWN from `num_codes` on."""
    codes = codes[:, :length].astype(np.int32)
    tokens = np.where(codes < num_codes, codes + NUM_SPECIALS, UNKNOWN)
    tokens = np.where(codes == NO_CODE, PAD, tokens)
    return np.pad(tokens, ((0, 0), (0, length - tokens.shape[1])), constant_values=PAD)


def table_sizes(catalogue: BehaviourCatalogue, config: Any) -> dict[str, int]:
    """Rows of the tables that the ids of bags are of, special tokens included."""
    return {
        "sku": min(catalogue.items.trained_size, NUM_SPECIALS + config.max_items),
        "category": catalogue.categories.size,
        "price": NUM_SPECIALS + catalogue.num_prices,
        "url": catalogue.urls.size + config.url_hash_size,
    }


class Profiles:
    """The profiles of a snapshot, of all its events or of those that a view keeps.

    Args:
        snapshot: in the tokens of the catalogue.
        config: of a model, with the knobs `grid`, `bandwidth`, `boundary`, `bag_size`, `num_queries`, `text_length`,
            `max_items` and `url_hash_size`.
    """

    def __init__(self, snapshot: Snapshot, catalogue: BehaviourCatalogue, config: Any):
        log: BehaviourLog = snapshot.log
        index, self.owner = snapshot.events()
        self.n, self.cut, self.lengths = len(snapshot), snapshot.cut, snapshot.lengths
        self.kind = log.kind[index].astype(np.int64)
        self.time, self.ref = log.time[index], log.ref[index].astype(np.int64)
        self.queries = log.queries
        self.catalogue, self.config = catalogue, config

    # ----------------------------------------------------------------------------------------------- what it is of

    @cached_property
    def bags(self) -> dict[str, list[Bag]]:
        """Bags by the name of their ids, one for each kind of event."""
        catalogue, config = self.catalogue, self.config
        sizes = table_sizes(catalogue, config)
        known = np.where(self.ref < sizes["sku"], self.ref, UNKNOWN)
        tail = catalogue.urls.size + (-1 - self.ref) % max(config.url_hash_size, 1)
        url = np.where(self.ref >= 0, self.ref, tail if config.url_hash_size else UNKNOWN)
        result: dict[str, list[Bag]] = {"sku": [], "category": [], "price": [], "url": []}
        for kind in WITH_PRODUCT:
            mine = np.flatnonzero(self.kind == kind)
            price = catalogue.price[self.ref[mine]].astype(np.int64)
            priced = price != NO_CODE
            result["sku"].append(self._bag(mine, known[mine]))
            result["category"].append(self._bag(mine, catalogue.category[self.ref[mine]].astype(np.int64)))
            result["price"].append(self._bag(mine[priced], price[priced] + NUM_SPECIALS))
        mine = np.flatnonzero(self.kind == VISIT)
        result["url"].append(self._bag(mine, url[mine]))
        return result

    @cached_property
    def searches(self) -> Bag:
        """The last distinct queries, whose ids are their rows in the log, plus one."""
        mine = np.flatnonzero(self.kind == SEARCH)
        return bag(mine, self.owner[mine], self.ref[mine] + 1, self.n, self.config.num_queries)

    def _bag(self, event: np.ndarray, value: np.ndarray) -> Bag:
        return bag(event, self.owner[event], value, self.n, self.config.bag_size)

    def ids(self) -> dict[str, np.ndarray]:
        """Ids of the bags and codes of the queries, the same in all views."""
        result = {name: np.stack([one.ids for one in bags], axis=1) for name, bags in self.bags.items()}
        result = {name: ids.astype(np.int32) for name, ids in result.items()}
        asked, length = self.searches.ids, self.config.text_length
        result["query"] = np.full((*asked.shape, length), PAD, np.int32)
        codes = self.queries[asked[asked > 0] - 1]
        result["query"][asked > 0] = text_tokens(codes, length, self.catalogue.num_codes)
        return result

    # ------------------------------------------------------------------------------------------ what is seen of it

    def seen(
        self, kept: np.ndarray | None = None, cut: np.ndarray | None = None, blank: np.ndarray | None = None
    ) -> dict[str, np.ndarray]:
        """The other arrays, of the events that are kept.

        Args:
            kept: (m,) bool, of the events of the snapshot in their order; None: all.
            cut: (n,) milliseconds, where it is not the snapshot's; no kept event is at or after it.
            blank: (n, len(PARTS)) bool: parts that are hidden, as if there were none.
        """
        kept = np.ones(len(self.kind), bool) if kept is None else kept
        cut = self.cut if cut is None else cut
        result = self._levels(kept, cut)
        for name, bags in self.bags.items():
            result[f"{name}_weight"] = np.stack([one.weights(kept) for one in bags], axis=1)
        result["query_weight"] = self.searches.weights(kept)
        for part, name in enumerate(PARTS.values()):
            if blank is not None:
                result[name][blank[:, part]] = 0
        return result

    def _levels(self, kept: np.ndarray, cut: np.ndarray) -> dict[str, np.ndarray]:
        config, kinds, span = self.config, len(KINDS), max(self.catalogue.span, 1)
        owner = self.owner[kept]
        group = owner * kinds + self.kind[kept]
        ago = (cut[owner] - self.time[kept]).astype(np.float64)  # milliseconds, above 0
        counts = np.bincount(group, minlength=self.n * kinds).reshape(self.n, kinds)
        latest = np.full(self.n * kinds, np.inf)
        latest[group] = ago  # the last assignment counts: the latest event of each kind
        with np.errstate(invalid="ignore"):
            fresh = 1 - np.log1p(latest / DAY) / math.log1p(span / DAY)
        fresh = np.where(np.isinf(latest), 0, np.clip(fresh, 0, 1)).reshape(self.n, kinds)
        total = counts.sum(axis=1, keepdims=True)
        time = np.clip(1 - ago / span, 0, 1)  # what is older than the period counts as just as old
        times = kde(time, group, self.n * kinds, config.grid, config.bandwidth, config.boundary)
        activity = np.concatenate([np.log1p(counts), fresh, total > 0], axis=1)
        return {
            "actions": (counts / np.maximum(total, 1)).astype(np.float32),
            "activity": activity.astype(np.float32),
            "times": times.reshape(self.n, kinds, config.grid),
        }


def profile(snapshot: Snapshot, catalogue: BehaviourCatalogue, config: Any) -> dict[str, np.ndarray]:
    """All arrays of all that is known."""
    profiles = Profiles(snapshot, catalogue, config)
    return profiles.ids() | profiles.seen()
