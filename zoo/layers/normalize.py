"""Normalisation with finite gradients everywhere."""

from __future__ import annotations

from typing import Any

from keras import ops


def l2_normalize(vectors: Any, epsilon: float = 1e-12) -> Any:
    """Vectors of length one; the epsilon stands inside the root, so that the gradient at zero is finite."""
    return vectors * ops.rsqrt(ops.sum(ops.square(vectors), axis=-1, keepdims=True) + epsilon)
