"""Pooling of a history into one vector: by weights that are given, or learned by recency and, if wanted, by content.

Legend: B batch, L history, D width, H heads.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from zoo import backends
from zoo.layers.embedding import given


def weighted_mean(vectors: Any, weights: Any) -> Any:
    """(U, D) of (U, G, D) and (U, G)."""
    total = ops.sum(vectors * weights[..., None], axis=1)
    return total / ops.maximum(ops.sum(weights, axis=1), 1.0)[:, None]


def pooled(states: Any, known: Any, last: bool = False) -> Any:
    """(B, M, D) means of those states (B, L, D) that are `known` (B, M, L) bool, or the last of them; 0 of none."""
    if last:
        place = ops.arange(known.shape[-1], dtype="int32")
        latest = ops.max(ops.where(known, place, -1), axis=-1, keepdims=True)
        known = ops.logical_and(known, ops.equal(place, latest))
    share = ops.cast(known, states.dtype)
    return ops.matmul(share, states) / ops.maximum(ops.sum(share, axis=-1, keepdims=True), 1.0)


class RecencyPooling(keras.layers.Layer):
    """(B, L, D) events and (B,) lengths -> (B, H * D): H weighted sums of the last events.

    Head h weighs the event of recency rank r (0: the last one) by a learned w[h, r]. With `attention`, the weights are
    softmax over the history of (log-weight[h, r] + <q[h], event> / sqrt(D)) instead, and sum to one.

    Args:
        num_heads: H.
        max_length: L.
        attention: whether content counts besides recency.
    """

    def __init__(self, num_heads: int, max_length: int, attention: bool = False, **kwargs: Any):
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.max_length = max_length
        self.attention = attention

    def build(self, events_shape: Any, lengths_shape: Any) -> None:
        """Creates the weights: head h starts as a decay (rank + 1)^-(h + 1) / 2."""
        rank = np.arange(1, self.max_length + 1)[:, None]
        decay = -np.log(rank) * (np.arange(self.num_heads) + 1) / 2  # (L, H)
        start = decay if self.attention else np.exp(decay)
        self.by_rank = self.add_weight(
            shape=(self.max_length, self.num_heads), initializer=given(start), name="weight_by_rank"
        )
        if self.attention:
            self.query = self.add_weight(shape=(events_shape[-1], self.num_heads), initializer="zeros", name="query")

    def call(self, events: Any, lengths: Any) -> Any:
        rank = lengths[:, None] - 1 - ops.arange(self.max_length, dtype="int32")[None, :]  # (B, L), < 0 on padding
        real = ops.greater_equal(rank, 0)[:, :, None]
        weights = ops.take(backends.dense_gradient(self.by_rank), ops.maximum(rank, 0), axis=0)  # (B, L, H)
        weights = ops.cast(weights, events.dtype)
        if self.attention:
            weights = weights + ops.matmul(events, ops.cast(self.query, events.dtype)) / events.shape[-1] ** 0.5
            weights = ops.softmax(ops.where(real, weights, -1e4), axis=1)
        weights = ops.where(real, weights, 0.0)
        sums = ops.matmul(ops.transpose(weights, (0, 2, 1)), events)  # (B, H, D)
        return ops.reshape(sums, (-1, self.num_heads * events.shape[-1]))
