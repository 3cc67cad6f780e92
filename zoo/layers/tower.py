"""Tower: joins the parts known of an entity (id, features, history) into one vector."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


def l2_normalize(vectors: Any, epsilon: float = 1e-12) -> Any:
    """Vectors of length one; the epsilon stands inside the root, so that the gradient at zero is finite."""
    return vectors * ops.rsqrt(ops.sum(ops.square(vectors), axis=-1, keepdims=True) + epsilon)


class Tower(keras.layers.Layer):
    """k parts (B, D) -> (B, D): their sum, and on top of it a network over their concatenation.

    Args:
        hidden_units: widths of the network's ReLU layers; empty for none.
        num_crosses: `keras_rs.layers.FeatureCross` layers (DCN-v2) in front of them.
        dropout: after each hidden layer.
    """

    def __init__(self, hidden_units: tuple[int, ...] = (), num_crosses: int = 0, dropout: float = 0.0, **kwargs: Any):
        super().__init__(**kwargs)
        self.crosses = [_feature_cross(name=f"cross_{i}") for i in range(num_crosses)]
        self.hidden = [keras.layers.Dense(units, activation="relu") for units in hidden_units]
        self.drop = keras.layers.Dropout(dropout)
        self.output_layer: keras.layers.Dense | None = None

    def build(self, input_shape: Any) -> None:
        """Builds the network for parts of these shapes."""
        dim, width = input_shape[0][-1], sum(shape[-1] for shape in input_shape)
        for cross in self.crosses:
            cross(ops.zeros((1, width)))  # its own `build` leaves the weights to the first call
        for layer in self.hidden:
            layer.build((None, width))
            width = layer.units
        if self.crosses or self.hidden:
            self.output_layer = keras.layers.Dense(dim, name="output")
            self.output_layer.build((None, width))

    def call(self, parts: list[Any], training: bool = False) -> Any:
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        if self.output_layer is None:
            return total
        x = first = ops.concatenate(parts, axis=-1)
        for cross in self.crosses:
            x = cross(first, x)
        for layer in self.hidden:
            x = self.drop(layer(x), training=training)
        return total + self.output_layer(x)


def _feature_cross(**kwargs: Any) -> keras.layers.Layer:
    try:
        import keras_rs
    except ImportError:
        from config import ConfigError

        raise ConfigError(
            "model.num_crosses needs keras_rs: pip install 'keras-rs>=0.4,<0.5', or set it to 0"
        ) from None
    return keras_rs.layers.FeatureCross(**kwargs)
