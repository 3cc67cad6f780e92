"""Histories as sparse matrices, a row each: what counting models work on.

An event counts with its weight (the column `weight`, made by data.action_weights), or 1; one of weight 0 does not
count. Special tokens are left out. Legend: n histories, E events, V item tokens.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sparse

from zoo.data.histories import Histories
from zoo.data.vocabulary import NUM_SPECIALS


def event_weights(histories: Histories) -> np.ndarray:
    """(E,) float32 what each event counts in training; 0 for special tokens."""
    weights = histories.columns.get("weight", np.ones(len(histories.item), np.float32))
    return np.where(histories.item >= NUM_SPECIALS, weights, 0).astype(np.float32)


def interaction_matrix(histories: Histories, num_tokens: int) -> sparse.csr_matrix:
    """(n, V) float32: the largest weight of a history's events of an item, however often it occurs."""
    row, weight = histories.row_of_event, event_weights(histories)
    order = np.lexsort((weight, histories.item, row))
    row, item, weight = row[order], histories.item[order], weight[order]
    last = np.append((row[1:] != row[:-1]) | (item[1:] != item[:-1]), True)[: len(row)] & (weight > 0)
    shape = (len(histories), num_tokens)
    return sparse.csr_matrix((weight[last], (row[last], item[last])), shape=shape, dtype=np.float32)


def recency_matrix(histories: Histories, num_tokens: int, last: int, decay: float) -> sparse.csr_matrix:
    """(n, V) float32: the sum of weight * rank^-decay over an item's events among the `last` ones.

    The most recent event has rank 1. An event that does not count keeps its rank.
    """
    rank = np.repeat(histories.offsets[1:], histories.lengths) - np.arange(histories.offsets[-1])
    weight = event_weights(histories) * np.where(rank <= last, rank.astype(np.float64) ** -decay, 0.0)
    counts = weight > 0
    entries = (weight[counts].astype(np.float32), (histories.row_of_event[counts], histories.item[counts]))
    return sparse.csr_matrix(entries, shape=(len(histories), num_tokens), dtype=np.float32)
