"""Optimizers that Keras has not, or has otherwise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
        old = [ops.convert_to_tensor(each) for each in (variable, *self.memory(i))]
        moved = self.moved(ops.cast(gradient, variable.dtype), learning_rate, *old, rows=self._is_table[i])
        for each, new in zip((variable, *self.memory(i)), moved, strict=True):
            self.assign(each, new)

    def memory(self, i: int) -> list[keras.Variable]:
        """What is remembered of the i-th variable."""
        return [self._squares[i], *self._moments[i : i + 1]]

    def moved(self, gradient: Any, rate: Any, value: Any, squares: Any, *moment: Any, rows: bool) -> tuple[Any, ...]:
        """The value, and what is remembered of it, after a step; `rows`: those without a gradient stand still."""
        squares = squares + ops.square(gradient)
        step = ops.cast(rate, value.dtype) * gradient * ops.rsqrt(squares + self.epsilon)
        if not moment:
            return value - step, squares
        (before,) = moment
        change = self.momentum * before - step
        if not rows:
            return value + change, squares, change
        touched = ops.any(ops.not_equal(gradient, 0), axis=-1, keepdims=True)
        return value + ops.where(touched, change, 0.0), squares, ops.where(touched, change, before)


class ByRows(keras.optimizers.Optimizer):
    """To be mixed into an optimizer, which then moves, of the tables of `layers`, the rows of the batch alone.

    The optimizer has two methods: `memory(i)` is what it remembers of the i-th variable, and `moved(gradient, rate,
    value, *memory, rows=True)` some rows of both after a step.

    Args:
        layers: whose tables these are.
    """

    memory: Callable[[int], list[keras.Variable]]
    moved: Callable[..., tuple[Any, ...]]

    def __init__(self, learning_rate: Any, layers: Sequence[RowEmbedding], **kwargs: Any):
        super().__init__(learning_rate=learning_rate, **kwargs)
        self._row_layers = list(layers)
        self._tables = {id(layer.table) for layer in layers}
        self._steps = {id(layer.batch.step) for layer in layers}

    def build(self, var_list: list[keras.Variable]) -> None:
        """Makes what is remembered, and notes which variable is whose step."""
        if self.built:
            return
        super().build(var_list)
        index = self._get_variable_index
        self._layer_of = {index(layer.batch.step): (layer, index(layer.table)) for layer in self._row_layers}

    def apply(self, grads: Sequence[Any], trainable_variables: Sequence[keras.Variable] | None = None) -> None:
        """Tells gradients from tokens; gradients of the tables themselves are none, or zeros, and left aside."""
        variables = self._trainable_variables if trainable_variables is None else trainable_variables
        if not self.built:
            self.build(list(variables))
        kept, self._touched = [], {}
        for gradient, variable in zip(grads, variables, strict=True):
            if id(variable) in self._steps:
                self._touched[self._get_variable_index(variable)] = ops.cast(gradient[:, -1], "int32")
                gradient = gradient[:, :-1]
            if id(variable) not in self._tables:
                kept.append((gradient, variable))
        super().apply(*(list(part) for part in zip(*kept, strict=True)))

    def update_step(self, gradient: Any, variable: keras.Variable, learning_rate: Any) -> None:
        """One step of one variable."""
        step = self._get_variable_index(variable)  # TensorFlow gives its own kind of variable
        if step not in self._layer_of:
            super().update_step(gradient, variable, learning_rate)
            return
        (layer, i), touched = self._layer_of[step], self._touched[step]
        tables = [layer.table, *self.memory(i)]
        old = [backends.read_rows(table, touched) for table in tables]
        for table, new in zip(tables, self.moved(gradient, learning_rate, *old, rows=True), strict=True):
            backends.write_rows(table, touched, new)


class RowAdam(ByRows, keras.optimizers.Adam):
    """Adam that moves, of the tables of `layers`, the rows of the batch alone; all else as Adam does.

    Exact but for one thing, as PyTorch's SparseAdam: a row that a batch does not touch stands still, and so do its
    moments, where Adam would move it on by what it remembers. Corrections for the first steps count all steps.
    """

    def memory(self, i: int) -> list[keras.Variable]:
        return [self._momentums[i], self._velocities[i]]

    def moved(self, gradient: Any, rate: Any, *old: Any, rows: bool) -> tuple[Any, ...]:
        value, mean, square = old
        mean = mean + (gradient - mean) * (1 - self.beta_1)
        square = square + (ops.square(gradient) - square) * (1 - self.beta_2)
        steps = ops.cast(self.iterations + 1, "float32")
        rate = ops.cast(rate, "float32") * ops.sqrt(1 - ops.power(self.beta_2, steps))
        rate = rate / (1 - ops.power(self.beta_1, steps))
        return value - rate * mean / (ops.sqrt(square) + self.epsilon), mean, square


class RowAdagrad(ByRows, Adagrad):
    """`Adagrad` that moves, of the tables of `layers`, the rows of the batch alone: what it computes is the same."""


BY_ROWS = {"adam": RowAdam, "adagrad": RowAdagrad}
