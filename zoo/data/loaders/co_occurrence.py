"""Co-occurrence: pairs of items that occurred together, in a basket, in a session, or near each other.

Legend: B batch, E events, G groups, U users, L history, n histories.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from config import RunConfig
from zoo.data.catalogue import Catalogue
from zoo.data.cleaning import sessions
from zoo.data.histories import Histories
from zoo.data.interactions import event_weights
from zoo.data.loaders.loader import Loader
from zoo.data.negatives import KnownPairs
from zoo.data.vocabulary import NUM_SPECIALS


class CoOccurrenceLoader(Loader):
    """Pairs of different items of one group, in random direction. A group is

    a session   a run of a user's events without a silence of over `data.session_gap` minutes, and
    a basket    a user's events of the same time, as the lines of an order, where that is not a whole session;

    or, where the log has no times, an event and the `model.window` ones that follow it in the history. An item counts
    once a group; an event of weight 0 or of an unknown item is in none.

    Of a group and epoch come at most `model.group_pairs` pairs, of a user at most `model.user_pairs`, so that nobody
    who does everything decides what goes with what: up to the cap each pair comes once, above it so many are drawn. A
    batch is

        x["history"]    (B, 1) int32 the anchor: a history of one event
        x["known"]      (B, 2B) bool, with `model.mask_known`: the session of row b's pair (its basket, where no
                        sessions are drawn from; without times, the user's history) holds the batch's anchor c, or the
                        positive c - B, which is then no negative of it
        y               (B,) int32 the positive
        weight          (B,) float32: the geometric mean of the two events' column `weight`

    Attributes:
        lonely: tokens of the trained items that are in no pair.
    """

    remedy = "no two items occur together; a larger data.session_gap (minutes) makes longer sessions"

    def __init__(self, histories: Histories, catalogue: Catalogue, config: RunConfig):
        super().__init__(histories, catalogue, config)
        model: Any = config.model
        if histories.timestamp is None:
            self.pairs = neighbours(histories, model.window, model.user_pairs)
        else:
            caps = (model.group_pairs, model.user_pairs)
            self.pairs = together(histories, histories.timestamp, config.data.session_gap, model.pairs_from, *caps)
        trained = np.arange(NUM_SPECIALS, catalogue.items.trained_size)
        self.lonely = np.setdiff1d(trained, self.pairs.paired_items)
        if len(self.lonely):
            print(f"{len(self.lonely):,} of {len(trained):,} items occur with no other; nothing is learned of them")
        self._known = None
        if model.mask_known:
            groups = np.arange(len(self.pairs.starts) - 1, dtype=np.int32)
            self._known = KnownPairs(Histories(groups, self.pairs.starts, self.pairs.item), catalogue.items.size)

    @property
    def num_examples(self) -> int:
        return self.pairs.num_examples

    def batch(self, rows: np.ndarray, real: np.ndarray, rng: np.random.Generator) -> tuple[dict, Any, Any]:
        first, second, group = self.pairs.draw(rows, rng)
        turned = rng.random(len(rows)) < 0.5
        first, second = np.where(turned, second, first), np.where(turned, first, second)
        anchor, positive = self.pairs.item[first], self.pairs.item[second]
        x = {"history": anchor[:, None]}
        if self._known is not None:
            x["known"] = self._known.among(self.pairs.session[group], np.concatenate([anchor, positive]))
        weight = np.sqrt(self.pairs.weight[first] * self.pairs.weight[second]) * (anchor != positive)
        return x, positive, (weight * real).astype(np.float32)

    @staticmethod
    def inputs(histories: Histories, catalogue: Catalogue, model_config: Any) -> dict[str, np.ndarray]:
        return {"history": histories.padded(model_config.max_length)}


class Pairs:
    """Pairs of events, numbered but never listed: a session of n items has n(n - 1) / 2 of them.

    Args:
        item, weight: (E,) of the events, group after group, all groups of a user next to each other.
        partners: (E,) each event is a pair with each of so many events right after it.
        starts: (G + 1,) group g is the events [starts[g], starts[g + 1]).
        owner: (G,) whose each group is; ascending.
        session: (G,) the group that is the session of each, itself where none is.
        group_pairs: pairs of a group in an epoch, at most; None: all.
        user_pairs: pairs of a user in an epoch, at most.
    """

    def __init__(
        self,
        item: np.ndarray,
        weight: np.ndarray,
        partners: np.ndarray,
        starts: np.ndarray,
        owner: np.ndarray,
        session: np.ndarray,
        group_pairs: int | None,
        user_pairs: int,
    ):
        self.item, self.weight, self.starts, self.session = item, weight, starts, session.astype(np.int32)
        self.before = _summed(partners)  # (E + 1,) pairs of the events before each
        self.sizes = self.before[starts[1:]] - self.before[starts[:-1]]  # (G,) pairs of each group
        taken = self.sizes if group_pairs is None else np.minimum(self.sizes, group_pairs)
        self.taken_before = _summed(taken)  # (G + 1,) pairs taken of the groups before each
        self.taken = taken
        first = np.flatnonzero(np.diff(owner, prepend=-1))  # (U,) the first group of each user
        self.user_start = self.taken_before[first]
        self.user_total = np.diff(np.append(self.user_start, self.taken_before[-1]))
        self.examples_before = _summed(np.minimum(self.user_total, user_pairs))  # (U + 1,)
        self.user_pairs = user_pairs

    @property
    def num_examples(self) -> int:
        """Pairs of one epoch."""
        return int(self.examples_before[-1])

    @property
    def paired_items(self) -> np.ndarray:
        """Tokens of the items that are in a group with another event."""
        return np.unique(self.item[np.repeat(self.sizes > 0, np.diff(self.starts))])

    def draw(self, examples: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(B,) the two events of each example, and their group.

        An example below the caps is always the same pair; one of a user or of a group with more pairs is any of them.
        """
        user = np.searchsorted(self.examples_before, examples, "right") - 1
        total = self.user_total[user]
        place = np.where(
            total > self.user_pairs, rng.integers(0, np.maximum(total, 1)), examples - self.examples_before[user]
        )
        place = place + self.user_start[user]
        group = np.searchsorted(self.taken_before, place, "right") - 1
        size = self.sizes[group]
        pair = np.where(
            size > self.taken[group], rng.integers(0, np.maximum(size, 1)), place - self.taken_before[group]
        )
        pair = pair + self.before[self.starts[group]]
        first = np.searchsorted(self.before, pair, "right") - 1
        return first, first + 1 + pair - self.before[first], group


