"""What the distance between two events adds to the logit of one seeing the other.

Legend: H heads, R rows, M looking events, L events looked at.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from zoo import backends
from zoo.layers.embedding import given


def joined(bias: Any, numbers: Any) -> Any:
    """bias (R, H or 1, M, L) + numbers, (R, H, M, L) or (H, M, L) for all rows.

    The gradient of what all rows share is one product: XLA's sum over a leading axis takes ten times as long on a CPU.
    """
    return bias + numbers if len(numbers.shape) == len(bias.shape) else backends.fused_gradient(_joined)(bias, numbers)


def _joined(bias: Any, numbers: Any) -> tuple[Any, Any]:
    def gradient(*args, upstream=None):
        upstream = args[0] if upstream is None else upstream
        rows = ops.shape(upstream)[0]
        total = ops.matmul(ops.ones((1, rows), upstream.dtype), ops.reshape(upstream, (rows, -1)))
        alike = bias.shape[1] == upstream.shape[1]
        of_bias = upstream if alike else ops.sum(upstream, axis=1, keepdims=True)
        return of_bias, ops.reshape(total, ops.shape(numbers))

    return bias + numbers, gradient


class DistanceBias(keras.layers.Layer):
    """(..., M, L) int32 distances -> (..., H, M, L): a number learned for each distance and head.

    Args:
        reach: distances from 0 to below this have a number of their own; those further away share the last one.
        num_heads: H.
        two_sided: negative distances have numbers, too; else they are read as 0.
        decay: head h starts at -h / 2 log(1 + |distance|), so that after a softmax it weighs what it sees by
            (1 + |distance|)^(-h / 2), as KERPLE does (Chi et al. 2022), and the first head all alike; else at random.
    """

    def __init__(self, reach: int, num_heads: int = 1, two_sided: bool = False, decay: bool = False, **kwargs: Any):
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.decay = decay
        self.low, self.high = (1 - reach if two_sided else 0), reach - 1

    def build(self, distance_shape: Any) -> None:
        """Creates the table, (H, distances)."""
        start: Any = keras.initializers.RandomNormal(stddev=0.02)
        if self.decay:
            slope, distance = np.arange(self.num_heads)[:, None] / 2, np.arange(self.low, self.high + 1)
            start = given(-slope * np.log1p(np.abs(distance)))
        self.table = self.add_weight(shape=(self.num_heads, self.high - self.low + 1), initializer=start, name="table")

    def call(self, distance: Any) -> Any:
        index = ops.clip(distance, self.low, self.high) - self.low
        heads = ops.arange(self.num_heads, dtype="int32")[:, None, None] * self.table.shape[1]
        # Taken as numbers: the gradient of rows is nine times slower on PyTorch.
        numbers = ops.reshape(backends.dense_gradient(self.table), (-1,))
        return ops.cast(ops.take(numbers, index[..., None, :, :] + heads), self.compute_dtype)
