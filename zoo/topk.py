"""Exact top-k of scores and of inner products, in one stated order: higher score first, then smaller token.

An inner product here is the correctly rounded one (summed in float64, rounded to float32), so that equal vectors tie
exactly and neither the BLAS, nor its threads, nor the size of a batch changes a list. The float32 product only finds
the candidates, with its worst rounding error as a margin.

Legend: n queries, b queries of a block, V tokens, C candidate items, D width, K list length, E flat entries.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from threadpoolctl import ThreadpoolController

from zoo.data.dataset import DataError
from zoo.data.histories import Histories
from zoo.data.vocabulary import NUM_SPECIALS, PAD

BLOCK = 512  # queries of one thread's block; with TILE, a block of scores stays in the cache
TILE = 2048
GROUP = 16  # columns of which the best is looked at first
PAIRS = 4096  # pairs whose exact products are made at once

Flat = tuple[np.ndarray, np.ndarray, np.ndarray]  # (E,) rows of a block, columns, scores


def top_of_scores(scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The best `k` tokens of each row of a dense score matrix.

    Special tokens and entries of -inf (excluded items) are never returned; a row with fewer candidates than `k`
    is filled with token 0 and score -inf at its end.

    Args:
        scores: (n, V) float.
        k: list length, at least 1.

    Returns:
        tokens (n, K) int32 and scores (n, K), ordered by (-score, token).

    Raises:
        DataError: a score is NaN or +inf.
    """
    real = scores[:, NUM_SPECIALS:]
    size = real.shape[1]
    if not real.size:
        return np.full((len(real), k), PAD, np.int32), np.full((len(real), k), -np.inf, scores.dtype)
    if not (real.max(axis=1) < np.inf).all():  # the maximum of a row with a NaN is NaN
        raise DataError("the model gives a score that is NaN or infinite; it has diverged: train it again")
    floor = _reached(real, min(k, size))
    # Of the flat array: `nonzero` of two dimensions takes three times as long.
    row, column = np.divmod(np.flatnonzero((real >= floor) & (real > -np.inf)), size)
    return _ordered(*_padded(row, column + NUM_SPECIALS, real[row, column], len(real)), k)


