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
    """Over the last axis (Ba et al. 2016); there and back in one loop each where that is faster (`backends.fused`)."""

    def __init__(self, **kwargs: Any):
        super().__init__(epsilon=EPSILON, **kwargs)

    def call(self, x: Any) -> Any:
        weights = [ops.cast(weight, x.dtype) for weight in (self.gamma, self.beta) if weight is not None]
        return ops.cast(backends.fused_gradient(_normed)(x, *weights), self.compute_dtype)


def _normed(x: Any, *weights: Any) -> tuple[Any, Any]:
    def gradient(*args, upstream=None):
        return _norm_gradient(args[0] if upstream is None else upstream, x, *weights)

    return _norm(x, *weights), gradient


@backends.fused
def _norm(x: Any, *weights: Any) -> Any:
    return ops.layer_normalization(x, *weights, epsilon=EPSILON)


@backends.fused
def _norm_gradient(upstream: Any, x: Any, *weights: Any) -> tuple[Any, ...]:
    dtype, x, upstream = x.dtype, ops.cast(x, "float32"), ops.cast(upstream, "float32")
    mean, variance = ops.moments(x, axes=[-1], keepdims=True)
    factor = ops.rsqrt(variance + EPSILON)
    normed = (x - mean) * factor
    rows = list(range(len(x.shape) - 1))
    of_weights = [ops.sum(upstream * normed, axis=rows), ops.sum(upstream, axis=rows)][: len(weights)]
    if weights:
        upstream = upstream * ops.cast(weights[0], "float32")
    along = ops.mean(upstream * normed, axis=-1, keepdims=True)
    of_x = factor * (upstream - ops.mean(upstream, axis=-1, keepdims=True) - normed * along)
    return tuple(ops.cast(part, dtype) for part in (of_x, *of_weights))
