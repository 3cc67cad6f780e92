"""An encoder of events, which look where they are let: positions, blocks, norms.

Legend: R rows, L slots of a row, D width, T wanted slots.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import keras

from zoo.layers.dropout import Dropout
from zoo.layers.embedding import IndexEmbedding
from zoo.layers.gelu import gelu
from zoo.layers.normalize import LayerNorm
from zoo.layers.relative_bias import DistanceBias
from zoo.layers.transformer import TransformerBlock


class Encoder(keras.layers.Layer):
    """(R, L, D) events -> (R, L, D) states: what BERT4Rec and `cross_domain` read sequences with. The input is normed.

    Args:
        dim: D.
        max_length: of a sequence.
        num_blocks, num_heads, expansion: of the blocks, see `TransformerBlock`.
        dropout: of input, branches and networks.
        attention_dropout, kind: of the blocks.
        relative_bias: learn what the distance between events adds to their attention, see `DistanceBias`.
        last_norm: of the states, after the last block.
    """

    def __init__(
        self,
        dim: int,
        max_length: int,
        num_blocks: int,
        num_heads: int,
        expansion: int,
        dropout: float = 0.0,
        relative_bias: bool = False,
        attention_dropout: float = 0.0,
        kind: str = "pre_norm",
        last_norm: bool = True,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        start = keras.initializers.RandomNormal(stddev=0.02)
        self.position = IndexEmbedding(max_length, dim, start, name="position")
        self.input_norm = LayerNorm(name="input_norm")
        self.drop = Dropout(dropout)
        distances = partial(DistanceBias, max_length, num_heads, two_sided=True, decay=True, name="by_distance")
        self.blocks = [
            TransformerBlock(
                dim,
                num_heads,
                expansion,
                gelu,
                dropout,
                attention_dropout,
                kind,
                by_distance=distances() if relative_bias else None,
                mixing=True,
                name=f"block_{i}",
            )
            for i in range(num_blocks)
        ]
        self.norm = LayerNorm(name="norm") if last_norm else None

    def call(
        self, events: Any, position: Any, bias: Any, gaps: bool = False, wanted: Any = None, training: bool = False
    ) -> Any:
        """`position` (R, L) is the place of each event in its sequence; `bias` is as in `SelfAttention`.

        With `gaps`, what follows each other in a sequence does not lie in slots that follow each other. Of `wanted`
        slots (T,), counted through all rows, the states are (T, D).
        """
        x = self.drop(self.input_norm(events + self.position(position)), training=training)
        for block in self.blocks:
            last = block is self.blocks[-1]
            x = block(x, bias, position if gaps else None, wanted if last else None, training=training)
        return x if self.norm is None else self.norm(x)
