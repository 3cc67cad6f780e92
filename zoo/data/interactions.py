"""Histories as sparse matrices, a row each: what counting models work on. n histories, V item tokens."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sparse

from zoo.data.histories import Histories
from zoo.data.vocabulary import NUM_SPECIALS


def interaction_matrix(histories: Histories, num_tokens: int) -> sparse.csr_matrix:
    """(n, V) float32: 1 where a history holds an item, however often. Special tokens are left out."""
    matrix = _matrix(histories, np.ones(len(histories.item), np.float32), num_tokens)
    matrix.data[:] = 1.0
    return matrix


def recency_matrix(histories: Histories, num_tokens: int, last: int, decay: float) -> sparse.csr_matrix:
    """(n, V) float32: the sum of rank^-decay over an item's events among the last `last`, the most recent at rank 1.

    Special tokens are left out, but an event of an unknown item keeps its rank.
    """
    rank = np.repeat(histories.offsets[1:], histories.lengths) - np.arange(histories.offsets[-1])
    weight = np.where(rank <= last, rank.astype(np.float64) ** -decay, 0.0).astype(np.float32)
    return _matrix(histories, weight, num_tokens)


def _matrix(histories: Histories, weight: np.ndarray, num_tokens: int) -> sparse.csr_matrix:
    keep = (histories.item >= NUM_SPECIALS) & (weight > 0)
    kept = np.concatenate([[0], np.cumsum(keep)])[histories.offsets]
    matrix = sparse.csr_matrix(
        (weight[keep], histories.item[keep], kept), shape=(len(histories), num_tokens), dtype=np.float32
    )
    matrix.sum_duplicates()
    return matrix
