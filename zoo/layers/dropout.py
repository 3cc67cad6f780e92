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
        return backends.fused_gradient(self._drop)(x, self.seed_generator.next())

    def softmax(self, logits: Any, training: bool = False) -> Any:
        """The softmax of logits (..., L), which loses weights as what is called loses numbers."""
        if not training or not self.dropped:
            return ops.softmax(logits, axis=-1)
        return backends.fused_gradient(self._softmax)(logits, self.seed_generator.next())

    def _drop(self, x: Any, seed: Any) -> tuple[Any, Any]:
        """What is left of x, and the function of its gradient, which keeps a byte for each number."""
        left, kept = _left(x, seed, self.dropped)

        def gradient(*args, upstream=None):
            return _scaled(args[0] if upstream is None else upstream, kept, self.dropped), None

        return left, gradient

    def _softmax(self, logits: Any, seed: Any) -> tuple[Any, Any]:
        """The same of a softmax: its gradient needs the weights and what is left of them, but not which are."""
        weights = ops.softmax(logits, axis=-1)
        left, _ = _left(weights, seed, self.dropped)

        def gradient(*args, upstream=None):
            moved = left * (args[0] if upstream is None else upstream)
            return moved - weights * ops.sum(moved, axis=-1, keepdims=True), None

        return left, gradient


@backends.fused
def _left(x: Any, seed: Any, dropped: Any) -> tuple[Any, Any]:
    kept = ops.greater_equal(backends.random_bytes(ops.shape(x), seed), ops.cast(dropped, "uint8"))
    return _scaled(x, kept, dropped), kept


@backends.fused
def _scaled(x: Any, kept: Any, dropped: Any) -> Any:
    return x * (ops.cast(kept, x.dtype) * ops.cast(256 / (256 - ops.cast(dropped, "float32")), x.dtype))