def _reached(scores: np.ndarray, k: int) -> np.ndarray:
    """(n, 1) a score that at least `k` of each row (n, V) reach, and few others.

    The k-th best of the maxima of groups; a partition of whole rows is ten times slower, and most of an evaluation.
    """
    size = scores.shape[1]
    groups = max(size // GROUP, 4 * k)  # column c is of group c % groups
    if groups < size:
        best = scores[:, :groups].copy()
        for start in range(groups, size, groups):
            part = scores[:, start : start + groups]
            np.maximum(best[:, : part.shape[1]], part, out=best[:, : part.shape[1]])
        scores, size = best, groups
    return np.partition(scores, size - k, axis=1)[:, size - k, None]


def top_k(
    queries: np.ndarray,
    items: np.ndarray,
    k: int,
    exclude: Histories | None = None,
    allowed: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The `k` tokens with the largest inner products: one search of an `InnerProductIndex`."""
    return InnerProductIndex(items, allowed).search(queries, k, exclude)


class InnerProductIndex:
    """Exact maximum-inner-product search.

    Blocks of scores are made by matrix products small enough to stay in the cache; of each only the few scores above
    the running k-th best of their query are looked at again. Long vectors come first, for they are often among the
    best, then fewer are, and where no later one is long enough for anybody's list the search ends.

    Args:
        items: (V, D) float32, a vector per token, specials included; they are never found.
        allowed: (V,) bool, tokens that may be found; None: all.

    Raises:
        DataError: a vector is not finite.
    """

    def __init__(self, items: np.ndarray, allowed: np.ndarray | None = None):
        candidate = np.ones(len(items), bool) if allowed is None else allowed.copy()
        candidate[:NUM_SPECIALS] = False
        tokens = np.flatnonzero(candidate).astype(np.int32)
        norms = _norms(items)[tokens]
        order = np.argsort(-norms)
        self.tokens, self.norms = tokens[order], norms[order]  # (C,) of each column
        self.column = np.full(len(items), -1, np.int32)  # (V,) inverse of `tokens`
        self.column[self.tokens] = np.arange(len(self.tokens), dtype=np.int32)
        self.items = np.asarray(items, np.float32)[self.tokens]  # (C, D)
        self.blas = ThreadpoolController()  # the threads are ours: a BLAS that adds its own is ten times slower

    def search(self, queries: np.ndarray, k: int, exclude: Histories | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The best `k` tokens of each query.

        Args:
            queries: (n, D) float32.
            k: list length, at least 1.
            exclude: n histories whose items are not found.

        Returns:
            tokens (n, K) int32 and scores (n, K) float32 as `top_of_scores` gives them.
        """
        queries = np.ascontiguousarray(queries, np.float32)
        norms, single = _norms(queries), np.finfo(np.float32)
        # A float32 product is wrong by at most `bound`, so the better of two items may look worse by twice that.
        bound = (queries.shape[1] + 4) * (2.0**-24 * norms * self.norms.max(initial=0.0) + single.tiny * (norms > 0))
        if not (bound < single.max * 2.0**-24).all():
            raise DataError("a user's or item's vector is not finite; the model has diverged: train it again")
        tokens = np.full((len(queries), k), PAD, np.int32)
        scores = np.full((len(queries), k), -np.inf, np.float32)
        threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        tile = max(TILE, 4 * k)  # the first one must say well what is among the best
        size = max(1, min(BLOCK * TILE // tile, -(-len(queries) // threads)))

        def fill(start: int) -> None:
            block = slice(start, min(start + size, len(queries)))
            hidden = self._hidden(exclude, block)
            tokens[block], scores[block] = self._search(queries[block], k, tile, norms[block], 2 * bound[block], hidden)

        with self.blas.limit(limits=1, user_api="blas"), ThreadPoolExecutor(threads) as pool:
            list(pool.map(fill, range(0, len(queries), size)))
        return tokens, scores

    def _hidden(self, exclude: Histories | None, block: slice) -> tuple[np.ndarray, np.ndarray]:
        """(E,) rows of the block and columns that its queries may not find, in order of the columns."""
        if exclude is None:
            return np.zeros(0, np.int64), np.zeros(0, np.int32)
        part = exclude.take(block)
        row, column = part.row_of_event, self.column[part.item]
        row, column = row[column >= 0], column[column >= 0]
        order = np.argsort(column, kind="stable")
        return row[order], column[order]

    def _search(
        self,
        queries: np.ndarray,
        k: int,
        tile: int,
        norms: np.ndarray,
        margin: np.ndarray,
        hidden: tuple[np.ndarray, np.ndarray],
    ) -> tuple[np.ndarray, np.ndarray]:
        """Best tokens and their scores, (b, K) each, for one block of queries; PAD and -inf where there is none."""
        size, count = len(queries), len(self.items)
        product = np.empty(size * min(tile, count), np.float32)
        above = np.zeros(-(-product.size // 8) * 8, bool)
        floor = np.full(size, -np.inf, np.float32)  # what a score must reach to be looked at again
        kept: Flat = (np.zeros(0, np.int16), np.zeros(0, np.int64), np.zeros(0, np.float32))
        pending, num_pending = [kept], 0
        for start in range(0, count, tile):
            if (norms * self.norms[start] < floor).all():
                break
            stop = min(start + tile, count)
            scores = product[: size * (stop - start)].reshape(size, -1)
            np.matmul(queries, self.items[start:stop].T, out=scores)
            here = slice(*np.searchsorted(hidden[1], (start, stop)))
            scores[hidden[0][here], hidden[1][here] - start] = -np.inf
            if start == 0:
                floor = _floor(scores, k, margin)
            flat = _above(scores, np.nextafter(floor, -np.inf), above)
            row = flat // (stop - start)
            pending.append((row.astype(np.int16), flat - row * (stop - start) + start, scores.reshape(-1)[flat]))
            num_pending += len(flat)
            if num_pending > k * size:
                kept, floor = _pruned(pending, k, margin)
                if len(kept[0]) > 2 * k * size:  # ties abound: settle them now, and keep no more than the lists
                    found, exact = self._settled(kept, queries, k)
                    row, place = np.nonzero(exact > -np.inf)
                    kept = row.astype(np.int16), self.column[found[row, place]].astype(np.int64), exact[row, place]
                pending, num_pending = [kept], 0
        return self._settled(_pruned(pending, k, margin)[0], queries, k)

    def _settled(self, kept: Flat, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The best tokens and scores (b, K) of the kept entries, by their exact products."""
        row, column, _ = kept
        wide = queries.astype(np.float64)
        exact = np.empty(len(row), np.float32)
        for start in range(0, len(row), PAIRS):
            part = slice(start, start + PAIRS)
            exact[part] = np.einsum("ed,ed->e", wide[row[part]], self.items[column[part]], dtype=np.float64)
        return _ordered(*_padded(row, self.tokens[column], exact, len(queries)), k)


def _floor(scores: np.ndarray, k: int, margin: np.ndarray) -> np.ndarray:
    """(b,) the k-th best of each row less the margin; -inf where there are fewer."""
    if scores.shape[1] < k:
        return np.full(len(scores), -np.inf, np.float32)
    return (np.partition(scores, scores.shape[1] - k, axis=1)[:, -k] - margin).astype(np.float32)


def _above(scores: np.ndarray, floor: np.ndarray, above: np.ndarray) -> np.ndarray:
    """(E,) flat positions of the scores above their row's floor. They are few: eight are looked at at once."""
    eights = above[: -(-scores.size // 8) * 8]  # `above` is scratch
    eights[scores.size :] = False
    np.greater(scores, floor[:, None], out=eights[: scores.size].reshape(scores.shape))
    word = np.flatnonzero(eights.view(np.uint64) != 0)
    which, byte = np.nonzero(eights.reshape(-1, 8)[word])
    return word[which] * 8 + byte


def _pruned(parts: list[Flat], k: int, margin: np.ndarray) -> tuple[Flat, np.ndarray]:
    """The entries of `parts` that may still be among the best of their row, and the new floor."""
    row, column, score = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    order = np.argsort(row, kind="stable")
    row, column, score = row[order], column[order], score[order]
    floor = _floor(_padded(row, column, score, len(margin))[1], k, margin)
    keep = score >= floor[row]
    return (row[keep], column[keep], score[keep]), floor


def _padded(row: np.ndarray, token: np.ndarray, score: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Flat entries, sorted by row, as tokens (PAD on padding) and scores (-inf on padding), (size, most entries)."""
    counts = np.bincount(row, minlength=size)
    place = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    tokens = np.full((size, counts.max(initial=0)), PAD, np.int32)
    scores = np.full(tokens.shape, -np.inf, score.dtype)
    tokens[row, place] = token
    scores[row, place] = score
    return tokens, scores


def _ordered(tokens: np.ndarray, scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The first k of each row by (-score, token); filled with PAD and -inf up to k."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, : k + 1]
    best = np.take_along_axis(scores, order, axis=1)
    tied = ((best[:, 1:] == best[:, :-1]) & (best[:, 1:] > -np.inf)).any(axis=1)  # few, as a rule
    order[tied] = np.lexsort((tokens[tied], -scores[tied]))[:, : k + 1]
    order = order[:, :k]
    fill = ((0, 0), (0, k - order.shape[1]))
    tokens = np.pad(np.take_along_axis(tokens, order, axis=1), fill, constant_values=PAD)
    return tokens, np.pad(np.take_along_axis(scores, order, axis=1), fill, constant_values=-np.inf)


def _norms(vectors: np.ndarray) -> np.ndarray:
    """(n,) float64 Euclidean norms."""
    return np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64))
