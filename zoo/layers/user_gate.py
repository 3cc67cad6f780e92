"""Gates: how what users are like is mixed with what they did last.

Legend: T wanted states, L slots of a sequence, D width.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from zoo.layers.attention import HIDDEN
from zoo.layers.dropout import Dropout
from zoo.layers.pooling import weighted_mean


class StateGate(keras.layers.Layer):
    """state + G * specific + (1 - G) * cross, G = sigmoid(W [specific, cross, state]); all (T, D).

    Nothing learns how strong the vectors come in. They know the events that the state is trained on better than they
    know new ones, and whatever learned it from these would trust them too much.

    Args:
        dim: D.
        dropout: share of the states that training leaves as they are.
    """

    def __init__(self, dim: int, dropout: float = 0.0, **kwargs: Any):
        super().__init__(**kwargs)
        self.gate = keras.layers.Dense(dim, "sigmoid", name="gate")
        self.drop = Dropout(dropout)

    def call(self, state: Any, specific: Any, cross: Any, training: bool = False) -> Any:
        gate = self.gate(ops.concatenate([specific, cross, state], axis=-1))
        user = gate * specific + (1.0 - gate) * cross
        shown = ops.greater(self.drop(ops.ones_like(user[:, :1]), training=training), 0)
        return state + user * ops.cast(shown, user.dtype)  # as strong as in serving: not scaled up


class SequenceGate(keras.layers.Layer):
    """The published code's: the mean over the sequence of G * A + (1 - G) * B.

    A is the specific vector times the share of attention that each event of the sequence pays to it, B the same of the
    cross vector, and G = sigmoid(W [A, B, 0]): of the sequence nothing is left but weights.
    """

    def __init__(self, dim: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.gate = keras.layers.Dense(dim, "sigmoid", name="gate")

    def call(self, sequence: Any, seen: Any, specific: Any, cross: Any) -> Any:
        """(T, D) of states (T, L, D), which of them count (T, L), and vectors of users (T, D)."""
        mixed = []
        for vector in (specific, cross):
            logits = ops.where(seen, ops.sum(sequence * vector[:, None], axis=-1), HIDDEN)
            mixed.append(ops.softmax(logits, axis=-1)[..., None] * vector[:, None])  # (T, L, D)
        gate = self.gate(ops.concatenate([*mixed, ops.zeros_like(sequence)], axis=-1))
        both = gate * mixed[0] + (1.0 - gate) * mixed[1]
        return weighted_mean(both, ops.cast(seen, both.dtype))
