"""Self-attention over packed rows: an event sees its own sequence, and in a causal layer nothing later.

Legend: R rows, L slots of a row, D width, H heads.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

HIDDEN = -1e9  # logit of what may not be seen; finite, so that no row of weights can become NaN


def visible(segment: Any, causal: bool) -> Any:
    """(R, L, L) bool: whether slot i may see slot j: same sequence and, if causal, not later.

    Every slot sees itself, so that no row of the attention is empty.

    Args:
        segment: (R, L) which sequence of the row each slot belongs to.
    """
    same = ops.equal(segment[:, :, None], segment[:, None, :])
    if not causal:
        return same
    place = ops.arange(ops.shape(segment)[1], dtype="int32")
    return ops.logical_and(same, ops.greater_equal(place[:, None], place[None, :]))


class SelfAttention(keras.layers.Layer):
    """Multi-head scaled dot-product attention (Vaswani et al. 2017, section 3.2).

    Args:
        dim: D, a multiple of `num_heads`.
        num_heads: H.
        dropout: of the attention weights.
    """

    def __init__(self, dim: int, num_heads: int, dropout: float = 0.0, **kwargs: Any):
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.query_key_value = keras.layers.Dense(3 * dim, name="query_key_value")
        self.output_dense = keras.layers.Dense(dim, name="output")
        self.drop = keras.layers.Dropout(dropout)

    def call(self, x: Any, bias: Any, training: bool = False) -> Any:
        """(R, L, D) -> (R, L, D).

        Args:
            bias: (R, 1, L, L) added to the logits: 0 where slot i sees slot j, HIDDEN where it may not.
        """
        query, key, value = (self._heads(part) for part in ops.split(self.query_key_value(x), 3, axis=-1))
        logits = ops.matmul(query, ops.transpose(key, (0, 1, 3, 2))) * query.shape[-1] ** -0.5 + bias
        weights = self.drop(ops.softmax(logits, axis=-1), training=training)  # (R, H, L, L)
        mixed = ops.transpose(ops.matmul(weights, value), (0, 2, 1, 3))
        return self.output_dense(ops.reshape(mixed, ops.shape(x)))

    def _heads(self, x: Any) -> Any:
        shape = ops.shape(x)
        split = ops.reshape(x, (shape[0], shape[1], self.num_heads, x.shape[-1] // self.num_heads))
        return ops.transpose(split, (0, 2, 1, 3))  # (R, H, L, D / H)
