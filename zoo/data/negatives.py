"""Negatives: items that a user is not known to like, and how likely each was to be drawn."""

from __future__ import annotations

import numpy as np

from zoo.data.catalogue import Catalogue
from zoo.data.histories import Histories
from zoo.data.vocabulary import NUM_SPECIALS, PAD

MAX_ROUNDS = 12  # redraws before a user's remaining negatives are drawn from the list of what is left


class KnownPairs:
    """Who did what: the set of (user token, item token) of some histories, asked by the million.

    Attributes:
        keys: (K,) distinct user * V + item, ascending.
        user, item: (K,) the two halves of each key.
    """

    def __init__(self, histories: Histories, num_items: int):
        self.num_items = num_items
        users = np.repeat(histories.user, histories.lengths).astype(np.int64)
        keys = np.sort(users * num_items + histories.item)  # sort and compare: many times faster than np.unique
        self.keys = keys[np.append(True, keys[1:] != keys[:-1])] if len(keys) else keys
        self.user, self.item = (half.astype(np.int32) for half in np.divmod(self.keys, num_items))

    def contains(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Whether each pair is known; the arguments broadcast."""
        wanted = np.asarray(users, np.int64) * self.num_items + items
        if not len(self.keys):
            return np.zeros(wanted.shape, bool)
        place = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
        return self.keys[place] == wanted

    def items(self, user: int) -> np.ndarray:
        """Distinct items of one user, ascending."""
        return self.item[slice(*np.searchsorted(self.user, [user, user + 1]))]

    def among(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """(B, C) bool: whether user b is known to like item c; one pass over the users' items, not over the pairs."""
        candidates, column_of = np.unique(items, return_inverse=True)
        place = np.full(self.num_items, -1, np.int32)
        place[candidates] = np.arange(len(candidates))
        first, last = np.searchsorted(self.user, users), np.searchsorted(self.user, users, side="right")
        counts = last - first
        begins = np.cumsum(counts) - counts
        flat = np.repeat(first - begins, counts) + np.arange(counts.sum())
        column = place[self.item[flat]]
        hits = np.flatnonzero(column >= 0)
        table = np.zeros((len(users), len(candidates)), bool)
        table[np.searchsorted(begins, hits, side="right") - 1, column[hits]] = True
        return table[:, column_of]


class NegativeSampler:
    """Draws trained items in proportion to popularity^power, never one that the user is known to like.

    Attributes:
        known: the pairs that are never drawn.
        log_p: (V,) log-probability of each token before known pairs are left out; -inf for those never drawn.
    """

    def __init__(self, histories: Histories, catalogue: Catalogue, power: float = 0.0):
        """Prepares the distribution.

        Args:
            histories: what users are known to like.
            catalogue: counts of the training events; items without one are never drawn.
            power: 0 draws all trained items alike, 1 as often as they occur, 0.75 as word2vec does.
        """
        size = catalogue.items.size
        self.known = KnownPairs(histories, size)
        weights = np.zeros(size)
        trained = np.arange(NUM_SPECIALS, catalogue.items.trained_size)
        weights[trained] = np.maximum(catalogue.item_counts[trained], 1).astype(np.float64) ** power
        self._p = weights / weights.sum()
        self._cumulative = np.cumsum(self._p[trained])
        self._uniform = power == 0
        self._trained = trained
        with np.errstate(divide="ignore"):
            self.log_p = np.log(self._p)
        mass = np.bincount(self.known.user, self._p[self.known.item], minlength=catalogue.users.size)
        self._free = np.maximum(1.0 - mass, 0.0)  # (users,) probability that a draw is no known pair

    def draw(self, users: np.ndarray, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Independent negatives of each user.

        Args:
            users: (B,) tokens.
            count: negatives a user.
            rng: source of randomness.

        Returns:
            items (B, count) int32, and log_q (B, count) float32, the exact log-probability of each draw:
            log p(item) - log(1 - p(known items of the user)). A user who knows every trained item has no
            negative: PAD with log_q 0.
        """
        users = np.repeat(np.asarray(users), count)
        items = self.draw_any(len(users), rng)
        open_rows = np.flatnonzero(self.known.contains(users, items))
        for _ in range(MAX_ROUNDS):
            if not len(open_rows):
                break
            items[open_rows] = self.draw_any(len(open_rows), rng)
            open_rows = open_rows[self.known.contains(users[open_rows], items[open_rows])]
        exhausted = np.zeros(len(users), bool)
        for user in np.unique(users[open_rows]):  # people who know nearly everything: few, drawn from what is left
            rows = open_rows[users[open_rows] == user]
            left = np.setdiff1d(self._trained, self.known.items(user), assume_unique=True)
            if len(left):
                items[rows] = rng.choice(left, size=len(rows), p=self._p[left] / self._p[left].sum())
            else:
                exhausted[rows] = True
        log_q = np.zeros(len(users), np.float32)
        real = ~exhausted
        log_q[real] = self.log_p[items[real]] - np.log(np.maximum(self._free[users[real]], 1e-12))
        items[exhausted] = PAD
        return items.reshape(-1, count), log_q.reshape(-1, count)

    def draw_any(self, size: int, rng: np.random.Generator) -> np.ndarray:
        """(size,) int32 trained items, drawn for nobody in particular: some may be known to one user or another."""
        if self._uniform:
            return rng.integers(self._trained[0], self._trained[-1] + 1, size=size, dtype=np.int32)
        place = np.searchsorted(self._cumulative, rng.random(size) * self._cumulative[-1], side="right")
        return self._trained[np.minimum(place, len(self._trained) - 1)].astype(np.int32)


def touched(catalogue: Catalogue, *tokens: np.ndarray) -> np.ndarray:
    """int32 trained items among `tokens` in ascending order, each once, after as many PAD as make the length the same
    for all arrays of these sizes."""
    size = min(sum(part.size for part in tokens), catalogue.items.trained_size)
    found = np.unique(np.concatenate([part.ravel() for part in tokens]))
    found = found[(found >= NUM_SPECIALS) & (found < catalogue.items.trained_size)]
    return np.concatenate([np.full(size - len(found), PAD), found]).astype(np.int32)


def log_popularity(catalogue: Catalogue) -> np.ndarray:
    """(V,) float32 log-probability that a training event drawn at random is of each item: the log-q of in-batch
    negatives. An item without events counts as one."""
    counts = np.maximum(catalogue.item_counts, 1)
    return np.log(counts / max(int(catalogue.item_counts.sum()), 1)).astype(np.float32)
