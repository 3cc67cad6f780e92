"""Embedding of ids: a row per trained token, and nothing for everybody else."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from zoo import backends
from zoo.data.vocabulary import NUM_SPECIALS


class IdEmbedding(keras.layers.Layer):
    """(...) tokens -> (..., D). Special and untrained tokens are zero vectors, so that features must speak for them.

    Gradients are dense on every backend: Adam would otherwise take larger steps on TensorFlow for rows that repeat in
    a batch, because it squares sparse gradients before summing them.

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
