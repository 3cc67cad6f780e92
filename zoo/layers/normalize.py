"""Normalisation: vectors of length one, with finite gradients everywhere, and of mean 0 and deviation 1."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from zoo import backends

EPSILON = 1e-6  # of LayerNorm, added to the variance


def l2_normalize(vectors: Any, epsilon: float = 1e-12) -> Any:
    """Vectors of length one; the epsilon stands inside the root, so that the gradient at zero is finite."""
    return vectors * ops.rsqrt(ops.sum(ops.square(vectors), axis=-1, keepdims=True) + epsilon)


class LayerNorm(keras.layers.LayerNormalization):
    """Over the last axis (Ba et al. 2016), in one loop where nothing is trained (`backends.fused`)."""

    def __init__(self, **kwargs: Any):
        super().__init__(epsilon=EPSILON, **kwargs)

    def call(self, x: Any, training: bool = False) -> Any:
        if training:
            return super().call(x)
        weights = [weight for weight in (self.gamma, self.beta) if weight is not None]
        return ops.cast(_fused_norm(x, *weights), self.compute_dtype)


def _norm(x: Any, gamma: Any = None, beta: Any = None) -> Any:
    return ops.layer_normalization(x, gamma, beta, epsilon=EPSILON)


_fused_norm = backends.fused(_norm)
