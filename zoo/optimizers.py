"""Optimizers that Keras has not, or has otherwise."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


class Adagrad(keras.optimizers.Optimizer):
    """Adagrad with momentum, as the official GRU4Rec computes it (PyTorch's Adagrad where momentum is 0).

        a += g^2,  m = momentum m - rate g / sqrt(a + epsilon),  w += m

    The sum of squares starts at zero and epsilon stands inside the root (Keras': 0.1, outside). With momentum, rows of
    an embedding table without a gradient stand still, as with sparse gradients.

    Args:
        momentum: 0 keeps no moment.
        epsilon: added to the sum of squares.
    """

    def __init__(self, learning_rate: Any = 0.05, momentum: float = 0.0, epsilon: float = 1e-6, **kwargs: Any):
        super().__init__(learning_rate=learning_rate, **{"name": "adagrad", **kwargs})
        self.momentum = momentum
        self.epsilon = epsilon

    def build(self, var_list: list[keras.Variable]) -> None:
        """Makes the sums of squares and the moments."""
        if self.built:
            return
        super().build(var_list)
        self._squares = self.add_optimizer_variables(var_list, "sum_of_squares")
        self._moments = self.add_optimizer_variables(var_list, "moment") if self.momentum else []
        self._is_table = ["embedding" in variable.path for variable in var_list]

    def update_step(self, gradient: Any, variable: keras.Variable, learning_rate: Any) -> None:
        """One step of one variable."""
        i = self._get_variable_index(variable)
        gradient = ops.cast(gradient, variable.dtype)
        squares = ops.add(self._squares[i], ops.square(gradient))
        step = ops.cast(learning_rate, variable.dtype) * gradient * ops.rsqrt(squares + self.epsilon)
        self.assign(self._squares[i], squares)
        if not self.momentum:
            self.assign_sub(variable, step)
            return
        before = ops.convert_to_tensor(self._moments[i])
        moment = self.momentum * before - step
        if not self._is_table[i]:
            self.assign(self._moments[i], moment)
            self.assign_add(variable, moment)
            return
        touched = ops.any(ops.not_equal(gradient, 0), axis=-1, keepdims=True)
        self.assign(self._moments[i], ops.where(touched, moment, before))
        self.assign_add(variable, ops.where(touched, moment, 0.0))
