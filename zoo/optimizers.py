"""Optimizers that Keras has not, or has otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from zoo import backends
from zoo.layers.embedding import RowEmbedding


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


class RowAdam(keras.optimizers.Adam):
    """Adam that moves, of the tables of `layers`, the rows of the batch alone; all else as Adam does.

    Exact but for one thing, as PyTorch's SparseAdam: a row that a batch does not touch stands still, and so do its
    moments, where Adam would move it on by what it remembers. Corrections for the first steps count all steps.

    Args:
        layers: whose tables these are.
    """

    def __init__(self, learning_rate: Any, layers: Sequence[RowEmbedding], **kwargs: Any):
        super().__init__(learning_rate, **{"name": "row_adam", **kwargs})
        self._row_layers = list(layers)
        self._tables = {id(layer.table) for layer in layers}

    def build(self, var_list: list[keras.Variable]) -> None:
        """Makes the moments, and remembers which variable is whose step."""
        if self.built:
            return
        super().build(var_list)
        index = self._get_variable_index
        self._layer_of = {index(layer.batch.step): (layer, index(layer.table)) for layer in self._row_layers}

    def apply(self, grads: Sequence[Any], trainable_variables: Sequence[keras.Variable] | None = None) -> None:
        """Leaves the gradients of the tables themselves aside: they are none, or zeros."""
        variables = self._trainable_variables if trainable_variables is None else trainable_variables
        if not self.built:
            self.build(list(variables))
        kept = [(g, v) for g, v in zip(grads, variables, strict=True) if id(v) not in self._tables]
        super().apply(*(list(part) for part in zip(*kept, strict=True)))

    def update_step(self, gradient: Any, variable: keras.Variable, learning_rate: Any) -> None:
        """One step of one variable."""
        found = self._layer_of.get(self._get_variable_index(variable))  # TensorFlow gives its own kind of variable
        if found is None:
            super().update_step(gradient, variable, learning_rate)
            return
        layer, i = found
        first, second, row = self._momentums[i], self._velocities[i], ops.convert_to_tensor(layer.batch.tokens)
        mean, square, values = (backends.read_rows(table, row) for table in (first, second, layer.table))
        mean = mean + (gradient - mean) * (1 - self.beta_1)
        square = square + (ops.square(gradient) - square) * (1 - self.beta_2)
        steps = ops.cast(self.iterations + 1, "float32")
        rate = ops.cast(learning_rate, "float32") * ops.sqrt(1 - ops.power(self.beta_2, steps))
        rate = rate / (1 - ops.power(self.beta_1, steps))
        moved = values - rate * mean / (ops.sqrt(square) + self.epsilon)
        for table, rows in ((first, mean), (second, square), (layer.table, moved)):
            backends.write_rows(table, row, rows)
