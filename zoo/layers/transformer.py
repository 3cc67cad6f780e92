"""Transformer blocks: what SASRec, eSASRec and BERT4Rec stack.

Legend: R rows, L slots of a row, D width, T wanted slots.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from zoo.layers.attention import SelfAttention, at_slots, small
from zoo.layers.dropout import Dropout
from zoo.layers.normalize import LayerNorm
from zoo.layers.relative_bias import DistanceBias


class TransformerBlock(keras.layers.Layer):
    """Attention, then a position-wise network, each in a residual branch with dropout.

    kind
      `pre_norm`   x + attention(norm(x)); x + network(norm(x)) (Xiong et al. 2020).
      `post_norm`  norm(x + attention(x)); norm(x + network(x)) (Vaswani et al. 2017; BERT4Rec).
      `original`   y = norm(x), z = norm(y + attention of y to x), z + network(z): what is added to is normed, keys and
                   values are not (Kang & McAuley 2018).
      `ligr`       as `pre_norm`, each branch times a gate sigmoid(W x + b) of the input before its norm, and a SwiGLU
                   network without bias (LiGR, Borisyuk et al. 2025; eSASRec).

    Args:
        dim: D.
        num_heads: of the attention.
        expansion: width of the network, in D.
        activation: of the network; `ligr` has its own.
        dropout: of both branches, and within the network; `original` has none after its attention.
        attention_dropout: of the attention weights.
        kind: see above.
        by_distance, mixing: as in `SelfAttention`.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        expansion: int = 1,
        activation: str | Callable[[Any], Any] = "relu",
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        kind: str = "pre_norm",
        by_distance: DistanceBias | None = None,
        mixing: bool = False,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.kind = kind
        self.attention = SelfAttention(dim, num_heads, attention_dropout, by_distance, mixing, name="attention")
        self.attention_norm = LayerNorm(name="attention_norm")
        self.network_norm = LayerNorm(name="network_norm")
        gated = kind == "ligr"
        self.inner = keras.layers.Dense(
            (2 if gated else 1) * expansion * dim,
            activation=None if gated else activation,
            use_bias=not gated,
            kernel_initializer=small(),
            name="inner",
        )
        self.outer = keras.layers.Dense(dim, use_bias=not gated, kernel_initializer=small(), name="outer")
        self.drop = Dropout(dropout)
        self.gates = []
        if gated:
            self.gates = [keras.layers.Dense(dim, activation="sigmoid", name=f"gate_{i}") for i in range(2)]

    def call(self, x: Any, bias: Any, place: Any = None, wanted: Any = None, training: bool = False) -> Any:
        """(R, L, D) -> (R, L, D), or the `wanted` alone, (T, D); `bias`, `place`, `wanted` as in `SelfAttention`."""

        def attend(y, seen):
            return self.attention(y, seen, bias, place, wanted, training=training)

        return self._residual(x, attend, training, wanted)

    def extend(self, x: Any, position: Any, cache: tuple[Any, Any]) -> tuple[Any, tuple[Any, Any]]:
        """`call` for events appended to sequences, as in `SelfAttention.extend`."""

        def attend(y, seen):
            nonlocal cache
            result, cache = self.attention.extend(y, seen, position, cache)
            return result

        return self._residual(x, attend, False), cache

    def _residual(self, x: Any, attention: Callable[[Any, Any], Any], training: bool, wanted: Any = None) -> Any:
        def kept(y):
            return y if wanted is None else at_slots(y, wanted)

        if self.kind == "post_norm":
            x = self.attention_norm(kept(x) + self.drop(attention(x, x), training=training))
            return self.network_norm(x + self.drop(self._network(x, training), training=training))
        normed = self.attention_norm(x)
        if self.kind == "original":
            x = self.network_norm(kept(normed) + attention(normed, x))
            return x + self.drop(self._network(x, training), training=training)
        attended = self.drop(attention(normed, normed), training=training)
        x = kept(x)
        x = x + (self.gates[0](x) * attended if self.gates else attended)
        mixed = self.drop(self._network(self.network_norm(x), training), training=training)
        return x + (self.gates[1](x) * mixed if self.gates else mixed)

    def _network(self, x: Any, training: bool) -> Any:
        x = self.inner(x)
        if self.kind == "ligr":
            gate, x = ops.split(x, 2, axis=-1)
            x = ops.silu(gate) * x
        return self.outer(self.drop(x, training=training))
