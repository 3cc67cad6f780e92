"""Texts of codes to vectors and back: the two halves of an autoencoder.

Legend: N texts, K codes of a text, C tokens of codes, D width of a vector, H width of a state.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from zoo.data.vocabulary import PAD
from zoo.layers.embedding import IndexEmbedding
from zoo.layers.lstm import BidirectionalLSTM


class TextEncoder(keras.layers.Layer):
    """(..., K) tokens -> (..., D) in (-1, 1): a bidirectional LSTM of two layers, read at both ends.

    Args:
        num_tokens: C.
        dim: D.
        units: H of each direction, and the width of the codes' embeddings.
    """

    def __init__(self, num_tokens: int, dim: int, units: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.dim = dim
        self.embedding = IndexEmbedding(num_tokens, units, name="codes")
        self.lower, self.upper = BidirectionalLSTM(units, name="lower"), BidirectionalLSTM(units, name="upper")
        self.output_layer = keras.layers.Dense(dim, "tanh", name="output")

    def call(self, tokens: Any) -> Any:
        length = tokens.shape[-1]
        flat = ops.reshape(tokens, (-1, length))
        real = ops.not_equal(flat, PAD)
        states, _ = self.lower(self.embedding(flat), real)
        _, ends = self.upper(states, real)
        return ops.reshape(self.output_layer(ends), (*ops.shape(tokens)[:-1], self.dim))


class TextDecoder(keras.layers.Layer):
    """(N, D) vectors and (N, K) where there are codes -> (N, K, C) logits: the vector at every step of two such layers.

    Args:
        num_tokens: C.
        units: H of each direction.
    """

    def __init__(self, num_tokens: int, units: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.lower, self.upper = BidirectionalLSTM(units, name="lower"), BidirectionalLSTM(units, name="upper")
        self.output_layer = keras.layers.Dense(num_tokens, name="output")

    def call(self, vectors: Any, real: Any) -> Any:
        repeated = ops.repeat(vectors[:, None], real.shape[1], axis=1)
        states, _ = self.lower(repeated, real)
        states, _ = self.upper(states, real)
        return self.output_layer(states)
