"""Features of an entity as one vector: the mean of its bag's embeddings plus a projection of its numbers."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from zoo import backends
from zoo.data.features import FeatureTable
from zoo.data.vocabulary import PAD
from zoo.layers.embedding import known


class FeatureEncoder(keras.layers.Layer):
    """(...) tokens -> (..., D), from the features of each token alone; zero for a token without any.

    The table lies in non-trainable weights, on the device and in the weights file: a run needs no other copy.

    Args:
        features: a row per token of the vocabulary.
        dim: D.
    """

    def __init__(self, features: FeatureTable, dim: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.features = features
        self.dim = dim
        self.projection = keras.layers.Dense(dim, use_bias=False, name="numbers") if features.numbers.shape[1] else None

    def build(self, input_shape: Any) -> None:
        """Creates the tables."""
        self.bags = known(self, self.features.bags, "bags")
        self.values = self.add_weight(shape=(self.features.num_tokens, self.dim), initializer="uniform", name="values")
        if self.projection is not None:
            self.numbers = known(self, self.features.numbers, "number_table")

    def call(self, tokens: Any) -> Any:
        bags = ops.take(self.bags, tokens, axis=0)  # (..., M)
        real = ops.cast(ops.not_equal(bags, PAD), self.compute_dtype)
        values = ops.cast(ops.take(backends.dense_gradient(self.values), bags, axis=0), self.compute_dtype)
        count = ops.maximum(ops.sum(real, axis=-1, keepdims=True), 1.0)
        vector = ops.sum(values * real[..., None], axis=-2) / count  # (..., D)
        if self.projection is not None:
            vector = vector + self.projection(ops.take(self.numbers, tokens, axis=0))
        return vector