def together(
    histories: Histories, timestamp: np.ndarray, session_gap: float, pairs_from: str, group_pairs: int, user_pairs: int
) -> Pairs:
    """The pairs of different items of a session, of a basket, or (`pairs_from=both`) of either.

    Args:
        timestamp: (E,) of the histories, milliseconds.
        session_gap: minutes.
    """
    row, weight = histories.row_of_event, event_weights(histories)
    session, basket = sessions(row, timestamp, session_gap), sessions(row, timestamp, 0)
    counts = weight > 0
    parts = []
    if pairs_from != "baskets":
        parts.append(_distinct(histories.item, weight, session, counts))
    if pairs_from == "both":  # the pairs of a basket that is a whole session are those of the session
        counts &= np.bincount(session)[session] != np.bincount(basket)[basket] if len(row) else False
    if pairs_from != "sessions":
        parts.append(_distinct(histories.item, weight, basket, counts))
    event, weight, first = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    owner = row[event]
    if len(parts) > 1:
        order = np.argsort(owner, kind="stable")  # a user's sessions, then his baskets
        event, weight, first, owner = event[order], weight[order], first[order], owner[order]
    starts = np.append(np.flatnonzero(first), len(event)).astype(np.int64)
    partners = np.repeat(starts[1:], np.diff(starts)) - 1 - np.arange(len(event))
    groups, whole = starts[:-1], np.arange(len(starts) - 1)
    if len(parts) > 1:  # of a user's groups in one session, the first is the session
        _, head, place = np.unique(session[event[groups]], return_index=True, return_inverse=True)
        whole = head[place]
    return Pairs(histories.item[event], weight, partners, starts, owner[groups], whole, group_pairs, user_pairs)


def _distinct(
    item: np.ndarray, weight: np.ndarray, group: np.ndarray, counts: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An event of each item of each group, group after group; the item's largest weight there; and whether it is the
    first of its group. Only events that count are looked at."""
    event = np.flatnonzero(counts)
    key = group[event] * (int(item.max(initial=0)) + 1) + item[event]
    order = np.argsort(key, kind="stable")
    key, event = key[order], event[order]
    new = np.flatnonzero(np.diff(key, prepend=-1))
    heaviest = np.maximum.reduceat(weight[event], new) if len(new) else weight[:0]
    event = event[new]
    return event, heaviest, np.diff(group[event], prepend=-1) != 0


def neighbours(histories: Histories, window: int, user_pairs: int) -> Pairs:
    """The pairs of an event and the `window` ones that follow it in the history."""
    weight = event_weights(histories)
    counts = weight > 0
    starts = _summed(counts)[histories.offsets]
    ends = np.repeat(starts[1:], np.diff(starts))
    partners = np.minimum(ends - 1 - np.arange(len(ends)), window)
    each = np.arange(len(histories))
    return Pairs(histories.item[counts], weight[counts], partners, starts, each, each, None, user_pairs)


def _summed(counts: np.ndarray) -> np.ndarray:
    """(n + 1,) int64: the sum of all counts before each place, and of all."""
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
