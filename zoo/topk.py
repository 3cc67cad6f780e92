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
PAIRS = 4096  # pairs whose exact products are made at once

Flat = tuple[np.ndarray, np.ndarray, np.ndarray]  # (E,) rows of a block, columns ascending within a row, scores


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
    width = min(k, size)
    floor = np.partition(real, size - width, axis=1)[:, size - width, None]
    row, column = np.nonzero((real >= floor) & (real > -np.inf))
    return _ordered(*_padded(row, column + NUM_SPECIALS, real[row, column], len(real)), k)


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
    the running k-th best of their query are looked at again.

    Args:
        items: (V, D) float32, a vector per token, specials included; they are never found.
        allowed: (V,) bool, tokens that may be found; None: all.

    Raises:
        DataError: a vector is not finite.
    """

    def __init__(self, items: np.ndarray, allowed: np.ndarray | None = None):
        candidate = np.ones(len(items), bool) if allowed is None else allowed.copy()
        candidate[:NUM_SPECIALS] = False
        self.tokens = np.flatnonzero(candidate).astype(np.int32)  # (C,)
        self.column = np.full(len(items), -1, np.int32)  # (V,) inverse of `tokens`
        self.column[self.tokens] = np.arange(len(self.tokens), dtype=np.int32)
        whole = len(self.tokens) == len(items) - NUM_SPECIALS
        chosen = items[NUM_SPECIALS:] if whole else items[self.tokens]  # a view where nothing is left out
        self.items = np.ascontiguousarray(chosen, np.float32)  # (C, D)
        self.largest_norm = float(_norms(self.items).max(initial=0.0))
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
        bound = (queries.shape[1] + 4) * (2.0**-24 * norms * self.largest_norm + single.tiny * (norms > 0))
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
            columns, scores[block] = _search(queries[block], self.items, k, tile, 2 * bound[block], hidden)
            found = scores[block] > -np.inf
            tokens[block][found] = self.tokens[columns[found]]

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
    queries: np.ndarray, items: np.ndarray, k: int, tile: int, margin: np.ndarray, hidden: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Best columns and their scores, (b, K) each, for one block of queries; column 0 and -inf where there is none."""
    size = len(queries)
    product = np.empty(size * min(tile, len(items)), np.float32)
    above = np.zeros(-(-product.size // 8) * 8, bool)
    floor = np.full(size, -np.inf, np.float32)  # what a score must exceed to be looked at again
    kept: Flat = (np.zeros(0, np.int16), np.zeros(0, np.int64), np.zeros(0, np.float32))
    pending, num_pending = [kept], 0
    for start in range(0, len(items), tile):
        stop = min(start + tile, len(items))
        scores = product[: size * (stop - start)].reshape(size, -1)
        np.matmul(queries, items[start:stop].T, out=scores)
        here = slice(*np.searchsorted(hidden[1], (start, stop)))
        scores[hidden[0][here], hidden[1][here] - start] = -np.inf
        if start == 0:
            floor = _floor(scores, k, margin)
            flat = _above(scores, np.nextafter(floor, -np.inf), above)  # ties within the first tile stay in
        else:
            flat = _above(scores, floor, above)  # a later item that only ties loses to the smaller token
        row = flat // (stop - start)
        pending.append((row.astype(np.int16), flat - row * (stop - start) + start, scores.reshape(-1)[flat]))
        num_pending += len(flat)
        if num_pending > k * size or stop == len(items):
            kept, floor = _pruned(pending, k, margin)
            if len(kept[0]) > 2 * k * size:  # ties abound: settle them now, and keep no more than the lists
                kept = _flat(*_settled(kept, queries, items, k))
            pending, num_pending = [kept], 0
    return _settled(kept, queries, items, k)


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


def _settled(kept: Flat, queries: np.ndarray, items: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The best columns and scores (b, K) of the kept entries, by their exact products."""
    row, column, _ = kept
    wide = queries.astype(np.float64)
    exact = np.empty(len(row), np.float32)
    for start in range(0, len(row), PAIRS):
        part = slice(start, start + PAIRS)
        exact[part] = np.einsum("ed,ed->e", wide[row[part]], items[column[part]], dtype=np.float64)
    return _ordered(*_padded(row, column, exact, len(queries)), k)


def _flat(columns: np.ndarray, scores: np.ndarray) -> Flat:
    """Lists back to flat entries, columns ascending within a row."""
    order = np.argsort(columns, axis=1, kind="stable")
    columns, scores = np.take_along_axis(columns, order, axis=1), np.take_along_axis(scores, order, axis=1)
    row, place = np.nonzero(scores > -np.inf)
    return row.astype(np.int16), columns[row, place], scores[row, place]


def _padded(row: np.ndarray, column: np.ndarray, score: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Flat entries, sorted by row, as columns (0 on padding) and scores (-inf on padding), (size, most entries)."""
    counts = np.bincount(row, minlength=size)
    place = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    columns = np.zeros((size, counts.max(initial=0)), np.int32)
    scores = np.full(columns.shape, -np.inf, score.dtype)
    columns[row, place] = column
    scores[row, place] = score
    return columns, scores


def _ordered(columns: np.ndarray, scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The first k of each row by (-score, column), where the columns ascend; filled with 0 and -inf up to k."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    fill = ((0, 0), (0, k - order.shape[1]))
    columns = np.pad(np.take_along_axis(columns, order, axis=1), fill)
    return columns, np.pad(np.take_along_axis(scores, order, axis=1), fill, constant_values=-np.inf)


def _norms(vectors: np.ndarray) -> np.ndarray:
    """(n,) float64 Euclidean norms."""
    return np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64))
