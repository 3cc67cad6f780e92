"""Exact top-k of scores and of inner products, in one stated order: higher score first, then smaller token.

Legend: n queries, V items, D width, K list length.
"""

from __future__ import annotations

import numpy as np

from zoo.data.vocabulary import NUM_SPECIALS, PAD


def top_of_scores(scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The best `k` tokens of each row of a dense score matrix.

    Special tokens and entries of -inf (excluded items) are never returned; a row with fewer candidates than `k`
    is filled with token 0 and score -inf at its end.

    Args:
        scores: (n, V) float.
        k: list length, at least 1.

    Returns:
        tokens (n, k) int32 and scores (n, k), ordered by (-score, token).

    Raises:
        ValueError: a score is NaN.
    """
    real = scores[:, NUM_SPECIALS:]
    rows, size = real.shape
    tokens = np.full((rows, k), PAD, np.int32)
    best = np.full((rows, k), -np.inf, scores.dtype)
    if not rows or not size:
        return tokens, best
    width = min(k, size)
    cut = np.partition(real, size - width, axis=1)[:, size - width, None]  # NaN sorts last: it shows in the maximum
    if np.isnan(real.max(axis=1)).any():
        raise ValueError("a score is NaN; there is no order to rank by")
    row, column = np.nonzero((real >= cut) & (real > -np.inf))
    value = real[row, column]
    order = np.lexsort((column, -value, row))
    row, column, value = row[order], column[order], value[order]
    place = np.arange(len(row)) - np.searchsorted(row, np.arange(rows))[row]
    keep = place < width
    tokens[row[keep], place[keep]] = column[keep] + NUM_SPECIALS
    best[row[keep], place[keep]] = value[keep]
    return tokens, best
