"""Embeddings: tables of rows, whose gradients are dense on every backend.

Adam would otherwise take larger steps on TensorFlow for rows that repeat in a batch, because it squares sparse
gradients before summing them.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from zoo import backends
from zoo.data.vocabulary import NUM_SPECIALS


class IdEmbedding(keras.layers.Layer):
    """(...) tokens -> (..., D). Special and untrained tokens are zero vectors, so that features must speak for them.

    Args:
        trained_size: tokens from NUM_SPECIALS up to this have a row.
        dim: D.
        initializer: of the rows.
    """

    def __init__(self, trained_size: int, dim: int, initializer: Any = "uniform", **kwargs: Any):
        super().__init__(**kwargs)
        self.trained_size = trained_size
        self.dim = dim
        self.initializer = keras.initializers.get(initializer)

    def build(self, input_shape: Any) -> None:
        """Creates the table."""
        self.table = self.add_weight(
            shape=(self.trained_size, self.dim), initializer=self.initializer, name="embeddings"
        )

    def call(self, tokens: Any) -> Any:
        trained = ops.logical_and(ops.greater_equal(tokens, NUM_SPECIALS), ops.less(tokens, self.trained_size))
        rows = ops.take(backends.dense_gradient(self.table), ops.where(trained, tokens, 0), axis=0)
        return ops.cast(rows * ops.cast(trained, rows.dtype)[..., None], self.compute_dtype)

    def rows(self) -> Any:
        """(trained_size, D) the whole table, that of the special tokens included."""
        return ops.cast(backends.dense_gradient(self.table), self.compute_dtype)


class IndexEmbedding(keras.layers.Layer):
    """(...) integers from 0 -> (..., D): positions, actions, buckets of time.

    Args:
        size: number of rows.
        dim: D.
        initializer: of the rows.
    """

    def __init__(self, size: int, dim: int, initializer: Any = "uniform", **kwargs: Any):
        super().__init__(**kwargs)
        self.size = size
        self.dim = dim
        self.initializer = keras.initializers.get(initializer)

    def build(self, input_shape: Any) -> None:
        """Creates the table."""
        self.table = self.add_weight(shape=(self.size, self.dim), initializer=self.initializer, name="embeddings")

    def call(self, index: Any) -> Any:
        return ops.cast(ops.take(backends.dense_gradient(self.table), index, axis=0), self.compute_dtype)
