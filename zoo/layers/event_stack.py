"""Causal blocks over packed rows of events with times, of one of two kinds, behind one interface.

Legend: R rows, L slots of a row, D width.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from zoo.layers.attention import visible
from zoo.layers.gelu import gelu
from zoo.layers.hstu import HSTUBlock, RelativeBias, time_buckets
from zoo.layers.normalize import LayerNorm
from zoo.layers.transformer import TransformerBlock


class EventStack(keras.layers.Layer):
    """(R, L, D) events -> (R, L, D) states, each of its own sequence up to its own event, and a norm at the end.

    Each head learns what distance and time between two events add to their attention.

    Args:
        kind: `hstu`: blocks of `HSTUBlock`, each with biases of its own; `transformer`: of `TransformerBlock`,
            pre-norm, over one bias.
        dim: D.
        num_blocks, num_heads: of them.
        max_length: of a sequence.
        expansion: width of the transformer's networks, in D.
        dropout: of the branches.
    """

    def __init__(
        self,
        kind: str,
        dim: int,
        num_blocks: int,
        num_heads: int,
        max_length: int,
        expansion: int,
        dropout: float = 0.0,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.bias = None
        names = [f"block_{i}" for i in range(num_blocks)]
        if kind == "hstu":
            width = dim // num_heads
            self.blocks = [
                HSTUBlock(dim, num_heads, width, width, max_length, True, dropout, per_head=True, name=name)
                for name in names
            ]
        else:
            self.bias = RelativeBias(max_length, True, num_heads, name="bias")
            self.blocks = [TransformerBlock(dim, num_heads, expansion, gelu, dropout, name=name) for name in names]
        self.norm = LayerNorm(name="norm")

    def call(self, x: Any, segment: Any, time: Any, training: bool = False) -> Any:
        """`segment` (R, L) is the sequence of each event, `time` (R, L) its seconds, from whatever moment."""
        seen = visible(segment, causal=True)
        place = ops.arange(x.shape[1], dtype="int32")
        distance = place[:, None] - place[None, :]  # slots of a sequence follow each other
        bucket = time_buckets(time, time)
        bias = None if self.bias is None else self.bias(seen, distance, bucket)
        for block in self.blocks:
            if bias is None:
                x = block(x, seen, distance, bucket, training=training)
            else:
                x = block(x, bias, training=training)
        return self.norm(x)
