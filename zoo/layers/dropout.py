"""Dropout whose random numbers cost little."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from zoo import backends


class Dropout(keras.layers.Layer):
    """In training, sets a share of the numbers to zero and scales up the others, so that their mean remains.

    `keras.layers.Dropout` draws 32 random bits for each number, which takes longer than the attention it is applied to;
    eight will do.

    Args:
        rate: share set to zero, rounded to 256ths, but not to none.
    """

    def __init__(self, rate: float, **kwargs: Any):
        super().__init__(**kwargs)
        if not 0 <= rate < 1:
            raise ValueError(f"rate={rate}: a share from 0 to below 1")
        self.dropped = min(max(round(256 * rate), 1), 255) if rate else 0  # of 256
        self.seed_generator = keras.random.SeedGenerator() if rate else None
        self.built = True  # also where nobody calls it: an unbuilt layer has Keras trace the whole model at each step

    def call(self, x: Any, training: bool = False) -> Any:
        if not training or not self.dropped:
            return x
        kept = ops.greater_equal(backends.random_bytes(ops.shape(x), self.seed_generator.next()), self.dropped)
        return x * (ops.cast(kept, x.dtype) * (256 / (256 - self.dropped)))
