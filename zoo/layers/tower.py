"""Tower: joins the parts known of an entity (id, features, history) into one vector."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from config import ConfigError
from zoo.layers.dropout import Dropout


class Tower(keras.layers.Layer):
    """k parts (B, D) -> (B, D): their sum, and on top of it a network over their concatenation.

    Args:
        hidden_units: widths of the network's ReLU layers; empty for none.
        num_crosses: `keras_rs.layers.FeatureCross` layers (DCN-v2) in front of them.
        dropout: after each hidden layer.
        part_dropout: probability in training that a part is hidden, where there are others: each learns to speak
            for an entity of which nothing else is known. What remains is not scaled up: a hidden part is a missing one.
    """

    def __init__(
        self,
        hidden_units: tuple[int, ...] = (),
        num_crosses: int = 0,
        dropout: float = 0.0,
        part_dropout: float = 0.0,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.crosses = [_feature_cross(name=f"cross_{i}") for i in range(num_crosses)]
        self.hidden = [
            keras.layers.Dense(units, activation="relu", name=f"hidden_{i}") for i, units in enumerate(hidden_units)
        ]
        self.drop = Dropout(dropout)
        self.part_dropout = part_dropout
        self.seed_generator = keras.random.SeedGenerator() if part_dropout else None

    def build(self, input_shape: Any) -> None:
        """Creates what maps the network's width back to that of the parts."""
        self.output_layer = None
        if self.crosses or self.hidden:
            self.output_layer = keras.layers.Dense(input_shape[0][-1], name="output")

    def call(self, parts: list[Any], training: bool = False) -> Any:
        if training and self.part_dropout and len(parts) > 1:
            parts = [self._hidden_at_random(part) for part in parts]
        total = sum(parts[1:], start=parts[0])
        if self.output_layer is None:
            return total
        x = first = ops.concatenate(parts, axis=-1)
        for cross in self.crosses:
            x = cross(first, x)
        for layer in self.hidden:
            x = self.drop(layer(x), training=training)
        return total + self.output_layer(x)

    def _hidden_at_random(self, part: Any) -> Any:
        shown = keras.random.uniform((ops.shape(part)[0], 1), seed=self.seed_generator) >= self.part_dropout
        return part * ops.cast(shown, part.dtype)


def _feature_cross(**kwargs: Any) -> keras.layers.Layer:
    try:
        import keras_rs
    except ImportError:
        raise ConfigError(
            "model.num_crosses needs keras_rs: pip install 'keras-rs>=0.4,<0.5', or set it to 0"
        ) from None
    return keras_rs.layers.FeatureCross(**kwargs)
