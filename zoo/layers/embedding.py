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
        drop: probability in training that an id is hidden as if it were untrained.
        initializer: of the rows.
    """

    def __init__(self, trained_size: int, dim: int, drop: float = 0.0, initializer: Any = "uniform", **kwargs: Any):
        super().__init__(**kwargs)
        self.trained_size = trained_size
        self.dim = dim
        self.drop = drop
        self.initializer = keras.initializers.get(initializer)
        self.seed_generator = keras.random.SeedGenerator() if drop else None

    def build(self, input_shape: Any = None) -> None:
        """Creates the table."""
        self.table = self.add_weight(
            shape=(self.trained_size, self.dim), initializer=self.initializer, name="embeddings"
        )

    def call(self, tokens: Any, training: bool = False) -> Any:
        trained = ops.logical_and(ops.greater_equal(tokens, NUM_SPECIALS), ops.less(tokens, self.trained_size))
        rows = ops.take(backends.dense_gradient(self.table), ops.where(trained, tokens, 0), axis=0)
        keep = ops.cast(trained, rows.dtype)
        if training and self.drop:
            kept = keras.random.uniform(ops.shape(tokens), seed=self.seed_generator) >= self.drop
            keep = keep * ops.cast(kept, rows.dtype)
        return ops.cast(rows * keep[..., None], self.compute_dtype)
