"""What the distance between two events adds to the logit of one seeing the other.

Legend: H heads, B batch, M looking events, L events looked at.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from zoo import backends
from zoo.layers.embedding import given


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
