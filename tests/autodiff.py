"""Gradients on whichever backend runs, for tests."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from zoo import backends


def gradients(loss_function: Callable[[], Any], variables: Sequence[keras.Variable]) -> list[np.ndarray]:
    """Gradients of a scalar with respect to `variables`, as arrays; zeros where it does not depend on one."""
    backend = backends.name()
    if backend == "jax":
        import jax

        def loss(values: list[Any]) -> Any:
            with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
                return loss_function()

        found = jax.jit(jax.grad(loss))([variable.value for variable in variables])
    elif backend == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            value = loss_function()
        found = tape.gradient(value, [variable.value for variable in variables], unconnected_gradients="zero")
        found = [tf.convert_to_tensor(gradient) for gradient in found]
    else:
        import torch

        found = torch.autograd.grad(
            loss_function(), [variable.value for variable in variables], allow_unused=True, materialize_grads=True
        )
    return [keras.ops.convert_to_numpy(gradient) for gradient in found]
