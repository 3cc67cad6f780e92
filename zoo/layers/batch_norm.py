"""Batch normalisation whose statistics are averaged as the weights are."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


class BatchNorm(keras.layers.Layer):
    """(B, D) -> (B, D): in training by moments of the batch, otherwise by running ones (Ioffe & Szegedy 2015).

    The running statistics start as the first batch's, as Keras' average of weights starts with the first weights. With
    the average's own momentum they are averaged over the same steps with the same shares. Where what is normalised is
    linear in the weights, its mean under the averaged weights is then the running mean, and no pass over the data has
    to find it anew; its variance is at most the running one. Behind a table and its map, a product of weights, both are
    near.

    Args:
        momentum: share of the running statistics that remains after a batch.
        epsilon: added to the variance.
    """

    def __init__(self, momentum: float, epsilon: float = 1e-5, **kwargs: Any):
        super().__init__(**kwargs)
        self.momentum = momentum
        self.epsilon = epsilon

    def build(self, input_shape: Any) -> None:
        """Creates scale and shift, and the running statistics."""
        shape = (input_shape[-1],)
        self.scale = self.add_weight(shape=shape, initializer="ones", name="scale")
        self.shift = self.add_weight(shape=shape, initializer="zeros", name="shift")
        self.mean = self.add_weight(shape=shape, initializer="zeros", trainable=False, name="mean")
        self.variance = self.add_weight(shape=shape, initializer="ones", trainable=False, name="variance")
        self.begun = self.add_weight(shape=(), initializer="zeros", trainable=False, name="begun")

    def call(self, x: Any, training: bool = False) -> Any:
        if training:
            mean, variance = ops.moments(ops.cast(x, "float32"), axes=[0])
            remains = self.momentum * ops.convert_to_tensor(self.begun)
            for running, value in ((self.mean, mean), (self.variance, variance)):
                running.assign(remains * running + (1 - remains) * ops.stop_gradient(value))
            self.begun.assign(1.0)
        else:
            mean, variance = ops.convert_to_tensor(self.mean), ops.convert_to_tensor(self.variance)
        factor = ops.rsqrt(variance + self.epsilon) * self.scale
        return ops.cast((x - mean) * factor + self.shift, self.compute_dtype)
