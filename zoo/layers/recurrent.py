"""Recurrent layers over packed rows.

Legend: R rows, L slots of a row, D width of the input, H width of the state.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


class GRU(keras.layers.Layer):
    """Gated recurrent unit: (R, L, D) -> (R, L, H), whose state begins anew where it is told to.

    The cell of PyTorch and cuDNN, whose reset gate acts on the product (`reset_after` of Keras):

        r, z = sigmoid(x W + b + h U + c),  n = tanh(x W + b + r (h U + c)),  h' = (1 - z) n + z h

    The gradient is written by hand: on the way back there is one product a slot, and that of U is a single one at the
    end. PyTorch, which would remember every operation of every slot, is several times faster for it, and TensorFlow
    can compile it. The recurrence is in float32 whatever the precision.

    Args:
        units: H.

    Call arguments:
        x: (R, L, D).
        keep: (R, L) 0 where the state before the slot is forgotten, else 1.
        start: (R, H) the state before the first slot; zeros where it is not given.
    """

    def __init__(self, units: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.units = units

    def build(self, input_shape: Any) -> None:
        """Creates the weights, gates in the order r, z, n; each gate uniform within +-sqrt(6 / (inputs + H))."""
        shapes = {"kernel": input_shape[-1], "recurrent_kernel": self.units}
        for name, inputs in shapes.items():
            bound = (6 / (inputs + self.units)) ** 0.5
            uniform = keras.initializers.RandomUniform(-bound, bound)
            setattr(self, name, self.add_weight(shape=(inputs, 3 * self.units), initializer=uniform, name=name))
        self.bias = self.add_weight(shape=(3 * self.units,), initializer="zeros", name="bias")
        self.recurrent_bias = self.add_weight(shape=(3 * self.units,), initializer="zeros", name="recurrent_bias")

    def call(self, x: Any, keep: Any, start: Any = None) -> Any:
        gates = ops.cast(ops.matmul(x, self.kernel) + self.bias, "float32")
        gates = ops.transpose(gates, (1, 0, 2))  # (L, R, 3 H)
        if start is None:
            start = ops.zeros_like(gates[0, :, : self.units])
        keep = ops.cast(ops.transpose(keep), "float32")[:, :, None]  # (L, R, 1)
        kernel, bias = (ops.cast(w, "float32") for w in (self.recurrent_kernel, self.recurrent_bias))
        states = ops.custom_gradient(_gru)(gates, keep, ops.cast(start, "float32"), kernel, bias)
        return ops.cast(ops.transpose(states, (1, 0, 2)), self.compute_dtype)


def _gru(gates: Any, keep: Any, start: Any, kernel: Any, bias: Any) -> tuple[Any, Any]:
    """States (L, R, H) of the inputs' part `gates` (L, R, 3 H), and the function of their gradient."""
    width = kernel.shape[0]

    def cell(before, gate, product):
        reset_update = ops.sigmoid(gate[..., : 2 * width] + product[..., : 2 * width])
        reset, update = reset_update[..., :width], reset_update[..., width:]
        new = ops.tanh(gate[..., 2 * width :] + reset * product[..., 2 * width :])
        return reset, update, new, new + update * (before - new)

    def forward(state, slot):
        gate, kept = slot
        before = kept * state
        state = cell(before, gate, ops.matmul(before, kernel) + bias)[-1]
        return state, state

    states = ops.scan(forward, start, (gates, keep))[1]

    def gradient(*args, upstream=None):
        upstream = args[0] if upstream is None else upstream
        # All that is known before the way back is computed for all slots at once.
        before = keep * ops.concatenate([start[None], states[:-1]], axis=0)
        product = ops.matmul(before, kernel) + bias
        reset, update, new, _ = cell(before, gates, product)
        by_new = (1 - update) * (1 - ops.square(new))
        by_reset = by_new * product[..., 2 * width :] * reset * (1 - reset)
        by_update = (before - new) * update * (1 - update)
        by_product = ops.concatenate([by_reset, by_update, by_new * reset], axis=-1)  # d state / d product
        back = ops.transpose(kernel)

        def backward(later, slot):
            above, through, share, kept = slot
            total = above + later
            tripled = ops.concatenate([total, total, total], axis=-1)
            return kept * (total * through + ops.matmul(tripled * share, back)), total

        first, total = ops.scan(backward, ops.zeros_like(start), (upstream, update, by_product, keep), reverse=True)
        of_product = ops.concatenate([total, total, total], axis=-1) * by_product
        of_gates = ops.concatenate([of_product[..., : 2 * width], total * by_new], axis=-1)
        flat = ops.reshape(of_product, (-1, 3 * width))
        of_kernel = ops.matmul(ops.transpose(ops.reshape(before, (-1, width))), flat)
        return of_gates, None, first, of_kernel, ops.sum(flat, axis=0)

    return states, gradient


class Memory(keras.layers.Layer):
    """What the rows of a batch remember of the batch before. No weight: it is neither trained nor saved."""

    def read(self, rows: int, width: int) -> Any:
        """(rows, width) what was written last; zeros at first."""
        if not self.built:
            self.state = self.add_weight(shape=(rows, width), initializer="zeros", trainable=False, name="state")
            self.built = True
        return ops.copy(self.state)  # PyTorch writes in place, and the way back needs what was read

    def write(self, state: Any) -> None:
        """Remembers `state` (rows, width); no gradient flows back into the batch that wrote it."""
        self.state.assign(ops.stop_gradient(state))

    def save_own_variables(self, store: Any) -> None:
        """Saves nothing."""

    def load_own_variables(self, store: Any) -> None:
        """Loads nothing."""
