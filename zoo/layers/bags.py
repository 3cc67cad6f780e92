"""Bags of ids, and of vectors, with explicit weights.

Legend: B batch, T types of bags, S members of a bag, V ids, D width of a row, H width of the result.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from zoo import backends


class DenseByType(keras.layers.Layer):
    """(B, T, D) -> (B, T * H): a linear map and a bias of its own for each of the T types.

    Args:
        units: H.
    """

    def __init__(self, units: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.units = units

    def build(self, x_shape: Any) -> None:
        """Creates the maps, uniform within +-1 / sqrt(D)."""
        bound = x_shape[-1] ** -0.5
        uniform = keras.initializers.RandomUniform(-bound, bound)
        self.kernel = self.add_weight(shape=(*x_shape[1:], self.units), initializer=uniform, name="kernel")
        self.bias = self.add_weight(shape=(x_shape[1], self.units), initializer="zeros", name="bias")

    def call(self, x: Any) -> Any:
        kernel, bias = (ops.cast(weight, self.compute_dtype) for weight in (self.kernel, self.bias))
        mapped = ops.einsum("btd,tdh->bth", ops.cast(x, self.compute_dtype), kernel) + bias
        return ops.reshape(mapped, (-1, kernel.shape[0] * self.units))


class BagEmbedding(keras.layers.Layer):
    """(B, T, S) ids and their weights -> (B, T * H): weighted sums of rows of one table, then a linear map per type.

    Weights that sum to one make it a mean; an id of weight 0, padding, counts for nothing.

    Args:
        size: V.
        dim: D.
        units: H.
    """

    def __init__(self, size: int, dim: int, units: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.size = size
        self.dim = dim
        self.maps = DenseByType(units, name="maps")

    def build(self, ids_shape: Any, weights_shape: Any = None) -> None:
        """Creates the table."""
        start = keras.initializers.RandomNormal(stddev=self.dim**-0.5)
        self.table = self.add_weight(shape=(self.size, self.dim), initializer=start, name="embeddings")

    def call(self, ids: Any, weights: Any) -> Any:
        rows = ops.cast(ops.take(backends.dense_gradient(self.table), ids, axis=0), self.compute_dtype)
        return self.maps(ops.matmul(ops.cast(weights, self.compute_dtype)[:, :, None], rows)[:, :, 0])


class WeightedPooling(keras.layers.Layer):
    """(B, S, D) vectors and (B, S) weights -> (B, D): their weighted mean, zero where all weights are.

    Args:
        attention: multiply the weights by exp(<query, vector> / sqrt(D)), of a learned query, before they are made to
            sum to one.
    """

    def __init__(self, attention: bool = False, **kwargs: Any):
        super().__init__(**kwargs)
        self.attention = attention

    def build(self, vectors_shape: Any, weights_shape: Any = None) -> None:
        """Creates the query: at first all count by their weights alone."""
        if self.attention:
            self.query = self.add_weight(shape=(vectors_shape[-1], 1), initializer="zeros", name="query")

    def call(self, vectors: Any, weights: Any) -> Any:
        weights = ops.cast(weights, self.compute_dtype)
        if self.attention:
            logits = ops.matmul(vectors, ops.cast(self.query, self.compute_dtype))[..., 0] / vectors.shape[-1] ** 0.5
            logits = ops.where(weights > 0, logits, -1e4)
            weights = weights * ops.exp(logits - ops.max(logits, axis=1, keepdims=True))
        total = ops.sum(weights, axis=1, keepdims=True)
        weights = weights / ops.where(total > 0, total, 1.0)
        return ops.matmul(weights[:, None], vectors)[:, 0]
